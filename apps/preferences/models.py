"""The tables of this app. Addresses and tokens exist as ciphertext (``_ct``) and blind index (``_bi``) only."""

from typing import ClassVar

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Greatest, Now

from apps.channels import Channel
from apps.preferences import profile

CHANNEL_CHOICES = [(channel.value, channel.label) for channel in Channel]


class ClockVersion(models.Func):
    """PostgreSQL's wall clock in µs since 1970 (bigint)."""

    template = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
    arity = 0
    output_field = models.BigIntegerField()


def next_version() -> Greatest:
    """The expression for the version after this one: the clock, or one more if the clock went back.

    Taken from the clock and not counted, so that a number used once never comes back with other content, not
    even after a rollback, after an erased row, or after a restore from an older backup: cached blobs are
    trusted by their version alone."""
    return Greatest(F("version") + 1, ClockVersion())


class OctetLength(models.Transform):
    """``field__octets``: the length of a bytea."""

    lookup_name = "octets"
    function = "octet_length"
    output_field = models.IntegerField()


class JsonType(models.Transform):
    """``field__json_type``: object, array, string, …"""

    lookup_name = "json_type"
    function = "jsonb_typeof"
    output_field = models.TextField()


models.BinaryField.register_lookup(OctetLength)
models.JSONField.register_lookup(JsonType)


def _ciphertext_with_index(name: str) -> Q:
    # The explicit IS NOT NULL matters: a CHECK that comes out as NULL passes.
    is_absent = Q(**{f"{name}_ct__isnull": True, f"{name}_bi__isnull": True})
    return is_absent | Q(**{f"{name}_ct__isnull": False, f"{name}_bi__isnull": False, f"{name}_bi__octets": 32})


class Recipient(models.Model):
    """A person, under the caller's name for them. An erased recipient stays as an empty tombstone, so that
    what was queued for them is recognised, and so that an opt-out outlives erasure and registration anew.

    ``email_set_at`` and ``phone_set_at`` say since when the address is what it is: a bounce of an older
    message must not suppress a newer address."""

    id = models.BigAutoField(primary_key=True)
    user_id = models.CharField(max_length=profile.USER_ID_MAX_LENGTH, db_collation="C")
    version = models.BigIntegerField(db_default=ClockVersion())
    is_opted_out = models.BooleanField("opted out of everything", default=False, db_default=False)
    locale = models.CharField(max_length=profile.LOCALE_MAX_LENGTH, blank=True, default="", db_default="")
    time_zone = models.CharField(max_length=profile.TIME_ZONE_MAX_LENGTH, blank=True, default="", db_default="")
    attributes = models.JSONField(blank=True, default=dict, db_default={})
    email_ct = models.BinaryField(null=True)
    email_bi = models.BinaryField(null=True)
    email_set_at = models.DateTimeField(null=True)
    phone_ct = models.BinaryField(null=True)
    phone_bi = models.BinaryField(null=True)
    phone_set_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())
    erased_at = models.DateTimeField(null=True)

    class Meta:
        constraints: ClassVar = [
            # Not unique=True, which would add a second index for LIKE; under collation C one serves both.
            models.UniqueConstraint(fields=["user_id"], name="recipient_user_id_unique"),
            models.CheckConstraint(
                name="recipient_user_id_charset", condition=Q(user_id__regex=r"^[^[:cntrl:]/]{1,128}$")
            ),
            models.CheckConstraint(name="recipient_version_positive", condition=Q(version__gt=0)),
            models.CheckConstraint(name="recipient_email_pair", condition=_ciphertext_with_index("email")),
            models.CheckConstraint(name="recipient_phone_pair", condition=_ciphertext_with_index("phone")),
            models.CheckConstraint(name="recipient_attributes_object", condition=Q(attributes__json_type="object")),
            models.CheckConstraint(
                name="recipient_erased_is_empty",
                condition=Q(erased_at__isnull=True) | Q(email_ct__isnull=True, phone_ct__isnull=True, attributes={}),
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["email_bi"], name="recipient_email_bi", condition=Q(email_bi__isnull=False)),
            models.Index(fields=["phone_bi"], name="recipient_phone_bi", condition=Q(phone_bi__isnull=False)),
            models.Index(fields=["erased_at"], name="recipient_erased_at", condition=Q(erased_at__isnull=False)),
        ]
        permissions: ClassVar = [
            ("reveal_recipient", "Can see contact points and tokens in clear"),
            ("import_recipient", "Can import recipients from a file"),
        ]

    def __str__(self) -> str:
        return self.user_id


class ChannelPreference(models.Model):
    """A recipient's word about one channel. No row means nothing was said: the channel is on."""

    id = models.BigAutoField(primary_key=True)
    # The unique constraint's index begins with the recipient: no second one.
    recipient = models.ForeignKey(
        Recipient, on_delete=models.CASCADE, related_name="channel_preferences", db_index=False
    )
    channel = models.PositiveSmallIntegerField(choices=CHANNEL_CHOICES)
    is_enabled = models.BooleanField("enabled", default=True)
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["recipient", "channel"], name="channel_preference_unique"),
            models.CheckConstraint(name="channel_preference_channel", condition=Q(channel__in=list(Channel))),
        ]

    def __str__(self) -> str:
        return f"{Channel(self.channel).label}: {'on' if self.is_enabled else 'off'}"


class Platform(models.TextChoices):
    """What a push token is for."""

    ANDROID = "android", "Android"
    IOS = "ios", "iOS"
    WEB = "web", "Web"


class Device(models.Model):
    """A push token of one recipient. ``id`` never changes its owner: a token that moves gets a new row.
    ``registered_at`` is the last registration: a token reported dead before that is alive again."""

    id = models.BigAutoField(primary_key=True)
    recipient = models.ForeignKey(Recipient, on_delete=models.CASCADE, related_name="devices")
    platform = models.CharField(max_length=8, choices=Platform.choices)
    app_id = models.CharField(max_length=profile.APP_ID_MAX_LENGTH, blank=True, default="", db_default="")
    token_ct = models.BinaryField()
    token_bi = models.BinaryField()
    registered_at = models.DateTimeField(db_default=Now())
    last_seen_at = models.DateTimeField(db_default=Now())
    deactivated_at = models.DateTimeField(null=True, blank=True)
    deactivated_reason = models.CharField(max_length=64, blank=True, default="", db_default="")

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["token_bi"], name="device_token_unique"),
            models.CheckConstraint(name="device_platform", condition=Q(platform__in=Platform.values)),
            models.CheckConstraint(name="device_token_bi_length", condition=Q(token_bi__octets=32)),
        ]
        indexes: ClassVar = [
            models.Index(
                fields=["deactivated_at"], name="device_deactivated_at", condition=Q(deactivated_at__isnull=False)
            ),
        ]

    def __str__(self) -> str:
        return f"{self.platform} device {self.pk}"


class Suppression(models.Model):
    """An address we must not use, whoever has it, transactional mail included. Lifted only by an explicit act.
    ``evidence`` is the provider's code or a note, without personal data. ``added_by`` and ``lifted_by`` name the
    client or admin who did it by hand; both are blank where the platform did."""

    id = models.BigAutoField(primary_key=True)
    channel = models.PositiveSmallIntegerField(choices=CHANNEL_CHOICES)
    address_bi = models.BinaryField()
    source = models.CharField(max_length=64)
    reason = models.CharField(max_length=64)
    evidence = models.CharField(max_length=512, blank=True, default="", db_default="")
    added_by = models.CharField(max_length=200, blank=True, default="", db_default="")
    created_at = models.DateTimeField(db_default=Now())
    lifted_at = models.DateTimeField(null=True, blank=True)
    lifted_by = models.CharField(max_length=200, blank=True, default="", db_default="")
    lift_reason = models.CharField(max_length=512, blank=True, default="", db_default="")

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["channel", "address_bi"], name="suppression_active_unique", condition=Q(lifted_at__isnull=True)
            ),
            models.CheckConstraint(name="suppression_channel", condition=Q(channel__in=list(Channel))),
            models.CheckConstraint(name="suppression_bi_length", condition=Q(address_bi__octets=32)),
        ]
        indexes: ClassVar = [
            models.Index(fields=["address_bi"], name="suppression_address_bi"),
            models.Index(fields=["lifted_at"], name="suppression_lifted_at", condition=Q(lifted_at__isnull=False)),
        ]

    def __str__(self) -> str:
        return f"{Channel(self.channel).label} suppression {self.pk}"

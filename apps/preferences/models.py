"""The tables of this app. Addresses and tokens exist as ciphertext (``_ct``) and blind index (``_bi``) only."""

from datetime import timedelta
from typing import ClassVar

from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Greatest, Now

from apps.channels import Channel
from apps.preferences import categories, profile, quiet_hours

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
            # For the audiences of broadcasts: attributes by containment, locales by their beginning.
            GinIndex(fields=["attributes"], name="recipient_attributes", opclasses=["jsonb_path_ops"]),
            models.Index(fields=["locale"], name="recipient_locale", opclasses=["varchar_pattern_ops"]),
        ]
        permissions: ClassVar = [
            ("reveal_recipient", "Can see contact points and tokens in clear"),
            ("import_recipient", "Can import recipients from a file"),
        ]

    def __str__(self) -> str:
        return self.user_id


class ChannelPreference(models.Model):
    """A recipient's word about one channel. No row means nothing was said: each category's default holds."""

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


class Category(models.Model):
    """A kind of messages with rules of its own. A key in use never changes, and no row is deleted: recipients' wishes
    and the log refer to it. A retired category (``is_active`` off) is refused by intake; what is under way with it
    keeps its rules."""

    class Kind(models.TextChoices):
        GENERAL = categories.Kind.GENERAL.value, "General"
        TRANSACTIONAL = categories.Kind.TRANSACTIONAL.value, "Transactional"
        MARKETING = categories.Kind.MARKETING.value, "Marketing"
        CRITICAL = categories.Kind.CRITICAL.value, "Critical: passes quiet hours and caps, no opt-out"

    class QuietHoursRule(models.TextChoices):
        DEFER = categories.QuietHoursRule.DEFER.value, "Wait for their end"
        SUPPRESS = categories.QuietHoursRule.SUPPRESS.value, "Do not send"
        SEND = categories.QuietHoursRule.SEND.value, "Send all the same"

    class CapRule(models.TextChoices):
        DEFER = categories.CapRule.DEFER.value, "Wait until the next one fits"
        SUPPRESS = categories.CapRule.SUPPRESS.value, "Do not send"

    id = models.SmallAutoField(primary_key=True)
    key = models.CharField(max_length=categories.KEY_MAX_LENGTH, blank=True)
    name = models.CharField(max_length=100)
    description = models.CharField(max_length=500, blank=True, default="", db_default="")
    kind = models.CharField(max_length=16, choices=Kind.choices, default=Kind.GENERAL)
    is_active = models.BooleanField("active", default=True, db_default=True)
    push_default = models.BooleanField("push on by default", default=True, db_default=True)
    sms_default = models.BooleanField("sms on by default", default=True, db_default=True)
    email_default = models.BooleanField("e-mail on by default", default=True, db_default=True)
    quiet_hours = models.CharField(
        "in quiet hours", max_length=8, choices=QuietHoursRule.choices, default=QuietHoursRule.DEFER
    )
    cap_limit = models.PositiveSmallIntegerField("cap: messages", null=True, blank=True)
    cap_period_s = models.PositiveIntegerField("cap: in how many seconds", null=True, blank=True)
    cap_rule = models.CharField("beyond the cap", max_length=8, choices=CapRule.choices, default=CapRule.DEFER)
    retries_unknown = models.BooleanField(
        "send again when a provider did not answer",
        default=True,
        db_default=True,
        help_text="On: at least once, now and then twice. Off: never twice; it waits as unknown for a receipt.",
    )
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        verbose_name_plural = "categories"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["key"], name="category_key_unique"),
            models.CheckConstraint(name="category_key_charset", condition=Q(key__regex=categories.KEY_PATTERN)),
            models.CheckConstraint(
                name="category_cap",
                condition=Q(cap_limit__isnull=True, cap_period_s__isnull=True)
                | Q(
                    cap_limit__isnull=False,
                    cap_period_s__isnull=False,
                    cap_limit__range=(1, categories.CAP_MAX),
                    cap_period_s__range=(
                        categories.CAP_MIN_PERIOD // timedelta(seconds=1),
                        categories.CAP_MAX_PERIOD // timedelta(seconds=1),
                    ),
                ),
            ),
        ]

    def __str__(self) -> str:
        return self.key or "(default)"


class CategoryPreference(models.Model):
    """A recipient's word about one category on one channel. No row means nothing was said about it."""

    id = models.BigAutoField(primary_key=True)
    # The unique constraint's index begins with the recipient; a category's rows are never looked for.
    recipient = models.ForeignKey(
        Recipient, on_delete=models.CASCADE, related_name="category_preferences", db_index=False
    )
    category = models.ForeignKey(Category, on_delete=models.PROTECT, related_name="+", db_index=False)
    channel = models.PositiveSmallIntegerField(choices=CHANNEL_CHOICES)
    is_enabled = models.BooleanField("enabled", default=True)
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["recipient", "category", "channel"], name="category_preference_unique"),
            models.CheckConstraint(name="category_preference_channel", condition=Q(channel__in=list(Channel))),
        ]

    def __str__(self) -> str:
        return f"{self.category}, {Channel(self.channel).label}: {'on' if self.is_enabled else 'off'}"


class SubscriptionChoice(models.Model):
    """The record of a word that came by an unsubscribe link and changed something: who, when, what, and from where.
    Rows are only ever added. ``category`` is the key; nothing in it is personal."""

    id = models.BigAutoField(primary_key=True)
    recipient = models.ForeignKey(Recipient, on_delete=models.CASCADE, related_name="choices")
    channel = models.PositiveSmallIntegerField(choices=CHANNEL_CHOICES)
    category = models.CharField(max_length=categories.KEY_MAX_LENGTH, blank=True)
    scope = models.CharField(max_length=16)
    source = models.CharField(max_length=32)
    link_made_at = models.DateTimeField()
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(name="subscription_choice_channel", condition=Q(channel__in=list(Channel))),
        ]

    def __str__(self) -> str:
        return f"{self.scope} by {self.source}"


class QuietHours(models.Model):
    """A window in which a recipient does not want to be disturbed, on the clock of their time zone; see
    ``quiet_hours.Window``."""

    id = models.BigAutoField(primary_key=True)
    recipient = models.ForeignKey(Recipient, on_delete=models.CASCADE, related_name="quiet_hours", db_index=False)
    days = models.PositiveSmallIntegerField()
    start_minute = models.PositiveSmallIntegerField()
    end_minute = models.PositiveSmallIntegerField()

    class Meta:
        verbose_name_plural = "quiet hours"
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["recipient", "days", "start_minute", "end_minute"], name="quiet_hours_unique"
            ),
            models.CheckConstraint(
                name="quiet_hours_window",
                condition=Q(
                    days__range=(1, quiet_hours.EVERY_DAY),
                    start_minute__range=(0, quiet_hours.DAY_MINUTES - 1),
                    end_minute__range=(0, quiet_hours.DAY_MINUTES),
                )
                & ~Q(start_minute=F("end_minute")),
            ),
        ]

    def __str__(self) -> str:
        start, end = quiet_hours.format_minute(self.start_minute), quiet_hours.format_minute(self.end_minute)
        return f"{start}-{end} on {', '.join(quiet_hours.day_names(self.days))}"

    @property
    def window(self) -> quiet_hours.Window:
        """The row as plain data."""
        return quiet_hours.Window(self.days, self.start_minute, self.end_minute)


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
            # For the ageing of devices that are not seen any more.
            models.Index(fields=["last_seen_at"], name="device_last_seen_at", condition=Q(deactivated_at__isnull=True)),
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

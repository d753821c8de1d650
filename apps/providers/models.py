"""What operators decide about providers while the platform runs: which one carries what, and which one must not."""

import re

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, RegexValidator
from django.db import models
from django.db.models.functions import Now

from apps.channels import Channel

COUNTRY_PREFIX = re.compile(r"\+[1-9][0-9]{0,6}")
CHANNEL_CHOICES = [(channel.value, channel.label) for channel in Channel]


class Platform(models.TextChoices):
    ANY = "", "any"
    ANDROID = "android", "Android"
    IOS = "ios", "iOS"
    WEB = "web", "web"


class Route(models.Model):
    """One provider that carries a channel, or a part of it. See ``apps.providers.routing`` for which rows count."""

    channel = models.PositiveSmallIntegerField(choices=CHANNEL_CHOICES)
    platform = models.CharField(
        max_length=8, choices=Platform.choices, blank=True, help_text="Push only: devices of this platform."
    )
    country_prefix = models.CharField(
        max_length=8,
        blank=True,
        validators=[RegexValidator(rf"\A{COUNTRY_PREFIX.pattern}\Z", "Give a prefix such as +49.")],
        help_text="SMS only: numbers that begin so, such as +49. The longest that fits counts, and no other.",
    )
    provider = models.CharField(max_length=50, help_text="The alias of a provider account.")
    position = models.PositiveSmallIntegerField(
        default=1, help_text="Lower is tried first. Providers at the same position share the load by weight."
    )
    weight = models.PositiveSmallIntegerField(
        default=1,
        validators=[MaxValueValidator(1000)],
        help_text="The share of the load among providers at the same position; 0: only when the others fail.",
    )
    is_enabled = models.BooleanField(default=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["channel", "platform", "country_prefix", "position", "-weight", "provider"]
        constraints = [
            models.UniqueConstraint(
                fields=["channel", "platform", "country_prefix", "provider"],
                name="route_once_per_provider",
                violation_error_message="This provider is in this route already.",
            ),
            models.CheckConstraint(
                condition=models.Q(platform="") | models.Q(channel=Channel.PUSH),
                name="route_platform_is_for_push",
                violation_error_message="Only a push has a platform.",
            ),
            models.CheckConstraint(
                condition=models.Q(country_prefix="") | models.Q(channel=Channel.SMS),
                name="route_country_is_for_sms",
                violation_error_message="Only an SMS has a country prefix.",
            ),
        ]

    def __str__(self) -> str:
        part = self.platform or self.country_prefix
        return f"{Channel(self.channel).label}{f' {part}' if part else ''}: {self.provider}"


class ForcedState(models.TextChoices):
    OPEN = "open", "open: send nothing"
    CLOSED = "closed", "closed: send, whatever happens"
    AUTOMATIC = "automatic", "automatic: as its health says"


class BreakerOrder(models.Model):
    """An operator's word on a provider's breaker; the newest one counts. Rows are only added: they are the record of
    who decided what, when and why."""

    provider = models.CharField(max_length=50)
    state = models.CharField(max_length=9, choices=ForcedState.choices)
    reason = models.CharField(max_length=200, help_text="For those who wonder later.")
    operator = models.CharField(max_length=150)
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        ordering = ["-id"]
        indexes = [models.Index(fields=["provider", "-id"], name="breaker_order_newest")]

    def __str__(self) -> str:
        return f"{self.provider}: {self.state}"

    def clean(self) -> None:
        """Raise ``ValidationError`` for an order without a reason."""
        if not self.reason.strip():
            raise ValidationError({"reason": "Say why, for those who wonder later."})

"""What recipients want and the categories they choose from: bodies in, and the shapes of bodies out."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.exceptions import ErrorDetail

from apps.channels import CHANNEL_LABELS, Channel
from apps.preferences import profile, quiet_hours, selectors
from apps.preferences.api.fields import FlagField, StrictSerializer, TextField
from apps.preferences.models import Category
from apps.preferences.policy import is_wanted
from apps.preferences.quiet_hours import Window
from apps.preferences.snapshots import wishes_of
from apps.preferences.stated import StatedPreferences

MAX_CATEGORIES: Final = 100
NO_SUCH_CATEGORY: Final = "There is no such category; GET /v1/categories lists them."


class ChannelsSerializer(StrictSerializer):
    """Channel name to on, off, or null for nothing said."""

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        return {label: FlagField(required=False, allow_null=True) for label in CHANNEL_LABELS}


class CategoriesField(serializers.DictField):
    """Category key to ``ChannelsSerializer``."""

    child = ChannelsSerializer()

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            if len(data) > MAX_CATEGORIES:
                raise serializers.ValidationError(f"Name at most {MAX_CATEGORIES} categories.")
            known = selectors.load_categories(data)
            refuse_unknown_categories([key for key in data if key not in known])
        return super().to_internal_value(data)


def refuse_unknown_categories(keys: Collection[str], *parents: str) -> None:
    """Raises a validation error for each of ``keys``, below the fields ``parents``."""
    if keys:
        errors: Any = {key: [ErrorDetail(NO_SUCH_CATEGORY, "unknown_category")] for key in keys}
        for parent in reversed(parents):
            errors = {parent: errors}
        raise serializers.ValidationError(errors)


def _check_day(value: str) -> str:
    quiet_hours.days_mask((value,))
    return value


def _check_time(value: str) -> str:
    quiet_hours.parse_minute(value)
    return value


@extend_schema_field({"type": "string", "enum": list(quiet_hours.DAYS)})
class DayField(TextField):
    """A day of the week."""


@extend_schema_field({"type": "string", "pattern": "^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$", "example": "22:00"})
class TimeOfDayField(TextField):
    """A time on the recipient's clock."""


class ShortListField(serializers.ListField):
    """A list that is not looked into if it is longer than ``max_length``."""

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, list) and self.max_length is not None and len(data) > self.max_length:
            self.fail("max_length", max_length=self.max_length)
        return super().to_internal_value(data)


class QuietWindowSerializer(StrictSerializer):
    """A stretch of time in which the recipient is not to be disturbed, on the clock of their time zone."""

    days = ShortListField(
        child=DayField(check=_check_day), required=False, min_length=1, max_length=len(quiet_hours.DAYS),
        help_text="The days it starts on; left out: every day.",
    )  # fmt: skip
    start = TimeOfDayField(check=_check_time)
    end = TimeOfDayField(check=_check_time, help_text="Before start: on the next day. 24:00 is the day's end.")

    def to_internal_value(self, data: Any) -> Any:
        values = super().to_internal_value(data)
        window = Window(
            days=quiet_hours.days_mask(values.get("days", quiet_hours.DAYS)),
            start_minute=quiet_hours.parse_minute(values["start"]),
            end_minute=quiet_hours.parse_minute(values["end"]),
        )
        _check_windows([window])
        return window


class QuietHoursField(ShortListField):
    """All windows of a recipient; null and an empty list are none."""

    child = QuietWindowSerializer()

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=quiet_hours.MAX_WINDOWS, **kwargs)

    def to_internal_value(self, data: Any) -> Any:
        return _check_windows(super().to_internal_value(data))


def _check_windows(windows: Iterable[Window]) -> tuple[Window, ...]:
    try:
        return quiet_hours.check_windows(windows)
    except profile.InvalidValue as error:
        raise serializers.ValidationError([str(error)]) from None


class PreferencesSerializer(StrictSerializer):
    """``PUT /v1/users/{user_id}/preferences``: what is given replaces, what is left out stays."""

    opted_out = FlagField(required=False, help_text="Out of everything, whatever the rest says.")
    time_zone = TextField(
        check=profile.check_time_zone, max_length=profile.TIME_ZONE_MAX_LENGTH, allow_blank=True, required=False,
        help_text="IANA time zone name of the quiet hours, the profile's; blank if not known.",
    )  # fmt: skip
    channels = ChannelsSerializer(
        required=False, help_text="A channel as a whole; null: nothing said, each category's default holds."
    )
    categories = CategoriesField(
        required=False, help_text="A category on a channel, by the category's key; goes before the channel's word."
    )
    quiet_hours = QuietHoursField(required=False, allow_null=True, help_text="All windows; null: none.")
    effective = serializers.SerializerMethodField(
        help_text="What follows: whether each category is wanted on each channel. Shown only, ignored when sent."
    )

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, Mapping):
            data = {name: value for name, value in data.items() if name != "effective"}
        return super().to_internal_value(data)

    def get_effective(self, preferences: Any) -> dict[str, dict[str, bool]]:
        """Category key to channel to on or off."""
        return present_effective(preferences)


class CategorySerializer(serializers.Serializer[Any]):
    """A category as shown."""

    key = serializers.CharField(help_text="What `category` says; blank for messages without one.")
    name = serializers.CharField()
    description = serializers.CharField()
    kind = serializers.ChoiceField(choices=Category.Kind.choices)
    defaults = serializers.DictField(
        child=serializers.BooleanField(), help_text="Channel name to whether it is on for who has not said anything."
    )
    quiet_hours = serializers.ChoiceField(choices=Category.QuietHoursRule.choices)
    cap = serializers.JSONField(allow_null=True, help_text="At most `limit` messages in any `period_s` seconds.")


class CategoryListSerializer(serializers.Serializer[Any]):
    """The categories there are."""

    categories = CategorySerializer(many=True)


def present_preferences(stated: StatedPreferences) -> dict[str, Any]:
    """The body of ``PreferencesSerializer``, complete; sent back as it is, it changes nothing."""
    return {
        "opted_out": stated.is_opted_out,
        "time_zone": stated.time_zone,
        "channels": {channel.label: stated.channels.get(channel) for channel in Channel},
        "categories": {
            key: {channel.label: wish for channel, wish in wishes.items()} for key, wishes in stated.categories.items()
        },
        "quiet_hours": [_present_window(window) for window in stated.quiet_hours],
        "effective": present_effective(stated),
    }


def _present_window(window: Window) -> dict[str, Any]:
    return {
        "days": quiet_hours.day_names(window.days),
        "start": quiet_hours.format_minute(window.start_minute),
        "end": quiet_hours.format_minute(window.end_minute),
    }


def present_effective(stated: StatedPreferences) -> dict[str, dict[str, bool]]:
    """For every category in use, by key, whether it is wanted on each channel: the policy's own answer."""
    channel_wishes = wishes_of(stated.channels)
    return {
        key: {
            channel.label: not stated.is_opted_out
            and is_wanted(wishes_of(stated.categories.get(key, {})), channel_wishes, channel, rules)[0]
            for channel in Channel
        }
        for key, rules in sorted(selectors.load_categories().items())
        if rules.is_active
    }


def present_category(category: Category) -> dict[str, Any]:
    """The body of ``CategorySerializer``."""
    is_critical = category.kind == Category.Kind.CRITICAL
    cap = None
    if category.cap_limit is not None and not is_critical:
        cap = {"limit": category.cap_limit, "period_s": category.cap_period_s, "beyond": category.cap_rule}
    return {
        "key": category.key,
        "name": category.name,
        "description": category.description,
        "kind": category.kind,
        "defaults": {"push": category.push_default, "sms": category.sms_default, "email": category.email_default},
        "quiet_hours": Category.QuietHoursRule.SEND if is_critical else category.quiet_hours,
        "cap": cap,
    }

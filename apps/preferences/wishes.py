"""Writes of what a recipient says they want. Used through ``services``."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from django.db import transaction
from django.utils import timezone

from apps.channels import Channel
from apps.preferences import profile
from apps.preferences.locks import lock_recipient, touch_recipients
from apps.preferences.models import Category, CategoryPreference, ChannelPreference, QuietHours, Recipient
from apps.preferences.quiet_hours import Window, check_windows
from apps.preferences.selectors import select_preferences

Words = Mapping[Channel, bool | None]


class UnknownCategory(LookupError):
    """There is no category of one of these keys."""

    def __init__(self, keys: Collection[str]) -> None:
        super().__init__("There is no such category.")
        self.keys = sorted(keys)


class PreferencesChanged(Exception):
    """The preferences are no longer what the caller took them for."""


@transaction.atomic
def update_preferences(
    *,
    user_id: str,
    is_opted_out: bool | None = None,
    channels: Words | None = None,
    categories: Mapping[str, Words] | None = None,
    quiet_hours: Sequence[Window] | None = None,
    time_zone: str | None = None,
    only_if: Collection[str] | None = None,
) -> Recipient:
    """Store the person's word: what is given replaces what was said before, what is not given stays; the same call
    again changes nothing. ``None`` for a channel, or for a channel of a category, takes the word back, so that the
    category's default holds again; ``quiet_hours`` are all windows from now on. With ``only_if``, fingerprints of
    ``StatedPreferences``, it is done only if the stored ones have one of these.

    Raises ``UnknownRecipient``, ``UnknownCategory``, ``PreferencesChanged``, ``profile.InvalidValue``."""
    recipient = lock_recipient(user_id)
    if only_if is not None and select_preferences(recipient).fingerprint not in only_if:
        raise PreferencesChanged("The preferences were changed in the meantime.")
    changes: dict[str, Any] = {}
    if is_opted_out is not None and is_opted_out is not recipient.is_opted_out:
        changes["is_opted_out"] = is_opted_out
    if time_zone is not None and profile.check_time_zone(time_zone) != recipient.time_zone:
        changes["time_zone"] = time_zone
    has_changed = [
        bool(channels) and _store_channels(recipient, channels or {}),
        bool(categories) and _store_categories(recipient, categories or {}),
        quiet_hours is not None and _store_quiet_hours(recipient, check_windows(quiet_hours)),
    ]
    if changes or any(has_changed):
        touch_recipients([recipient], **changes)
    return recipient


def _store_channels(recipient: Recipient, words: Words) -> bool:
    stated = dict(ChannelPreference.objects.filter(recipient=recipient).values_list("channel", "is_enabled"))
    changed = {channel: wish for channel, wish in words.items() if stated.get(channel) is not wish}
    withdrawn = [channel.value for channel, wish in changed.items() if wish is None]
    if withdrawn:
        ChannelPreference.objects.filter(recipient=recipient, channel__in=withdrawn).delete()
    ChannelPreference.objects.bulk_create(
        [
            ChannelPreference(recipient=recipient, channel=channel.value, is_enabled=wish, updated_at=timezone.now())
            for channel, wish in changed.items()
            if wish is not None
        ],
        update_conflicts=True,
        unique_fields=["recipient", "channel"],
        update_fields=["is_enabled", "updated_at"],
    )
    return bool(changed)


def _store_categories(recipient: Recipient, words: Mapping[str, Words]) -> bool:
    ids = dict(Category.objects.filter(key__in=words).values_list("key", "id"))
    if unknown := words.keys() - ids.keys():
        raise UnknownCategory(unknown)
    rows = CategoryPreference.objects.filter(recipient=recipient)
    stated = {(category, channel): wish for category, channel, wish in rows.values_list(
        "category_id", "channel", "is_enabled"
    )}  # fmt: skip
    changed = {
        (ids[key], channel): wish
        for key, wishes in words.items()
        for channel, wish in wishes.items()
        if stated.get((ids[key], channel)) is not wish
    }
    for (category_id, channel), wish in changed.items():
        if wish is None:
            rows.filter(category_id=category_id, channel=channel).delete()
    CategoryPreference.objects.bulk_create(
        [
            CategoryPreference(
                recipient=recipient,
                category_id=category_id,
                channel=channel.value,
                is_enabled=wish,
                updated_at=timezone.now(),
            )
            for (category_id, channel), wish in changed.items()
            if wish is not None
        ],
        update_conflicts=True,
        unique_fields=["recipient", "category", "channel"],
        update_fields=["is_enabled", "updated_at"],
    )
    return bool(changed)


def _store_quiet_hours(recipient: Recipient, windows: Sequence[Window]) -> bool:
    stored = {row.window: row.pk for row in QuietHours.objects.filter(recipient=recipient)}
    gone = [pk for window, pk in stored.items() if window not in windows]
    new = [window for window in windows if window not in stored]
    if gone:
        QuietHours.objects.filter(pk__in=gone).delete()
    QuietHours.objects.bulk_create(
        [
            QuietHours(
                recipient=recipient,
                days=window.days,
                start_minute=window.start_minute,
                end_minute=window.end_minute,
            )
            for window in new
        ]
    )
    return bool(gone or new)

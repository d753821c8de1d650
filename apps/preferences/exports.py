"""Data out: everything held about one person, and all recipients in the form an import takes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from django.db import connection

from apps.channels import Channel
from apps.preferences import ledger, selectors
from apps.preferences.bulk_words import select_words
from apps.preferences.cipher import CipherError
from apps.preferences.entry_words import Words
from apps.preferences.models import Category, Device, Recipient, SubscriptionChoice, Suppression
from apps.preferences.quiet_hours import Window, day_names, format_minute

Part = Callable[[int, str], Any]
"""Takes the recipient's number and the caller's user id; returns what JSON can hold, times as ``datetime``."""

RECIPIENTS_PER_PAGE: Final = 1_000
UNREADABLE: Final = "(unreadable: its key is no longer there)"
BUILT_IN: Final = ("exported_at", "profile", "preferences", "devices", "subscription_choices", "suppressions")
_parts: dict[str, Part] = {}


def register_part(name: str, part: Part) -> None:
    """Have every person's export hold ``part`` under ``name``; the same name again replaces it. For apps that hold
    something about recipients; they call it when they start. ``ValueError`` for a name that is taken here."""
    if name in BUILT_IN:
        raise ValueError(f"The part {name} is this app's own.")
    _parts[name] = part


def export_person(user_id: str, *, now: datetime) -> dict[str, Any] | None:
    """All we hold about a person, in clear; ``None`` if there is no such recipient, or it is erased. What cannot be
    decrypted any more says so. Whoever calls it answers for who gets to see it."""
    recipient = selectors.select_recipient(user_id)
    if recipient is None:
        return None
    return {
        "exported_at": now,
        "profile": _export_profile(recipient),
        "preferences": _export_preferences(recipient),
        "devices": [
            _export_device(device, user_id) for device in Device.objects.filter(recipient=recipient).order_by("pk")
        ],
        "subscription_choices": _export_choices(recipient),
        "suppressions": _export_suppressions(user_id),
        **{name: part(recipient.pk, user_id) for name, part in _parts.items()},
    }


def _export_profile(recipient: Recipient) -> dict[str, Any]:
    return {
        "user_id": recipient.user_id,
        "email": _reveal_contact(recipient, Channel.EMAIL),
        "email_set_at": recipient.email_set_at,
        "phone": _reveal_contact(recipient, Channel.SMS),
        "phone_set_at": recipient.phone_set_at,
        "locale": recipient.locale,
        "time_zone": recipient.time_zone,
        "attributes": recipient.attributes,
        "created_at": recipient.created_at,
        "updated_at": recipient.updated_at,
    }


def _export_preferences(recipient: Recipient) -> dict[str, Any]:
    stated = selectors.select_preferences(recipient)
    return {
        "opted_out": stated.is_opted_out,
        "channels": _labelled(stated.channels),
        "categories": {key: _labelled(wishes) for key, wishes in stated.categories.items()},
        "quiet_hours": [_export_window(window) for window in stated.quiet_hours],
    }


def _export_device(device: Device, user_id: str) -> dict[str, Any]:
    return {
        "id": device.pk,
        "token": _reveal_token(device, user_id),
        "platform": device.platform,
        "app_id": device.app_id,
        "registered_at": device.registered_at,
        "last_seen_at": device.last_seen_at,
        "deactivated_at": device.deactivated_at,
        "deactivated_reason": device.deactivated_reason,
    }


def _export_choices(recipient: Recipient) -> list[dict[str, Any]]:
    return [
        {
            "channel": Channel(choice.channel).label,
            "category": choice.category,
            "scope": choice.scope,
            "source": choice.source,
            "link_made_at": choice.link_made_at,
            "created_at": choice.created_at,
        }
        for choice in SubscriptionChoice.objects.filter(recipient=recipient).order_by("pk")
    ]


def _export_suppressions(user_id: str) -> list[dict[str, Any]]:
    rows = Suppression.objects.filter(address_bi__in=ledger.select_indexes(user_id) or []).order_by("pk")
    return [
        {
            "channel": Channel(row.channel).label,
            "source": row.source,
            "reason": row.reason,
            "evidence": row.evidence,
            "created_at": row.created_at,
            "lifted_at": row.lifted_at,
            "lift_reason": row.lift_reason,
        }
        for row in rows
    ]


def _reveal_contact(recipient: Recipient, channel: Channel) -> str | None:
    try:
        return selectors.reveal_contact(recipient, channel)
    except CipherError:
        return UNREADABLE


def _reveal_token(device: Device, user_id: str) -> str:
    try:
        return selectors.reveal_token(device, user_id)
    except CipherError:
        return UNREADABLE


def _labelled(wishes: Mapping[Channel, bool | None]) -> dict[str, bool]:
    return {channel.label: wish for channel, wish in sorted(wishes.items()) if wish is not None}


def _export_window(window: Window) -> dict[str, Any]:
    return {
        "days": day_names(window.days),
        "start": format_minute(window.start_minute),
        "end": format_minute(window.end_minute),
    }


def iterate_recipients(*, with_devices: bool = True) -> Iterator[dict[str, Any]]:
    """Every recipient that is not erased, in clear, in the shape of ``entries``; a page of some hundred at a time.

    What cannot be decrypted is left out, so that importing the result does not overwrite it."""
    keys = dict(Category.objects.values_list("id", "key"))
    last = 0
    while page := list(Recipient.objects.filter(pk__gt=last, erased_at=None).order_by("pk")[:RECIPIENTS_PER_PAGE]):
        last = page[-1].pk
        with connection.cursor() as cursor:
            words = select_words(cursor, [recipient.pk for recipient in page])
        devices = _select_devices(page) if with_devices else {}
        for recipient in page:
            yield _to_item(recipient, words[recipient.pk], devices.get(recipient.pk, []), keys)


def _select_devices(page: Sequence[Recipient]) -> dict[int, list[Device]]:
    devices: dict[int, list[Device]] = {}
    for device in Device.objects.filter(recipient__in=page, deactivated_at=None).order_by("pk"):
        devices.setdefault(device.recipient_id, []).append(device)
    return devices


def _to_item(recipient: Recipient, words: Words, devices: list[Device], keys: Mapping[int, str]) -> dict[str, Any]:
    item: dict[str, Any] = {"user_id": recipient.user_id}
    for name, channel in (("email", Channel.EMAIL), ("phone", Channel.SMS)):
        address = _reveal_contact(recipient, channel)
        if address != UNREADABLE:
            item[name] = address
    item |= {"locale": recipient.locale, "time_zone": recipient.time_zone, "attributes": recipient.attributes}
    categories: dict[str, dict[str, bool]] = {}
    for (category_id, channel), wish in sorted(words.categories.items()):
        if wish is not None:
            categories.setdefault(keys[category_id], {})[channel.label] = wish
    item["preferences"] = {
        "opted_out": recipient.is_opted_out,
        "channels": _labelled(words.channels),
        "categories": categories,
        "quiet_hours": [_export_window(window) for window in sorted(words.quiet_hours or ())],
    }
    tokens = [(device, _reveal_token(device, recipient.user_id)) for device in devices]
    item["devices"] = [
        {"token": token, "platform": device.platform, "app_id": device.app_id}
        for device, token in tokens
        if token != UNREADABLE
    ]
    return item

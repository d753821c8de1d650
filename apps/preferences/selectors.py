"""Reads: versions and snapshots for deciding (hot, no ORM objects), addresses for sending, rows for the API."""

from collections.abc import Mapping, Sequence
from typing import Final

from django.db import connection

from apps.channels import Channel
from apps.preferences import addresses, cache, cipher
from apps.preferences.catalogue import find_category, load_categories
from apps.preferences.models import Category, CategoryPreference, ChannelPreference, Device, QuietHours, Recipient
from apps.preferences.quiet_hours import NO_WINDOWS, unpack_window
from apps.preferences.snapshots import NO_CHANNELS, DeviceSnapshot, RecipientSnapshot
from apps.preferences.stated import StatedPreferences

__all__ = [
    "CONTACT_COLUMNS",
    "DeviceSnapshot",
    "RecipientSnapshot",
    "find_category",
    "load_categories",
    "load_snapshots",
    "mask_contact",
    "mask_token",
    "reveal_address",
    "reveal_contact",
    "reveal_token",
    "select_categories",
    "select_devices",
    "select_preferences",
    "select_recipient",
    "select_versions",
]

# The columns of a contact point are ``<name>_ct``, ``<name>_bi`` and ``<name>_set_at``.
CONTACT_COLUMNS: Final = {Channel.EMAIL: "email", Channel.SMS: "phone"}

_VERSIONS_SQL: Final = "SELECT user_id, id, version FROM preferences_recipient WHERE user_id = ANY(%s)"

# Version and preferences come from one statement, so they belong together; devices are read by the next one,
# so they are never older than the version they are stored under. Newer does no harm: that version is gone.
# PostgreSQL gives << and | the same rank and reads them from left to right: hence the brackets.
_RECIPIENTS_SQL: Final = """
SELECT r.id, r.user_id, r.version, r.is_opted_out, r.erased_at IS NOT NULL, r.locale, r.time_zone,
       r.email_ct, r.phone_ct,
       (SELECT coalesce(bit_or(1 << CASE WHEN p.is_enabled THEN p.channel + 8 ELSE p.channel END), 0)
          FROM preferences_channelpreference p WHERE p.recipient_id = r.id),
       (SELECT array_agg((c.category_id::int << 16)
                         | (1 << CASE WHEN c.is_enabled THEN c.channel + 8 ELSE c.channel END))
          FROM preferences_categorypreference c WHERE c.recipient_id = r.id),
       (SELECT array_agg((q.days::int << 22) | (q.start_minute::int << 11) | q.end_minute
                         ORDER BY q.days, q.start_minute, q.end_minute)
          FROM preferences_quiethours q WHERE q.recipient_id = r.id),
       EXISTS (SELECT FROM preferences_suppression s
                WHERE s.channel = %s AND s.address_bi = r.email_bi AND s.lifted_at IS NULL),
       EXISTS (SELECT FROM preferences_suppression s
                WHERE s.channel = %s AND s.address_bi = r.phone_bi AND s.lifted_at IS NULL)
  FROM preferences_recipient r
 WHERE r.user_id = ANY(%s)
"""
_DEVICES_SQL: Final = """
SELECT d.recipient_id, d.id, d.platform, d.token_ct,
       EXISTS (SELECT FROM preferences_suppression s
                WHERE s.channel = %s AND s.address_bi = d.token_bi AND s.lifted_at IS NULL)
  FROM preferences_device d
 WHERE d.recipient_id = ANY(%s) AND d.deactivated_at IS NULL
 ORDER BY d.id
"""


def select_versions(user_ids: Sequence[str]) -> dict[str, tuple[int, int]]:
    """``user_id -> (recipient id, version)`` as PostgreSQL has it now; one query. Unknown ids are left out,
    erased recipients are not (``policy.decide`` knows them)."""
    if not user_ids:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(_VERSIONS_SQL, [list(user_ids)])
        return {user_id: (recipient_id, version) for user_id, recipient_id, version in cursor.fetchall()}


def load_snapshots(versions: Mapping[str, int]) -> dict[str, RecipientSnapshot]:
    """The snapshots of these recipients, ``user_id -> snapshot``; ids PostgreSQL does not know are left out.

    ``versions`` are the versions just read from PostgreSQL (by ``select_versions`` or in the caller's own
    query): a cached snapshot counts only if it has exactly that version, everything else is read from
    PostgreSQL in two queries and cached. So a change committed before the caller read the version is always
    seen, whatever Redis holds. Call it outside a transaction that changes recipients."""
    snapshots = cache.read_snapshots(versions)
    missing = [user_id for user_id in versions if user_id not in snapshots]
    if missing:
        fresh = _read_snapshots(missing)
        cache.write_snapshots(fresh.values())
        snapshots.update(fresh)
    return snapshots


def _read_snapshots(user_ids: list[str]) -> dict[str, RecipientSnapshot]:
    with connection.cursor() as cursor:
        cursor.execute(_RECIPIENTS_SQL, [Channel.EMAIL.value, Channel.SMS.value, user_ids])
        recipients = cursor.fetchall()
        if not recipients:
            return {}
        cursor.execute(_DEVICES_SQL, [Channel.PUSH.value, [row[0] for row in recipients]])
        device_rows = cursor.fetchall()
    devices: dict[int, list[DeviceSnapshot]] = {}
    suppressed_devices: set[int] = set()
    for recipient_id, device_id, platform, token_ct, is_suppressed in device_rows:
        if is_suppressed:
            suppressed_devices.add(recipient_id)
        else:
            devices.setdefault(recipient_id, []).append(DeviceSnapshot(device_id, platform, bytes(token_ct)))
    snapshots = {}
    for row in recipients:
        (
            recipient_id,
            user_id,
            version,
            is_opted_out,
            is_erased,
            locale,
            zone,
            email,
            phone,
            channel_wishes,
            category_wishes,
            windows,
            no_email,
            no_phone,
        ) = row
        own_devices = tuple(devices.get(recipient_id, ()))
        snapshots[user_id] = RecipientSnapshot(
            recipient_id=recipient_id,
            user_id=user_id,
            version=version,
            is_opted_out=is_opted_out,
            is_erased=is_erased,
            channel_wishes=channel_wishes,
            category_wishes=_by_category(category_wishes) if category_wishes else {},
            quiet_hours=tuple(map(unpack_window, windows)) if windows else NO_WINDOWS,
            suppressed_channels=_suppressed(no_email, no_phone, recipient_id in suppressed_devices and not own_devices),
            locale=locale,
            time_zone=zone,
            email_ct=email,
            phone_ct=phone,
            devices=own_devices,
        )
    return snapshots


def _by_category(packed: Sequence[int]) -> dict[int, int]:
    wishes: dict[int, int] = {}
    for number in packed:
        wishes[number >> 16] = wishes.get(number >> 16, 0) | number & 0xFFFF
    return wishes


def _suppressed(has_email: bool, has_phone: bool, has_push: bool) -> frozenset[Channel]:
    if not (has_email or has_phone or has_push):
        return NO_CHANNELS
    flags = {Channel.EMAIL: has_email, Channel.SMS: has_phone, Channel.PUSH: has_push}
    return frozenset(channel for channel, is_suppressed in flags.items() if is_suppressed)


def reveal_address(snapshot: RecipientSnapshot, channel: Channel, device_id: int | None = None) -> str | None:
    """The address of a delivery in clear: an e-mail address, an E.164 number, or the token of device
    ``device_id``. ``None`` if the recipient has no such address (any more): the device was removed, its token
    moved to another recipient, or it is suppressed. Raises ``CipherError`` if the key is missing or the row was
    tampered with."""
    match channel:
        case Channel.EMAIL:
            blob, aad = snapshot.email_ct, cipher.recipient_aad("email_ct", snapshot.user_id)
        case Channel.SMS:
            blob, aad = snapshot.phone_ct, cipher.recipient_aad("phone_ct", snapshot.user_id)
        case Channel.PUSH:
            blob = next((device.token_ct for device in snapshot.devices if device.id == device_id), None)
            aad = cipher.device_aad(snapshot.user_id)
    return None if blob is None else cipher.decrypt(blob, aad).decode()


def select_recipient(user_id: str) -> Recipient | None:
    """The recipient called ``user_id``, ``None`` if there is none or it is erased."""
    return Recipient.objects.filter(user_id=user_id, erased_at=None).first()


def select_preferences(recipient: Recipient) -> StatedPreferences:
    """What the recipient said, as PostgreSQL has it."""
    categories: dict[str, dict[Channel, bool]] = {}
    rows = CategoryPreference.objects.filter(recipient=recipient).order_by("category__key", "channel")
    for key, channel, is_enabled in rows.values_list("category__key", "channel", "is_enabled"):
        categories.setdefault(key, {})[Channel(channel)] = is_enabled
    channels = ChannelPreference.objects.filter(recipient=recipient).order_by("channel")
    return StatedPreferences(
        is_opted_out=recipient.is_opted_out,
        time_zone=recipient.time_zone,
        channels={Channel(channel): wish for channel, wish in channels.values_list("channel", "is_enabled")},
        categories=categories,
        quiet_hours=tuple(sorted(row.window for row in QuietHours.objects.filter(recipient=recipient))),
    )


def select_categories() -> list[Category]:
    """The categories that new messages may name, by key."""
    return list(Category.objects.filter(is_active=True).order_by("key"))


def select_devices(recipient_id: int) -> list[Device]:
    """The recipient's active devices, in the order of their first registration."""
    return list(Device.objects.filter(recipient_id=recipient_id, deactivated_at=None).order_by("id"))


def reveal_contact(recipient: Recipient, channel: Channel) -> str | None:
    """The recipient's e-mail address or phone number in clear. Raises ``CipherError``; ``KeyError`` for push."""
    name = CONTACT_COLUMNS[channel]
    blob: bytes | None = getattr(recipient, f"{name}_ct")
    if blob is None:
        return None
    return cipher.decrypt(bytes(blob), cipher.recipient_aad(f"{name}_ct", recipient.user_id)).decode()


def reveal_token(device: Device, user_id: str) -> str:
    """The token of ``device``, which belongs to ``user_id``, in clear. Raises ``CipherError``."""
    return cipher.decrypt(bytes(device.token_ct), cipher.device_aad(user_id)).decode()


def mask_contact(recipient: Recipient, channel: Channel) -> str | None:
    """The recipient's e-mail address or phone number, recognisable and unusable; ``None`` if there is none."""
    try:
        address = reveal_contact(recipient, channel)
    except cipher.CipherError:
        return addresses.MASK
    if address is None:
        return None
    return addresses.mask_email(address) if channel is Channel.EMAIL else addresses.mask_phone(address)


def mask_token(device: Device, user_id: str) -> str:
    """The last characters of a token; ``user_id`` is its owner."""
    try:
        return addresses.mask_token(reveal_token(device, user_id))
    except cipher.CipherError:
        return addresses.MASK

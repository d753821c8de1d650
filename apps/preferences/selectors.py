"""Reads: versions, snapshots and categories for deciding (from ``loading`` and ``catalogue``, offered here too),
addresses for sending, rows for the API."""

from typing import Final

from apps.channels import Channel
from apps.preferences import addresses, cipher
from apps.preferences.cache import peek_snapshots
from apps.preferences.catalogue import find_category, load_categories
from apps.preferences.loading import load_snapshots, select_versions, select_versions_by_id
from apps.preferences.models import Category, CategoryPreference, ChannelPreference, Device, QuietHours, Recipient
from apps.preferences.snapshots import DeviceSnapshot, RecipientSnapshot
from apps.preferences.stated import StatedPreferences

__all__ = [
    "CONTACT_COLUMNS",
    "DeviceSnapshot",
    "RecipientSnapshot",
    "find_category",
    "find_device",
    "load_categories",
    "load_snapshots",
    "mask_contact",
    "mask_token",
    "peek_snapshots",
    "reveal_address",
    "reveal_contact",
    "reveal_token",
    "select_categories",
    "select_devices",
    "select_preferences",
    "select_recipient",
    "select_versions",
    "select_versions_by_id",
]

# The columns of a contact point are ``<name>_ct``, ``<name>_bi`` and ``<name>_set_at``.
CONTACT_COLUMNS: Final = {Channel.EMAIL: "email", Channel.SMS: "phone"}


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
            device = find_device(snapshot, device_id)
            blob = None if device is None else device.token_ct
            aad = cipher.device_aad(snapshot.user_id)
    return None if blob is None else cipher.decrypt(blob, aad).decode()


def find_device(snapshot: RecipientSnapshot, device_id: int | None) -> DeviceSnapshot | None:
    """The recipient's device with this id, ``None`` if it has none (any more)."""
    for device in snapshot.devices:
        if device.id == device_id:
            return device
    return None


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

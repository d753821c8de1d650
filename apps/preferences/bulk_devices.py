"""Many push tokens registered at once: ``devices.register_device`` in a handful of statements."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import Final, NamedTuple

from django.db import connection, transaction
from django.db.models import Q
from django.utils import timezone

from apps.preferences import addresses, cipher
from apps.preferences.devices import MAX_ACTIVE_DEVICES
from apps.preferences.entries import DeviceEntry
from apps.preferences.locks import lock_addresses, lock_recipients, raise_versions
from apps.preferences.models import Device, Recipient

# Every token is locked for the transaction, and PostgreSQL's table of locks is shared by all.
TOKENS_PER_TRANSACTION: Final = 200

_ENFORCE_CAP: Final = """
UPDATE preferences_device SET deactivated_at = %s, deactivated_reason = %s WHERE id IN (
    SELECT id FROM (
        SELECT id, row_number() OVER (PARTITION BY recipient_id ORDER BY last_seen_at DESC, id DESC) AS place
          FROM preferences_device WHERE recipient_id = ANY(%s) AND deactivated_at IS NULL
    ) AS ranked WHERE place > %s
)
"""


class Registration(NamedTuple):
    """One device of one recipient."""

    user_id: str
    device: DeviceEntry


def register_devices(registrations: Iterable[Registration], *, now: datetime | None = None) -> None:
    """Register all of them, in order, some hundred to a transaction. A token named twice ends up with the later
    recipient. Those of unknown and erased recipients are passed over."""
    for chunk in _chunks(registrations):
        _register(chunk, now or timezone.now())


def _chunks(registrations: Iterable[Registration]) -> Iterator[dict[bytes, Registration]]:
    iterator = iter(registrations)
    while batch := list(islice(iterator, TOKENS_PER_TRANSACTION)):
        # The later of two with the same token wins, as it would one after the other.
        yield {cipher.blind_index_of_normalised(addresses.TOKEN, item.device.token): item for item in batch}


@transaction.atomic
def _register(chunk: dict[bytes, Registration], now: datetime) -> None:
    lock_addresses(*chunk)
    tokens = list(chunk)
    holds_token = Q(pk__in=Device.objects.filter(token_bi__in=tokens).values("recipient_id"))
    named = Q(user_id__in={item.user_id for item in chunk.values()}, erased_at=None)
    recipients = lock_recipients(Recipient.objects.filter(named | holds_token))
    owners = {recipient.user_id: recipient for recipient in recipients if recipient.erased_at is None}
    known = {bytes(device.token_bi): device for device in Device.objects.filter(token_bi__in=tokens)}
    changed: set[int] = set()
    moved: list[int] = []
    new: list[Device] = []
    seen: list[Device] = []
    for token_bi, (user_id, entry) in chunk.items():
        owner, device = owners.get(user_id), known.get(token_bi)
        if owner is None:
            continue
        if device is not None and device.recipient_id == owner.pk:
            if (device.platform, device.app_id, device.deactivated_at) != (entry.platform, entry.app_id, None):
                changed.add(owner.pk)
            seen.append(_refresh(device, entry, now))
            continue
        if device is not None:
            moved.append(device.pk)
            changed.add(device.recipient_id)
        changed.add(owner.pk)
        new.append(_make(owner, entry, token_bi, now))
    Device.objects.filter(pk__in=moved).delete()
    Device.objects.bulk_create(new)
    Device.objects.bulk_update(
        seen, ["platform", "app_id", "deactivated_at", "deactivated_reason", "registered_at", "last_seen_at"]
    )
    _enforce_cap(changed, now)
    raise_versions([recipient for recipient in recipients if recipient.pk in changed])


def _make(owner: Recipient, entry: DeviceEntry, token_bi: bytes, now: datetime) -> Device:
    return Device(
        recipient=owner,
        platform=entry.platform,
        app_id=entry.app_id,
        token_ct=cipher.encrypt(entry.token.encode(), cipher.device_aad(owner.user_id)),
        token_bi=token_bi,
        registered_at=now,
        last_seen_at=now,
    )


def _refresh(device: Device, entry: DeviceEntry, now: datetime) -> Device:
    device.platform, device.app_id = entry.platform, entry.app_id
    device.deactivated_at, device.deactivated_reason = None, ""
    device.registered_at = device.last_seen_at = now
    return device


def _enforce_cap(recipient_ids: Iterable[int], now: datetime) -> None:
    ids = list(recipient_ids)
    if not ids:
        return
    with connection.cursor() as cursor:
        reason = f"more than {MAX_ACTIVE_DEVICES} devices"
        cursor.execute(_ENFORCE_CAP, [now, reason, ids, MAX_ACTIVE_DEVICES])

"""Versions and snapshots for deciding: hot, so no ORM objects."""

from collections.abc import Mapping, Sequence
from typing import Final

from django.db import connection

from apps.channels import Channel
from apps.preferences import cache
from apps.preferences.flights import Flights
from apps.preferences.quiet_hours import NO_WINDOWS, unpack_window
from apps.preferences.snapshots import NO_CHANNELS, DeviceSnapshot, RecipientSnapshot

FLIGHT_S: Final = 0.5  # how long to wait for another thread's read before reading oneself
MAX_AWAITED: Final = 8  # up to so many misses may be somebody else's as well; more are a batch of its own
_flights: Final[Flights[RecipientSnapshot]] = Flights()

_VERSIONS_SQL: Final = "SELECT user_id, id, version FROM preferences_recipient WHERE user_id = ANY(%s)"
_VERSIONS_BY_ID_SQL: Final = "SELECT id, user_id, version FROM preferences_recipient WHERE id = ANY(%s)"

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


def select_versions_by_id(recipient_ids: Sequence[int]) -> dict[int, tuple[str, int]]:
    """``recipient id -> (user_id, version)``, otherwise like ``select_versions``."""
    if not recipient_ids:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(_VERSIONS_BY_ID_SQL, [list(recipient_ids)])
        return {recipient_id: (user_id, version) for recipient_id, user_id, version in cursor.fetchall()}


def load_snapshots(versions: Mapping[str, int]) -> dict[str, RecipientSnapshot]:
    """The snapshots of these recipients, ``user_id -> snapshot``; ids PostgreSQL does not know are left out.

    ``versions`` are the versions just read from PostgreSQL (by ``select_versions`` or in the caller's own
    query): a cached snapshot counts only if it has exactly that version, everything else is read from
    PostgreSQL in two queries and cached. So a change committed before the caller read the version is always
    seen, whatever Redis holds. Call it outside a transaction that changes recipients.

    Many who miss the same recipient at once make one read: within a process the others wait for the first, and
    between processes for a moment as well."""
    snapshots = cache.read_snapshots(versions)
    missing = {user_id: version for user_id, version in versions.items() if user_id not in snapshots}
    if missing:
        snapshots.update(_load_missing(missing))
    return snapshots


def _load_missing(versions: Mapping[str, int]) -> dict[str, RecipientSnapshot]:
    mine, others = _flights.board(versions)
    loaded: dict[str, RecipientSnapshot] = {}
    try:
        if mine:
            loaded = _load_or_await({user_id: versions[user_id] for user_id in mine})
    finally:
        _flights.land(mine, loaded)
    late = []
    for user_id, flight in others.items():
        snapshot = flight.wait(FLIGHT_S)
        if snapshot is not None and snapshot.version >= versions[user_id]:
            loaded[user_id] = snapshot
        else:  # the other read began before the change that this caller has seen
            late.append(user_id)
    return loaded | _read_and_cache(late)


def _load_or_await(versions: Mapping[str, int]) -> dict[str, RecipientSnapshot]:
    if len(versions) > MAX_AWAITED:  # a batch, and nobody else's
        return _read_and_cache(list(versions))
    awaited = {user_id: versions[user_id] for user_id in cache.find_being_loaded(versions)}
    loaded = cache.await_snapshots(awaited) if awaited else {}
    return loaded | _read_and_cache([user_id for user_id in versions if user_id not in loaded])


def _read_and_cache(user_ids: list[str]) -> dict[str, RecipientSnapshot]:
    if not user_ids:
        return {}
    fresh = _read_snapshots(user_ids)
    cache.write_snapshots(fresh.values())
    return fresh


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

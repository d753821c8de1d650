"""Snapshots in Redis: two blobs a recipient, ``pref:<user id>`` and ``tokens:<user id>``, for 24 hours.

A blob begins with the recipient's version. It counts only if that equals the version its reader has just read
from PostgreSQL, so what Redis does (lose, keep, bring back) can cost time but never change a decision. A blob is
replaced only by one of the same or a later version, so a slow reader does not undo a newer write. Addresses are
in it as ciphertext.

While Redis is away every call here does nothing, at once, for a second at a time.
"""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

import msgspec
from django_redis import get_redis_connection
from redis import Redis
from redis.exceptions import RedisError

from apps import metrics
from apps.preferences.quiet_hours import Window
from apps.preferences.snapshots import DeviceSnapshot, RecipientSnapshot, channels_of, mask_of

TTL_S: Final = 86_400
AWAY_S: Final = 1.0
LOADING_MS: Final = 200  # a process that announced a load and died holds nobody up for longer
AWAIT_S: Final = 0.02
POLL_S: Final = 0.004
RECIPIENTS_PER_CALL: Final = 500
VERSION_BYTES: Final = 8
# Follows the version; raise it when a blob's layout changes, so that old and new processes ignore each other's.
_FORMAT: Final = b"\x02"
_HEADER_BYTES: Final = VERSION_BYTES + len(_FORMAT)

# KEYS: blobs' keys; ARGV: time to live in seconds, then a blob for each key.
_REPLACE_IF_NOT_OLDER: Final = """
for i, key in ipairs(KEYS) do
  local stored = redis.call('GETRANGE', key, 0, 7)
  if #stored < 8 or struct.unpack('>I8', stored) <= struct.unpack('>I8', ARGV[i + 1]) then
    redis.call('SET', key, ARGV[i + 1], 'EX', ARGV[1])
  end
end
"""


class _PreferencesBlob(msgspec.Struct, frozen=True, array_like=True, gc=False):
    recipient_id: int
    is_opted_out: bool
    is_erased: bool
    channel_wishes: int
    category_wishes: dict[int, int]
    quiet_hours: tuple[Window, ...]
    suppressed: int
    locale: str
    time_zone: str
    email_ct: bytes | None
    phone_ct: bytes | None


_encode = msgspec.msgpack.Encoder().encode
_decode_preferences = msgspec.msgpack.Decoder(_PreferencesBlob).decode
_decode_devices = msgspec.msgpack.Decoder(tuple[DeviceSnapshot, ...]).decode


class _Availability:
    """Remembers for ``AWAY_S`` that Redis did not answer, so that only one call in a while waits for it."""

    def __init__(self) -> None:
        self._away_until = 0.0

    def is_away(self) -> bool:
        return time.monotonic() < self._away_until

    def note_failure(self) -> None:
        self._away_until = time.monotonic() + AWAY_S

    def reset(self) -> None:
        self._away_until = 0.0


availability = _Availability()


def _connection() -> Redis:
    return get_redis_connection("default")  # type: ignore[no-any-return]


def _keys(user_ids: Iterable[str]) -> list[str]:
    return [key for user_id in user_ids for key in (f"pref:{user_id}", f"tokens:{user_id}")]


def read_snapshots(versions: Mapping[str, int]) -> dict[str, RecipientSnapshot]:
    """The cached snapshots of exactly these versions, by user id; what is missing is simply not there.
    One round trip. Never raises for Redis."""
    found = _look_up(versions)
    metrics.cache_lookup("preferences", len(found), len(versions) - len(found))
    return found


def peek_snapshots(user_ids: Collection[str]) -> dict[str, RecipientSnapshot]:
    """Whatever is cached of these recipients, of any version, by user id: whoever uses it must make sure that it is the
    latest. One round trip. Never raises for Redis."""
    names = list(user_ids)
    blobs = _read_blobs(_keys(names))
    found: dict[str, RecipientSnapshot] = {}
    pairs = iter(blobs or ())
    for user_id, preferences, devices in zip(names, pairs, pairs):  # noqa: B905 - none while Redis is away
        if preferences is not None and devices is not None:
            version = int.from_bytes(preferences[:VERSION_BYTES])
            snapshot = _decode(user_id, version, preferences, devices)
            if snapshot is not None:
                found[user_id] = snapshot
    metrics.cache_lookup("preferences", len(found), len(names) - len(found))
    return found


def _look_up(versions: Mapping[str, int]) -> dict[str, RecipientSnapshot]:
    blobs = _read_blobs(_keys(versions))
    if blobs is None:
        return {}
    found: dict[str, RecipientSnapshot] = {}
    pairs = iter(blobs)
    for (user_id, version), preferences, devices in zip(versions.items(), pairs, pairs, strict=True):
        if preferences is not None and devices is not None:
            snapshot = _decode(user_id, version, preferences, devices)
            if snapshot is not None:
                found[user_id] = snapshot
    return found


def _read_blobs(keys: list[str]) -> Sequence[Any] | None:
    if not keys or availability.is_away():
        return None
    try:
        return _connection().mget(keys)
    except (RedisError, OSError):
        availability.note_failure()
        return None


def _decode(user_id: str, version: int, preferences: bytes, devices: bytes) -> RecipientSnapshot | None:
    header = version.to_bytes(VERSION_BYTES, "big") + _FORMAT
    if preferences[:_HEADER_BYTES] != header or devices[:_HEADER_BYTES] != header:
        return None
    try:
        blob = _decode_preferences(preferences[_HEADER_BYTES:])
        return RecipientSnapshot(
            recipient_id=blob.recipient_id,
            user_id=user_id,
            version=version,
            is_opted_out=blob.is_opted_out,
            is_erased=blob.is_erased,
            channel_wishes=blob.channel_wishes,
            category_wishes=blob.category_wishes,
            quiet_hours=blob.quiet_hours,
            suppressed_channels=channels_of(blob.suppressed),
            locale=blob.locale,
            time_zone=blob.time_zone,
            email_ct=blob.email_ct,
            phone_ct=blob.phone_ct,
            devices=_decode_devices(devices[_HEADER_BYTES:]),
        )
    except (msgspec.DecodeError, IndexError):
        return None


def write_snapshots(snapshots: Collection[RecipientSnapshot]) -> None:
    """Cache ``snapshots``, none over a later version. One round trip per 500 recipients. Never raises for Redis.

    A snapshot must come from committed data: call it outside a transaction that changes recipients."""
    if not snapshots or availability.is_away():
        return
    try:
        connection = _connection()
        script = connection.register_script(_REPLACE_IF_NOT_OLDER)
        for chunk in _chunks(snapshots, RECIPIENTS_PER_CALL):
            blobs = [blob for snapshot in chunk for blob in _encode_snapshot(snapshot)]
            script(keys=_keys(snapshot.user_id for snapshot in chunk), args=[TTL_S, *blobs], client=connection)
    except (RedisError, OSError):
        availability.note_failure()


def find_being_loaded(versions: Mapping[str, int]) -> list[str]:
    """Announce that this process is about to load these recipients, and return those that another one had announced
    already, at this version: they will be cached in a moment. One round trip. Never raises for Redis."""
    if not versions or availability.is_away():
        return []
    try:
        pipeline = _connection().pipeline(transaction=False)
        for user_id, version in versions.items():
            pipeline.set(f"load:{user_id}:{version}", b"", nx=True, px=LOADING_MS)
        return [user_id for user_id, is_first in zip(versions, pipeline.execute(), strict=True) if not is_first]
    except (RedisError, OSError):
        availability.note_failure()
        return []


def await_snapshots(versions: Mapping[str, int]) -> dict[str, RecipientSnapshot]:
    """Those of these snapshots that another process caches within 20 ms. Never raises for Redis."""
    found: dict[str, RecipientSnapshot] = {}
    deadline = time.monotonic() + AWAIT_S
    while len(found) < len(versions) and time.monotonic() < deadline and not availability.is_away():
        time.sleep(POLL_S)
        found |= _look_up({user_id: version for user_id, version in versions.items() if user_id not in found})
    return found


def _encode_snapshot(snapshot: RecipientSnapshot) -> tuple[bytes, bytes]:
    header = snapshot.version.to_bytes(VERSION_BYTES, "big") + _FORMAT
    preferences = _PreferencesBlob(
        recipient_id=snapshot.recipient_id,
        is_opted_out=snapshot.is_opted_out,
        is_erased=snapshot.is_erased,
        channel_wishes=snapshot.channel_wishes,
        category_wishes=snapshot.category_wishes,
        quiet_hours=snapshot.quiet_hours,
        suppressed=mask_of(snapshot.suppressed_channels),
        locale=snapshot.locale,
        time_zone=snapshot.time_zone,
        email_ct=snapshot.email_ct,
        phone_ct=snapshot.phone_ct,
    )
    return header + _encode(preferences), header + _encode(snapshot.devices)


def _chunks(snapshots: Iterable[RecipientSnapshot], size: int) -> Iterator[list[RecipientSnapshot]]:
    iterator = iter(snapshots)
    while chunk := list(islice(iterator, size)):
        yield chunk


def forget_snapshots(user_ids: Collection[str]) -> None:
    """Drop what is cached of these recipients: tidiness after a write, not what makes reads right.
    Never raises for Redis."""
    if not user_ids or availability.is_away():
        return
    try:
        _connection().unlink(*_keys(user_ids))
    except (RedisError, OSError):
        availability.note_failure()

"""Identifiers that carry their own time, and how a delivery's id follows from its notification's.

A notification's id is a UUIDv7 (RFC 9562 §5.7) whose last byte is zero; its deliveries have the same id with the last
byte counting from 1. So the deliveries of a notification are a range scan of the primary key in one partition, and no
column or index is spent on the relation. 66 random bits within a millisecond remain.

A broadcast's deliveries have ids of version 8 (RFC 9562 §5.8), which say it all: the millisecond in which the broadcast
started, its number, the channel, and the number of the recipient or device. So they lie together in one partition, a
broadcast needs no column or index either, and nobody can get the same broadcast twice at the same address. Channel 0
and the recipient's number stand for somebody who was to get a push and has no device.
"""

import time
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from apps.randomness import random_bytes

MAX_DELIVERIES = 255
MAX_BROADCAST_NUMBER = (1 << 26) - 1
MAX_ADDRESS_NUMBER = (1 << 46) - 1
_VERSION = 0x7 << 76
_VARIANT = 0x2 << 62
_BROADCAST_VERSION = 0x8 << 76
_RANDOM_A = 0xFFF << 64
_RANDOM_B = ((1 << 54) - 1) << 8


def new_notification_id(now_ms: int | None = None) -> UUID:
    """A fresh notification id of this millisecond (Unix time in ms may be given)."""
    stamp = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    noise = int.from_bytes(random_bytes(10)) << 8
    return UUID(int=(stamp << 80) | _VERSION | (noise & _RANDOM_A) | _VARIANT | (noise & _RANDOM_B))


def delivery_ids(notification_id: UUID, count: int) -> list[UUID]:
    """The first ``count`` delivery ids of a notification, in order; at most ``MAX_DELIVERIES``."""
    if not 0 <= count <= MAX_DELIVERIES:
        raise ValueError(f"a notification has 0 to {MAX_DELIVERIES} deliveries, not {count}")
    return [UUID(int=notification_id.int | ordinal) for ordinal in range(1, count + 1)]


def notification_id_of(delivery_id: UUID) -> UUID:
    """The notification a delivery belongs to."""
    return UUID(int=delivery_id.int & ~0xFF)


def delivery_range(notification_id: UUID) -> tuple[UUID, UUID]:
    """The lowest and the highest id a delivery of this notification can have, both inclusive."""
    return UUID(int=notification_id.int | 1), UUID(int=notification_id.int | 0xFF)


def time_of(identifier: UUID) -> datetime:
    """When the id was made (UTC, to the millisecond)."""
    return datetime.fromtimestamp((identifier.int >> 80) / 1000, UTC)


def first_id_at(moment: datetime) -> UUID:
    """The lowest UUIDv7 of that millisecond: the bound of a range of ids by time."""
    return UUID(int=(int(moment.timestamp() * 1000) << 80) | _VERSION | _VARIANT)


def day_bounds(day: date) -> tuple[UUID, UUID]:
    """The ids of a UTC day as a half-open range. The lower bound leaves version and variant out, as range bounds
    compare bytes and a partition shall hold every id of its day."""
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    stop = start + timedelta(days=1)
    return (
        UUID(int=int(start.timestamp() * 1000) << 80),
        UUID(int=int(stop.timestamp() * 1000) << 80),
    )


def broadcast_delivery_id(started_ms: int, number: int, channel: int, address_number: int) -> UUID:
    """The id of a broadcast's delivery: ``started_ms`` is Unix time in ms, ``address_number`` the device's id for a
    push and the recipient's otherwise."""
    return broadcast_address_id(broadcast_id_base(started_ms, number, channel), address_number)


def broadcast_id_base(started_ms: int, number: int, channel: int) -> int:
    """What the ids of a broadcast on one channel have in common, to be or-ed with the address's number."""
    if not 0 < number <= MAX_BROADCAST_NUMBER:
        raise ValueError(f"a broadcast's number is 1 to {MAX_BROADCAST_NUMBER}, not {number}")
    in_high, in_low = number >> 14, number & 0x3FFF
    return (started_ms << 80) | _BROADCAST_VERSION | (in_high << 64) | _VARIANT | (in_low << 48) | (channel << 46)


def broadcast_address_id(base: int, address_number: int) -> UUID:
    """The id of a broadcast's delivery to this address, by what ``broadcast_id_base`` gave."""
    return UUID(int=base | address_number)


def broadcast_range(started_ms: int, number: int) -> tuple[UUID, UUID]:
    """The lowest and the highest id a delivery of this broadcast can have, both inclusive."""
    return broadcast_delivery_id(started_ms, number, 0, 0), broadcast_delivery_id(
        started_ms, number, 3, MAX_ADDRESS_NUMBER
    )


def address_number_of(delivery_id: UUID) -> int:
    """The number of the device or recipient that a broadcast's delivery is for."""
    return delivery_id.int & MAX_ADDRESS_NUMBER


def is_of_broadcast(delivery_id: UUID) -> bool:
    """Whether this delivery belongs to a broadcast, and not to a notification."""
    return (delivery_id.int >> 76) & 0xF == 8


def broadcast_number_of(delivery_id: UUID) -> int | None:
    """The number of the broadcast this delivery belongs to; ``None`` for a notification's."""
    if not is_of_broadcast(delivery_id):
        return None
    value = delivery_id.int
    return ((value >> 64) & 0xFFF) << 14 | (value >> 48) & 0x3FFF

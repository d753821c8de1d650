"""Identifiers that carry their own time, and how a delivery's id follows from its notification's.

A notification's id is a UUIDv7 (RFC 9562 §5.7) whose last byte is zero; its deliveries have the same id with the last
byte counting from 1. So the deliveries of a notification are a range scan of the primary key in one partition, and no
column or index is spent on the relation. 66 random bits within a millisecond remain.
"""

import os
import time
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

MAX_DELIVERIES = 255
_VERSION = 0x7 << 76
_VARIANT = 0x2 << 62
_RANDOM_A = 0xFFF << 64
_RANDOM_B = ((1 << 54) - 1) << 8


def new_notification_id(now_ms: int | None = None) -> UUID:
    """A fresh notification id of this millisecond (Unix time in ms may be given)."""
    stamp = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    noise = int.from_bytes(os.urandom(10)) << 8
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

"""Deliveries that go out one after the other: those of one recipient and channel with the same ordering key stand in a
line, in the order in which they were accepted, and only the first may be claimed.

Whoever claims from a line holds its lock until the claim is committed, and looks only then who is first; so two
workers cannot both take a first. What finishes a delivery, whatever the way, lets the next one step forward: whoever
sent the one before goes on with it (``stepping_forward``), or its doorbell is rung. Should that be lost, the sweep
rings for everybody in the line every few seconds anyway.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar
from uuid import UUID

from django.db import connection, transaction

from apps.delivery.doorbell import ring_deliveries

T = TypeVar("T")
LOCKS_AT_ONCE = 50  # PostgreSQL keeps them in a table of fixed size that everybody shares


class Line(NamedTuple):
    """A line: a recipient, a channel, and the hash of a client's ordering key."""

    recipient_id: int
    channel: int
    order_hash: int

    @property
    def lock(self) -> int:
        """The number of its advisory lock. Two lines with the same one only wait for each other."""
        return self.order_hash ^ (self.recipient_id << 2 | self.channel)


class Ordered(NamedTuple):
    """A delivery that is due, and its line."""

    id: UUID
    line: Line


class Next(NamedTuple):
    """A delivery that is the first of its line now."""

    id: UUID
    line: Line
    lane: int


# The numbers of requests that come in at the same moment may become visible in another order than they were drawn in:
# then a later one may be on its way already when an earlier one appears, close behind it, and that one must wait.
_PICK = """
SELECT d.id FROM delivery d
WHERE d.id = ANY(%(ids)s::uuid[])
  AND d.order_hash IS NOT NULL AND d.ring_at IS NOT NULL AND d.next_attempt_at <= now()
  AND NOT EXISTS (
      SELECT FROM delivery earlier
      WHERE earlier.recipient_id = d.recipient_id AND earlier.channel = d.channel
        AND earlier.order_hash = d.order_hash AND earlier.ring_at IS NOT NULL
        AND (earlier.order_no, earlier.id) < (d.order_no, d.id))
  AND NOT EXISTS (
      SELECT FROM (
          SELECT status, next_attempt_at FROM delivery
          WHERE recipient_id = d.recipient_id AND channel = d.channel AND order_hash = d.order_hash
            AND ring_at IS NOT NULL AND (order_no, id) > (d.order_no, d.id)
          ORDER BY order_no LIMIT 100) AS behind
      WHERE behind.status = 2 AND behind.next_attempt_at > now())
"""
_FIRST = """
SELECT first.id, line.recipient_id, line.channel, line.order_hash, first.lane
FROM unnest(%(recipients)s::bigint[], %(channels)s::smallint[], %(hashes)s::bigint[])
     AS line(recipient_id, channel, order_hash)
CROSS JOIN LATERAL (
    SELECT id, lane, status, next_attempt_at FROM delivery
    WHERE recipient_id = line.recipient_id AND channel = line.channel AND order_hash = line.order_hash
      AND ring_at IS NOT NULL
    ORDER BY order_no, id LIMIT 1) AS first
WHERE first.status = 1 AND first.next_attempt_at <= now()
"""
_RING_NOW = """
UPDATE delivery SET ring_at = now()
WHERE id = ANY(%(ids)s::uuid[]) AND status = 1
"""


def claim_in_turn(waiting: Sequence[Ordered | Next], claim: Callable[[list[UUID]], list[T]]) -> list[T]:
    """What ``claim`` makes of those of the due that are first in their lines, some lines at a time. Nobody else can
    claim from these lines meanwhile."""
    lines = sorted({(ordered.line.lock, ordered.line) for ordered in waiting})
    claimed: list[T] = []
    for start in range(0, len(lines), LOCKS_AT_ONCE):
        some = {line for _, line in lines[start : start + LOCKS_AT_ONCE]}
        with transaction.atomic():
            _lock(some)
            claimed += claim(_pick([ordered.id for ordered in waiting if ordered.line in some]))
    return claimed


def _lock(lines: Iterable[Line]) -> None:
    # In order, so that two workers cannot wait for each other. A statement of its own: the next one sees what whoever
    # held a lock has committed.
    numbers = sorted({line.lock for line in lines})
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(number) FROM unnest(%s::bigint[]) AS number", [numbers])


def _pick(ids: Sequence[UUID]) -> list[UUID]:
    with connection.cursor() as cursor:
        cursor.execute(_PICK, {"ids": list(ids)})
        return [row[0] for row in cursor.fetchall()]


_local = threading.local()


@contextmanager
def stepping_forward() -> Iterator[list[Next]]:
    """Who steps forward by what this thread does within the block: on the list, and not rung for. ``ring_first`` does
    that for those the thread does not go on with itself."""
    _local.found = found = list[Next]()
    try:
        yield found
    finally:
        _local.found = None


def release(lines: Iterable[Line]) -> None:
    """Something of these lines has come to its end: rings for who is first now, once the transaction is committed."""
    unique = sorted(set(lines))
    if unique:
        transaction.on_commit(lambda: _find_first(unique), robust=True)


def _find_first(lines: Sequence[Line]) -> None:
    recipients, channels, hashes = (list(column) for column in zip(*lines, strict=True))
    with connection.cursor() as cursor:
        cursor.execute(_FIRST, {"recipients": recipients, "channels": channels, "hashes": hashes})
        first = [Next(row[0], Line(*row[1:4]), row[4]) for row in cursor.fetchall()]
    found: list[Next] | None = getattr(_local, "found", None)
    if found is None:
        ring_first(first)
    else:
        found += first


def ring_first(first: Sequence[Next]) -> None:
    """Rings for them, or has the sweep do it soon."""
    if first:
        with connection.cursor() as cursor:
            cursor.execute(_RING_NOW, {"ids": [one.id for one in first]})
        ring_deliveries((one.id, one.line.channel, one.lane) for one in first)

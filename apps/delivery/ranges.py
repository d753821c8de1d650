"""Changes to whole ranges of deliveries, as a broadcast's are: the same rules as in ``outcomes.py``, for many rows at a
time. Open rows are found through the sweep's index, so their number counts, not that of the rows that are done."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import connection

from apps.channels import Lane
from apps.delivery.statuses import Reason, Status

BITE = 5_000
REVIVE_MAX = 100_000

_OPEN = "lane = %(lane)s AND client_id = %(client_id)s AND ring_at IS NOT NULL AND id BETWEEN %(low)s AND %(high)s"
_HAS_OPEN = f"SELECT EXISTS (SELECT FROM delivery WHERE {_OPEN})"  # noqa: S608 - constants only
# As when a notification is cancelled: what had no answer may have left, and stands as unknown.
_CLOSE = f"""
WITH bite AS MATERIALIZED (
    SELECT id FROM delivery WHERE {_OPEN} AND status = 1 LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
UPDATE delivery d
SET status = CASE WHEN d.reason = %(unanswered)s THEN %(unknown)s ELSE %(status)s END,
    reason = CASE WHEN d.reason = %(unanswered)s THEN %(no_answer)s ELSE %(reason)s END,
    next_attempt_at = NULL, ring_at = NULL
FROM bite WHERE d.id = bite.id AND d.id BETWEEN %(low)s AND %(high)s
"""  # noqa: S608 - constants only
_RING = f"""
UPDATE delivery SET next_attempt_at = now(), ring_at = now() WHERE {_OPEN} AND status = 1 AND reason = %(reason)s
"""  # noqa: S608 - constants only
# What the provider called dead stays dead.
_REVIVE = """
WITH chosen AS MATERIALIZED (
    SELECT id, row_number() OVER (ORDER BY id) - 1 AS place FROM (
        SELECT id FROM delivery
        WHERE id BETWEEN %(low)s AND %(high)s AND status = ANY(%(statuses)s::smallint[]) AND reason <> %(invalid)s
        ORDER BY id LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    ) AS locked
)
UPDATE delivery d
SET status = 1, reason = %(reason)s, attempts = 0, lapses = 0,
    next_attempt_at = now() + make_interval(secs => COALESCE(chosen.place / %(rate)s::float8, 0)),
    ring_at = now() + make_interval(secs => COALESCE(chosen.place / %(rate)s::float8, 0))
FROM chosen
WHERE d.id = chosen.id AND d.id BETWEEN %(low)s AND %(high)s
"""


@dataclass(frozen=True, slots=True)
class IdRange:
    """Deliveries of one client in the bulk lane with ids from ``low`` to ``high``, both inclusive."""

    client_id: int
    low: UUID
    high: UUID

    def parameters(self, **others: Any) -> dict[str, Any]:
        return {"lane": Lane.BULK, "client_id": self.client_id, "low": self.low, "high": self.high, **others}


def has_open(wanted: IdRange) -> bool:
    """Whether any of them is queued or being sent."""
    with connection.cursor() as cursor:
        cursor.execute(_HAS_OPEN, wanted.parameters())
        row = cursor.fetchone()
    return bool(row and row[0])


def cancel_bite(wanted: IdRange) -> int:
    """Cancels up to ``BITE`` of those that are queued; returns how many. Call it until that is less."""
    parameters = wanted.parameters(
        limit=BITE,
        status=Status.CANCELLED,
        reason=Reason.CANCELLED_BY_CLIENT,
        unanswered=Reason.RETRY_AFTER_UNKNOWN,
        unknown=Status.UNKNOWN,
        no_answer=Reason.NO_ANSWER,
    )
    with connection.cursor() as cursor:
        cursor.execute(_CLOSE, parameters)
        return int(cursor.rowcount)


def make_due(wanted: IdRange, *, reason: Reason) -> int:
    """Makes those that wait for ``reason`` due now; returns how many."""
    with connection.cursor() as cursor:
        cursor.execute(_RING, wanted.parameters(reason=reason))
        return int(cursor.rowcount)


def revive(wanted: IdRange, *, statuses: Collection[Status], rate_per_s: float | None) -> int:
    """Puts those in ``statuses`` back into the queue, at most ``REVIVE_MAX``, ``rate_per_s`` of them due in each
    second; returns how many. Dead addresses are left alone."""
    parameters = wanted.parameters(
        statuses=[int(status) for status in statuses],
        limit=REVIVE_MAX,
        rate=rate_per_s,
        reason=Reason.REPLAYED,
        invalid=Reason.INVALID_RECIPIENT,
    )
    with connection.cursor() as cursor:
        cursor.execute(_REVIVE, parameters)
        return int(cursor.rowcount)

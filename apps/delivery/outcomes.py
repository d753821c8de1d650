"""The only writer of a delivery's status. Every change is one conditional UPDATE on the database's clock; a row that is
not in the expected state is left alone, so duplicates and latecomers change nothing.

A claim gives a worker the row until its lease runs out and raises the row's ``fence``; a record counts only under the
fence it was claimed with.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.db import connection

from apps import pg_arrays
from apps.delivery import ordering
from apps.delivery.ids import delivery_range
from apps.delivery.ordering import Line, Next, Ordered
from apps.delivery.statuses import AttemptOutcome, Reason, Status
from apps.pg_prepared import execute_prepared, run_prepared
from apps.providers.messages import ReceiptKind


class Claim(NamedTuple):
    """A row this worker may send until its lease runs out. One with an ``order_hash`` keeps others waiting."""

    id: UUID
    recipient_id: int
    device_id: int | None
    channel: int
    lane: int
    attempts: int
    fence: int
    lapses: int
    order_hash: int | None = None


class FailedCall(msgspec.Struct, frozen=True, gc=False):
    """A provider call that failed: becomes a row of ``attempt``. ``provider_id`` 0 is no provider: a bug of ours."""

    outcome: AttemptOutcome
    code: str
    message: str
    latency_s: float = 0.0
    provider_id: int = 0


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What a worker decided about a claimed row. ``delay_s`` is the time until the row is due again, ``None`` when it
    is done. ``has_tried`` says whether a provider was called: only then an attempt is used up, one however many
    providers were tried in turn."""

    claim: Claim
    status: Status
    reason: int = 0
    has_tried: bool = False
    provider_id: int | None = None
    provider_message_id: str | None = None
    delay_s: float | None = None
    failed_calls: tuple[FailedCall, ...] = ()


# What the planner expects of these statements must not hang on statistics: fresh ids lie beyond all that it knows, and
# so few rows are open that it takes them for one, which is an invitation to compare each row with each (500 × 500 takes
# a quarter of a second). So what is joined has the ids as an array, which says how many rows there are and in which
# partitions, and states are compared within a CASE, of which it expects that half are so.

# Of rows with an order the first statement only says that they are due: see ``ordering.py``.
_CLAIM = """
WITH picked AS MATERIALIZED (
    SELECT id, recipient_id, channel, order_hash FROM delivery
    WHERE id = ANY(%(ids)s::uuid[]) AND status IN (1, 2) AND next_attempt_at <= now()
    ORDER BY id
    FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE delivery d
    SET status = 2,
        fence = d.fence + 1,
        lapses = d.lapses + (d.status = 2)::int,
        next_attempt_at = now() + make_interval(secs => %(lease_s)s),
        ring_at = now() + make_interval(secs => %(lease_s)s)
    WHERE d.id = ANY(ARRAY(SELECT id FROM picked)) AND d.id BETWEEN %(low)s AND %(high)s
      AND (d.order_hash IS NULL OR %(is_its_turn)s)
    RETURNING d.id, d.recipient_id, d.device_id, d.channel, d.lane, d.attempts, d.fence, d.lapses, d.order_hash
)
SELECT * FROM claimed
UNION ALL
SELECT id, recipient_id, NULL, channel, NULL, NULL, NULL, NULL, order_hash FROM picked
WHERE order_hash IS NOT NULL AND NOT %(is_its_turn)s
"""


def claim_deliveries(ids: Sequence[UUID], *, lease_s: float) -> list[Claim]:
    """Takes those of ``ids`` that are due and nobody else's, for ``lease_s`` seconds; of those with an order only the
    first in line."""
    rows = _claim(ids, lease_s, is_its_turn=False)
    claims = [Claim._make(row) for row in rows if row[6] is not None]
    if len(claims) < len(rows):
        waiting = [Ordered(row[0], Line(row[1], row[3], row[8])) for row in rows if row[6] is None]
        claims += claim_next(waiting, lease_s=lease_s)
    return claims


def claim_next(waiting: Sequence[Ordered | Next], *, lease_s: float) -> list[Claim]:
    """The same for what is known to have an order."""
    rows = ordering.claim_in_turn(waiting, lambda first_ids: _claim(first_ids, lease_s, is_its_turn=True))
    return [Claim._make(row) for row in rows]


def _claim(ids: Sequence[UUID], lease_s: float, *, is_its_turn: bool) -> list[tuple[Any, ...]]:
    if not ids:
        return []
    return run_prepared(
        _CLAIM,
        {
            "ids": pg_arrays.of_uuids(ids),
            "low": min(ids),
            "high": max(ids),
            "lease_s": lease_s,
            "is_its_turn": is_its_turn,
        },
    )


# A receipt can overtake the record of its own call: then only the facts of the call are filled in.
_RECORD = """
UPDATE delivery d
SET status = CASE WHEN d.status = 2 THEN o.status ELSE d.status END,
    reason = CASE WHEN d.status = 2 THEN o.reason ELSE d.reason END,
    attempts = d.attempts + o.tried,
    provider = COALESCE(o.provider, d.provider),
    provider_message_id = COALESCE(o.message_id, d.provider_message_id),
    error_code = CASE WHEN o.status = 3 THEN NULL ELSE COALESCE(o.code, d.error_code) END,
    sent_at = CASE WHEN o.status = 3 THEN COALESCE(d.sent_at, now()) ELSE d.sent_at END,
    next_attempt_at = CASE WHEN d.status = 2 THEN now() + make_interval(secs => o.delay_s) END,
    ring_at = CASE WHEN d.status = 2 THEN now() + make_interval(secs => o.delay_s) END
FROM unnest(%(ids)s::uuid[], %(fences)s::int[], %(statuses)s::smallint[], %(reasons)s::smallint[],
            %(tried)s::smallint[], %(providers)s::smallint[], %(message_ids)s::text[], %(codes)s::text[],
            %(delays)s::float8[])
     AS o(id, fence, status, reason, tried, provider, message_id, code, delay_s)
WHERE d.id = o.id AND d.id = ANY(%(ids)s::uuid[]) AND d.fence = o.fence
  AND CASE WHEN d.status IN (2, 4, 5, 6) THEN true ELSE false END
RETURNING d.id
"""
_RECORD_ATTEMPTS = """
INSERT INTO attempt (delivery_id, fence, at, latency_ms, provider, outcome, code, message)
SELECT id, fence, now(), latency_ms, provider, outcome, code, message
FROM unnest(%s::uuid[], %s::int[], %s::int[], %s::smallint[], %s::smallint[], %s::text[], %s::text[])
     AS a(id, fence, latency_ms, provider, outcome, code, message)
ON CONFLICT DO NOTHING
"""


def record_outcomes(outcomes: Sequence[Outcome]) -> set[UUID]:
    """Writes the outcomes; returns the ids that were still this worker's to write. The others had been claimed again
    after their lease ran out: their word is the newer one's."""
    if not outcomes:
        return set()
    columns = _fenced_columns(outcomes)
    _record_attempts(outcomes)
    recorded = {row[0] for row in run_prepared(_RECORD, columns)}
    ordering.release(
        Line(claim.recipient_id, claim.channel, claim.order_hash)
        for claim in (outcome.claim for outcome in outcomes if outcome.delay_s is None)
        if claim.order_hash is not None
    )
    return recorded


# A crash after the insert and before its commit leaves nothing; a chunk sent twice finds its first word here.
_INSERT = """
INSERT INTO delivery (id, recipient_id, device_id, client_id, channel, lane, status, reason, attempts, fence, lapses,
                      provider, provider_message_id, error_code, sent_at, next_attempt_at, ring_at)
SELECT o.id, o.recipient_id, o.device_id, %(client_id)s::bigint, %(channel)s::smallint, %(lane)s::smallint, o.status,
       o.reason, o.tried, %(fence)s::int, 0, o.provider, o.message_id, o.code, CASE WHEN o.status = 3 THEN now() END,
       now() + make_interval(secs => o.delay_s), now() + make_interval(secs => o.delay_s)
FROM unnest(%(ids)s::uuid[], %(recipients)s::bigint[], %(devices)s::bigint[], %(statuses)s::smallint[],
            %(reasons)s::smallint[], %(tried)s::smallint[], %(providers)s::smallint[], %(message_ids)s::text[],
            %(codes)s::text[], %(delays)s::float8[])
     AS o(id, recipient_id, device_id, status, reason, tried, provider, message_id, code, delay_s)
ON CONFLICT (id) DO NOTHING
"""


def insert_outcomes(outcomes: Sequence[Outcome], *, client_id: int) -> int:
    """Writes deliveries of a chunk, which had no rows yet, as they stand now; returns how many indeed had none. Call it
    in the transaction that says that the chunk is done."""
    if not outcomes:
        return 0
    first = outcomes[0].claim
    columns = {
        **_columns(outcomes),
        "client_id": client_id,
        "channel": first.channel,
        "lane": first.lane,
        "fence": first.fence,
        "recipients": pg_arrays.of_numbers([outcome.claim.recipient_id for outcome in outcomes]),
        "devices": pg_arrays.of_numbers([outcome.claim.device_id for outcome in outcomes]),
    }
    _record_attempts(outcomes)
    return execute_prepared(_INSERT, columns)


def _fenced_columns(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return _columns(outcomes) | {"fences": pg_arrays.of_numbers([outcome.claim.fence for outcome in outcomes])}


def _columns(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    codes = [_text(outcome.failed_calls[-1].code, 64) if outcome.failed_calls else None for outcome in outcomes]
    return {
        "ids": pg_arrays.of_uuids([outcome.claim.id for outcome in outcomes]),
        "statuses": pg_arrays.of_numbers([outcome.status for outcome in outcomes]),
        "reasons": pg_arrays.of_numbers([outcome.reason for outcome in outcomes]),
        "tried": pg_arrays.of_numbers([int(outcome.has_tried) for outcome in outcomes]),
        "providers": pg_arrays.of_numbers([outcome.provider_id for outcome in outcomes]),
        "message_ids": pg_arrays.of_texts([_text(outcome.provider_message_id, 256) for outcome in outcomes]),
        "codes": pg_arrays.of_texts(codes),
        "delays": pg_arrays.of_numbers([outcome.delay_s for outcome in outcomes]),
    }


def _text(value: str | None, length: int) -> str | None:
    """A provider's word as PostgreSQL can store it: cut, without NUL and lone surrogates."""
    if value is None or (value.isascii() and value.isprintable() and len(value) <= length):
        return value
    return value[:length].replace("\0", "").encode("utf-8", "replace").decode()


def _record_attempts(outcomes: Sequence[Outcome]) -> None:
    calls = [(outcome.claim, call) for outcome in outcomes for call in outcome.failed_calls]
    if not calls:
        return
    with connection.cursor() as cursor:
        cursor.execute(
            _RECORD_ATTEMPTS,
            [
                [claim.id for claim, _ in calls],
                [claim.fence for claim, _ in calls],
                [round(call.latency_s * 1000) for _, call in calls],
                [call.provider_id for _, call in calls],
                [int(call.outcome) for _, call in calls],
                [_text(call.code, 64) for _, call in calls],
                [_text(call.message, 200) for _, call in calls],
            ],
        )


def cancel_deliveries(notification_id: UUID) -> int:
    """Cancels what of a notification has not left; returns how many deliveries that were. One whose last call had no
    answer may have left: it is not tried again, and stands as unknown."""
    low, high = delivery_range(notification_id)
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE delivery SET status = CASE WHEN reason = %s THEN %s ELSE %s END, "
            "reason = CASE WHEN reason = %s THEN %s ELSE %s END, next_attempt_at = NULL, ring_at = NULL "
            "WHERE id BETWEEN %s AND %s AND status = %s RETURNING status, recipient_id, channel, order_hash",
            [
                Reason.RETRY_AFTER_UNKNOWN, Status.UNKNOWN, Status.CANCELLED,
                Reason.RETRY_AFTER_UNKNOWN, Reason.NO_ANSWER, Reason.CANCELLED_BY_CLIENT,
                low, high, Status.QUEUED,
            ],
        )  # fmt: skip
        rows = cursor.fetchall()
    ordering.release(Line(*line) for _, *line in rows if line[2] is not None)
    return sum(1 for status, *_ in rows if status == Status.CANCELLED)


# Only what is still dead: a late receipt may have brought it to life, another replay may have been faster.
_REVIVE = """
WITH chosen AS MATERIALIZED (
    SELECT id, row_number() OVER (ORDER BY id) - 1 AS place FROM (
        SELECT id FROM delivery
        WHERE id = ANY(%(ids)s::uuid[]) AND CASE WHEN status = 11 THEN true ELSE false END
        ORDER BY id
        FOR UPDATE
    ) AS locked
)
UPDATE delivery d
SET status = 1, reason = %(reason)s, attempts = 0, lapses = 0,
    next_attempt_at = now() + make_interval(secs => (%(start)s + chosen.place) / %(rate)s::float8),
    ring_at = now() + make_interval(secs => (%(start)s + chosen.place) / %(rate)s::float8)
FROM chosen
WHERE d.id = chosen.id AND d.id = ANY(%(ids)s::uuid[])
RETURNING d.id
"""


def revive_deliveries(ids: Sequence[UUID], *, rate_per_s: float, start: int = 0) -> set[UUID]:
    """Puts dead deliveries back into the queue, ``rate_per_s`` of them due in each second from now on, the first in the
    place ``start`` of that line; returns those that were dead still. Their attempts count from zero again."""
    if not ids:
        return set()
    with connection.cursor() as cursor:
        cursor.execute(
            _REVIVE,
            {
                "ids": list(ids),
                "rate": rate_per_s,
                "start": start,
                "reason": int(Reason.REPLAYED),
            },
        )
        return {row[0] for row in cursor.fetchall()}


@dataclass(frozen=True, slots=True)
class ReceiptRule:
    """Which statuses a kind of receipt may move a delivery from, and where to."""

    sources: tuple[Status, ...]
    target: Status
    reason: int = 0


# Forward only. What has not been sent, as far as we know, moves only if there was a call at all: one without an answer,
# whose receipt makes a retry unnecessary or a cancellation untrue.
RECEIPT_RULES: dict[ReceiptKind, ReceiptRule] = {
    ReceiptKind.ACCEPTED: ReceiptRule((Status.UNKNOWN,), Status.SENT),
    ReceiptKind.DELIVERED: ReceiptRule(
        (
            Status.QUEUED,
            Status.SENDING,
            Status.SENT,
            Status.UNKNOWN,
            Status.DEAD,
            Status.CANCELLED,
            Status.EXPIRED,
            Status.SUPPRESSED,
        ),
        Status.DELIVERED,
    ),
    ReceiptKind.FAILED: ReceiptRule((Status.SENT, Status.UNKNOWN), Status.FAILED, Reason.PROVIDER_REFUSED),
    ReceiptKind.BOUNCED: ReceiptRule((Status.SENT, Status.UNKNOWN), Status.BOUNCED, Reason.BOUNCED),
}
# These say that a call failed; while another may be under way they wait for its record.
WAITING_KINDS = (ReceiptKind.FAILED, ReceiptKind.BOUNCED)

_APPLY = """
WITH locked AS MATERIALIZED (  -- in order, so that two of these cannot wait for each other
    SELECT id FROM delivery WHERE id = ANY(%(ids)s::uuid[]) ORDER BY id FOR UPDATE
)
UPDATE delivery d
SET status = %(target)s,
    reason = %(reason)s,
    sent_at = COALESCE(d.sent_at, r.occurred_at),
    -- Providers' clocks differ, and some count in whole seconds.
    delivered_at = CASE WHEN %(target)s = 4 THEN GREATEST(r.occurred_at, d.sent_at) ELSE d.delivered_at END,
    error_code = CASE WHEN %(target)s IN (3, 4) THEN NULL ELSE COALESCE(NULLIF(r.code, ''), d.error_code) END,
    next_attempt_at = NULL,
    ring_at = NULL
FROM unnest(%(ids)s::uuid[], %(times)s::timestamptz[], %(codes)s::text[], %(message_ids)s::text[])
     AS r(id, occurred_at, code, message_id)
WHERE (SELECT count(*) FROM locked) > 0
  AND d.id = r.id AND d.id = ANY(%(ids)s::uuid[])
  AND CASE WHEN d.status = ANY(%(sources)s::smallint[])
                AND (d.status NOT IN (1, 7, 8, 9) OR d.provider IS NOT NULL) THEN true ELSE false END
  -- A failure of an earlier attempt says nothing about the one that was sent. (SendGrid's ids grow a suffix.)
  AND (%(target)s = 4 OR r.message_id IS NULL OR d.provider_message_id IS NULL
       OR starts_with(r.message_id, d.provider_message_id))
RETURNING d.id, d.channel, d.lane, d.status, d.provider, d.delivered_at, d.recipient_id, d.order_hash
"""


class Moved(NamedTuple):
    """A delivery that a receipt moved to a new status."""

    id: UUID
    channel: int
    lane: int
    status: int
    provider: int | None
    delivered_at: datetime | None


class ReceiptFact(NamedTuple):
    """What a receipt says: of which delivery, when it occurred, the provider's code and name of the message."""

    delivery_id: UUID
    occurred_at: datetime
    code: str
    provider_message_id: str | None


def select_under_way(ids: Collection[UUID]) -> set[UUID]:
    """Those of ``ids`` that a worker is sending just now."""
    if not ids:
        return set()
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id FROM delivery WHERE id = ANY(%s::uuid[]) AND status = %s", [list(ids), Status.SENDING]
        )
        return {row[0] for row in cursor.fetchall()}


def apply_receipts(kind: ReceiptKind, receipts: Sequence[ReceiptFact]) -> list[Moved]:
    """Applies receipts of one kind; returns the deliveries they moved. Rows that stand further ahead already are left
    alone."""
    rule = RECEIPT_RULES.get(kind)
    if rule is None or not receipts:
        return []
    unique = {receipt.delivery_id: receipt for receipt in receipts}
    with connection.cursor() as cursor:
        cursor.execute(
            _APPLY,
            {
                "ids": list(unique),
                "times": [receipt.occurred_at for receipt in unique.values()],
                "codes": [_text(receipt.code, 64) for receipt in unique.values()],
                "message_ids": [receipt.provider_message_id for receipt in unique.values()],
                "sources": [int(status) for status in rule.sources],
                "target": int(rule.target),
                "reason": int(rule.reason),
            },
        )
        rows = cursor.fetchall()
    ordering.release(Line(row[6], row[1], row[7]) for row in rows if row[7] is not None)
    return [Moved(*row[:6]) for row in rows]

"""How a chunk ends: the rows of its deliveries, the word that it is done and the broadcast's error rate, all in one
transaction and under the chunk's fence. If that is lost nothing is written: another worker has the chunk."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
from django.db import connection, transaction

from apps.delivery.broadcasts.claiming import Chunk
from apps.delivery.outcomes import Outcome, insert_outcomes
from apps.delivery.statuses import Status

LEFT_OVER = "left_over"  # recipients whose turn never came, as the broadcast was cancelled or expired
RETRYING = "retrying"
DEFERRED = "deferred"
# What counts as tried, and of that what counts as failed: for the canary and the error rate.
_FAILED = (Status.FAILED.label, Status.DEAD.label, Status.UNKNOWN.label, RETRYING)
_RECENT = 5_000.0  # deliveries: what lies so far back counts a third
_ENOUGH = 50.0  # deliveries of late, before their error rate means anything
log = structlog.get_logger("notify.delivery.broadcasts")

_DONE = """
UPDATE broadcast_chunk
SET state = 3, recipient_ids = NULL, lease_until = NULL, done_at = now(), counts = %(counts)s
WHERE broadcast_number = %(number)s AND no = %(no)s AND fence = %(fence)s AND state = 2
"""
_BACK = """
UPDATE broadcast_chunk
SET state = 1, recipient_ids = %(rest)s::bigint[], recipients = %(n)s, lapses = lapses + %(lapses)s,
    lease_until = now() + make_interval(secs => %(delay_s)s), counts = %(counts)s
WHERE broadcast_number = %(number)s AND no = %(no)s AND fence = %(fence)s AND state = 2
"""
_WATCH = """
UPDATE broadcast b
SET recent_total = fresh.total, recent_bad = fresh.bad,
    state = CASE WHEN fresh.is_too_bad THEN 6 ELSE b.state END,
    resumes_to = CASE WHEN fresh.is_too_bad THEN CASE b.state WHEN 3 THEN 4 ELSE b.state END ELSE b.resumes_to END,
    state_since = CASE WHEN fresh.is_too_bad THEN now() ELSE b.state_since END,
    state_reason = CASE WHEN fresh.is_too_bad
                        THEN format('%%s %%%% of the latest deliveries failed',
                                    round((100 * fresh.bad / fresh.total)::numeric, 1))
                        ELSE b.state_reason END
FROM (
    SELECT number, total, bad,
           state IN (2, 3, 4) AND total >= %(enough)s AND bad > max_error_rate * total AS is_too_bad
    FROM (
        SELECT number, state, max_error_rate, recent_total * %(kept)s + %(total)s AS total,
               recent_bad * %(kept)s + %(bad)s AS bad
        FROM broadcast WHERE number = %(number)s AND max_error_rate IS NOT NULL
        FOR UPDATE
    ) AS summed
) AS fresh
WHERE b.number = fresh.number
RETURNING fresh.is_too_bad
"""
_BISECT = """
WITH whole AS (
    UPDATE broadcast_chunk
    SET state = 1, lease_until = NULL, recipient_ids = recipient_ids[:%(middle)s], recipients = %(middle)s,
        lapses = %(lapses)s
    WHERE broadcast_number = %(number)s AND no = %(no)s AND fence = %(fence)s AND state = 2
    RETURNING broadcast_number, channel, is_canary
)
INSERT INTO broadcast_chunk (broadcast_number, no, channel, state, is_canary, fence, lapses, recipients, recipient_ids)
SELECT whole.broadcast_number, 1 + (SELECT max(no) FROM broadcast_chunk WHERE broadcast_number = %(number)s),
       whole.channel, 1, whole.is_canary, 0, %(lapses)s, %(n)s, %(rest)s::bigint[]
FROM whole
"""


@dataclass(frozen=True, slots=True)
class Ending:
    """What is to be written about a chunk. Recipients in ``rest`` stay in it, to be taken up again in ``delay_s``;
    ``is_its_fault`` counts towards the times it may fail."""

    outcomes: Sequence[Outcome]
    rest: Sequence[int] = ()
    delay_s: float = 0.0
    is_its_fault: bool = False


def count_outcomes(outcomes: Iterable[Outcome]) -> Counter[str]:
    """How many there are of each status; those that are still open by whether a provider has said no."""
    return Counter([_label(outcome) for outcome in outcomes])


def _label(outcome: Outcome) -> str:
    if outcome.status is Status.QUEUED:
        return RETRYING if outcome.has_tried or outcome.failed_calls else DEFERRED
    return outcome.status.label


def failures_of(counts: Mapping[str, int]) -> tuple[int, int]:
    """How many of the deliveries counted here were tried, and how many of them failed (so far)."""
    failed = sum(counts.get(label, 0) for label in _FAILED)
    return failed + counts.get(Status.SENT.label, 0), failed


def end_chunk(chunk: Chunk, ending: Ending) -> bool:
    """Writes the ending; returns whether the chunk was still this worker's to end."""
    fresh = count_outcomes(ending.outcomes)
    parameters: dict[str, Any] = {
        "number": chunk.number,
        "no": chunk.no,
        "fence": chunk.fence,
        "counts": orjson.dumps(fresh + Counter(chunk.counts or {})).decode(),
    }
    if ending.rest:
        parameters |= {"rest": list(ending.rest), "n": len(ending.rest), "delay_s": ending.delay_s}
        parameters["lapses"] = int(ending.is_its_fault)
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(_BACK if ending.rest else _DONE, parameters)
        if cursor.rowcount == 0:
            return False
        insert_outcomes(ending.outcomes, client_id=chunk.client_id)
        is_too_bad = _watch_errors(chunk, fresh)
    if is_too_bad:
        log.error("broadcast_halted", broadcast_id=str(chunk.broadcast_id), reason="too many deliveries failed")
    return True


def _watch_errors(chunk: Chunk, counts: Mapping[str, int]) -> bool:
    """Adds to the broadcast's errors of late; whether it halts over them. Last in its transaction: every claim of a
    chunk needs that row."""
    total, bad = failures_of(counts)
    if not chunk.has_error_limit or total == 0:
        return False
    parameters = {
        "number": chunk.number,
        "total": total,
        "bad": bad,
        "kept": math.exp(-total / _RECENT),
        "enough": _ENOUGH,
    }
    with connection.cursor() as cursor:
        cursor.execute(_WATCH, parameters)
        row = cursor.fetchone()
    return bool(row and row[0])


def bisect_chunk(chunk: Chunk, *, lapses: int) -> bool:
    """Cuts a chunk in two; returns whether it was still this worker's. Each half may fail ``lapses`` times fewer than
    any other chunk: what is wrong with it is soon alone."""
    middle = len(chunk.recipient_ids) // 2
    rest = chunk.recipient_ids[middle:]
    parameters: dict[str, Any] = {
        "number": chunk.number,
        "no": chunk.no,
        "fence": chunk.fence,
        "middle": middle,
        "rest": rest,
        "n": len(rest),
        "lapses": lapses,
    }
    with connection.cursor() as cursor:
        cursor.execute(_BISECT, parameters)
        return bool(cursor.rowcount)

"""Looking after broadcasts that are under way: is the canary's result in, has one expired, is everything done, is a
cancelled one tidied up? Run every second, by several workers at once if need be: each step is conditional."""

import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import structlog
from django.db import connection
from django.db.models import QuerySet
from django.db.models.functions import Now

from apps.delivery import ranges
from apps.delivery.broadcasts.ending import LEFT_OVER, failures_of
from apps.delivery.broadcasts.models import Broadcast, Chunk, ChunkState, State
from apps.delivery.broadcasts.planning import Planner
from apps.delivery.broadcasts.pumping import ring_planner, ring_workers
from apps.delivery.broadcasts.selectors import id_range

CANARY_WAIT: Final = timedelta(minutes=5)
PLAN_S: Final = 5.0
CLOSE_BITE: Final = 1_000  # chunks
EXPIRED: Final = "expired"  # the reason of a broadcast that ran out of time
COST_BOUND: Final = 20.0  # a look at the rows that took t seconds is not repeated for so many times t
log = structlog.get_logger("notify.delivery.broadcasts")

_next_look: dict[int, float] = {}  # broadcast number -> time.monotonic(), of this process

_CLOSE = """
UPDATE broadcast_chunk k
SET state = 3, recipient_ids = NULL, lease_until = NULL, done_at = now(),
    counts = COALESCE(k.counts, '{}') || jsonb_build_object(%(left_over)s::text, k.recipients)
FROM (
    SELECT no FROM broadcast_chunk
    WHERE channel = ANY(%(channels)s::smallint[]) AND broadcast_number = %(number)s
      AND (state = 1 OR state = 2 AND lease_until <= now())
    LIMIT %(limit)s FOR UPDATE SKIP LOCKED
) AS bite
WHERE k.broadcast_number = %(number)s AND k.no = bite.no
"""


def look_after() -> None:
    """Moves on what can be moved on, then plans what is due, for a few seconds at a time."""
    keep()
    planner = Planner()
    deadline = time.monotonic() + PLAN_S
    while planner.step_each():
        ring_workers()
        if time.monotonic() > deadline:
            ring_planner()
            return


def keep() -> None:
    """Moves on what can be moved on."""
    now = datetime.now(UTC)
    open_ones = Broadcast.objects.filter(finished_at=None).exclude(state=State.SCHEDULED, expires_at=None)
    for broadcast in open_ones.defer("content_ct", "audience").order_by("number"):
        if broadcast.expires_at is not None and broadcast.expires_at <= now and broadcast.state != State.CANCELLED:
            _expire(broadcast)
        if broadcast.state == State.CANARY:
            _judge_canary(broadcast, now)
        elif broadcast.state == State.RUNNING:
            _complete(broadcast)
        elif broadcast.state == State.CANCELLED:
            _tidy_up(broadcast)


def _move(broadcast: Broadcast, target: State, reason: str = "", **changes: object) -> bool:
    mine = Broadcast.objects.filter(id=broadcast.id, state=broadcast.state)
    if not mine.update(state=target, state_reason=reason, state_since=Now(), **changes):
        return False
    broadcast.state, broadcast.state_reason = target, reason
    log.info("broadcast_moved", broadcast_id=str(broadcast.id), state=target.name.lower(), reason=reason)
    return True


def _expire(broadcast: Broadcast) -> None:
    """What it has left is not sent any more; rows that wait find that out themselves."""
    if broadcast.state_reason != EXPIRED or broadcast.state != State.RUNNING:
        _move(broadcast, State.RUNNING, EXPIRED, is_planned=True, resumes_to=None)
    _close_chunks(broadcast)


def _close_chunks(broadcast: Broadcast) -> bool:
    """Ends all chunks that nobody is sending; returns whether none is left open."""
    parameters: dict[str, Any] = {
        "left_over": LEFT_OVER,
        "channels": broadcast.channels,
        "number": broadcast.number,
        "limit": CLOSE_BITE,
    }
    with connection.cursor() as cursor:
        while True:
            cursor.execute(_CLOSE, parameters)
            if cursor.rowcount < CLOSE_BITE:
                break
    return not _open_chunks(broadcast).exists()


def _open_chunks(broadcast: Broadcast) -> QuerySet[Chunk]:
    # By channel as well, as the index of open chunks begins with it.
    return Chunk.objects.filter(
        channel__in=broadcast.channels, broadcast_number=broadcast.number, state__lt=ChunkState.DONE
    )


def _judge_canary(broadcast: Broadcast, now: datetime) -> None:
    """Once the canary is through: on with all the others, or halt."""
    if _open_chunks(broadcast).filter(is_canary=True).exists():
        if now - broadcast.state_since > CANARY_WAIT:
            _move(broadcast, State.HALTED, "the canary has no result", resumes_to=State.RUNNING)
        return
    tried, failed = failures_of(count_canary(broadcast.number))
    limit = broadcast.max_error_rate
    if limit is not None and failed > limit * tried:
        reason = f"{failed} of {tried} deliveries of the canary failed"
        _move(broadcast, State.HALTED, reason, resumes_to=State.RUNNING)
    else:
        _move(broadcast, State.RUNNING, is_canary_over=True)


def count_canary(number: int) -> Counter[str]:
    """What became of the canary at first, by status."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT entry.key, sum(entry.value::bigint)::bigint FROM broadcast_chunk, jsonb_each_text(counts) AS entry "
            "WHERE broadcast_number = %s AND is_canary GROUP BY entry.key",
            [number],
        )
        return Counter(dict(cursor.fetchall()))


def _complete(broadcast: Broadcast) -> None:
    if not broadcast.is_planned or _open_chunks(broadcast).exists() or _has_open_rows(broadcast):
        return
    _move(broadcast, State.COMPLETED, broadcast.state_reason, finished_at=Now())


def _has_open_rows(broadcast: Broadcast) -> bool:
    """Whether any of its deliveries is still queued or being sent; ``True`` as well if that was asked too recently for
    what it costs."""
    if broadcast.started_at is None:
        return False
    started = time.monotonic()
    if started < _next_look.get(broadcast.number, 0.0):
        return True
    has_open = ranges.has_open(id_range(broadcast))
    done = time.monotonic()
    _next_look[broadcast.number] = done + COST_BOUND * (done - started)
    if not has_open:
        _next_look.pop(broadcast.number)
    return has_open


def _tidy_up(broadcast: Broadcast) -> None:
    """Ends the chunks and rows of a cancelled broadcast. Nobody waits for it: workers ask how it stands."""
    is_closed = _close_chunks(broadcast)
    if broadcast.started_at is not None:
        wanted = id_range(broadcast)
        while ranges.cancel_bite(wanted) == ranges.BITE:
            pass
        is_closed = is_closed and not _has_open_rows(broadcast)
    if is_closed:
        Broadcast.objects.filter(id=broadcast.id, state=State.CANCELLED).update(finished_at=Now())

"""How far a broadcast is. The deliveries are counted, not estimated; but a count that took t seconds is not repeated
by this process for ``COST_BOUND`` times t, so that looking at a large broadcast never costs more than a small share of
the database."""

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

from django.db import connection

from apps.delivery.broadcasts.ending import LEFT_OVER
from apps.delivery.broadcasts.models import Broadcast, ChunkState, State
from apps.delivery.broadcasts.selectors import id_range
from apps.delivery.statuses import Status

COST_BOUND: Final = 20.0
RATE_OVER_S: Final = 10.0
_KEPT: Final = 500  # broadcasts
_TRIED: Final = (Status.SENT, Status.DELIVERED, Status.BOUNCED)
_FAILED: Final = (Status.FAILED, Status.DEAD, Status.UNKNOWN)

_CHUNKS = """
SELECT state, count(*), COALESCE(sum(recipients), 0)::bigint,
       COALESCE(sum(recipients) FILTER (WHERE done_at > now() - make_interval(secs => %(over_s)s)), 0)::bigint,
       COALESCE(sum((counts ->> %(left_over)s)::bigint), 0)::bigint
FROM broadcast_chunk WHERE broadcast_number = %(number)s
GROUP BY state
"""
_ROWS = "SELECT status, count(*) FROM delivery WHERE id BETWEEN %s AND %s GROUP BY status"

CanaryState = Literal["none", "going", "over", "halted"]


@dataclass(frozen=True, slots=True)
class Progress:
    """``recipients`` are in chunks so far, once per channel, and ``done`` of them have been decided about. ``counts``
    are deliveries by status; people of a cancelled or expired broadcast whose turn never came are in there as well,
    though they have no row. ``rate_per_s`` is recipients over the last seconds, ``error_rate`` what is compared with
    ``max_error_rate``. Everything is as of ``as_of``."""

    state: State
    recipients: int
    is_planned: bool
    done: int
    chunks_waiting: int
    chunks_claimed: int
    chunks_done: int
    counts: Mapping[Status, int]
    rate_per_s: float
    eta: datetime | None
    canary: CanaryState
    error_rate: float | None
    halted_reason: str
    as_of: datetime


@dataclass(frozen=True, slots=True)
class _Figures:
    chunks: Mapping[int, tuple[int, int, int, int]]  # by state: chunks, recipients, recipients of late, left over
    rows: Mapping[int, int]
    as_of: datetime


class _Memory:
    """Figures counted lately, and until when each is good."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[UUID, datetime], tuple[float, _Figures]] = OrderedDict()

    def read(self, broadcast: Broadcast) -> _Figures:
        # A change of state is seen at once.
        key = (broadcast.id, broadcast.state_since)
        with self._lock:
            good_until, figures = self._known.get(key, (0.0, None))
        started = time.monotonic()
        if figures is not None and started < good_until:
            return figures
        figures = _count(broadcast)
        cost_s = time.monotonic() - started
        with self._lock:
            self._known[key] = started + cost_s + COST_BOUND * cost_s, figures
            self._known.move_to_end(key)
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return figures


_memory = _Memory()


def progress(broadcast: Broadcast) -> Progress:
    """How far the broadcast, as it was just read, has come."""
    figures = _memory.read(broadcast)
    state = State(broadcast.state)
    waiting, claimed, ended = (figures.chunks.get(int(one), (0, 0, 0, 0)) for one in ChunkState)
    left_over = ended[3]
    done = max(0, broadcast.recipients - waiting[1] - claimed[1] - left_over)
    rate_per_s = ended[2] / _observed_s(broadcast, figures.as_of)
    counts = {Status(number): count for number, count in figures.rows.items()}
    if left_over:
        status = Status.CANCELLED if state is State.CANCELLED else Status.EXPIRED
        counts[status] = counts.get(status, 0) + left_over
    return Progress(
        state=state,
        recipients=broadcast.recipients,
        is_planned=broadcast.is_planned,
        done=done,
        chunks_waiting=waiting[0],
        chunks_claimed=claimed[0],
        chunks_done=ended[0],
        counts=counts,
        rate_per_s=rate_per_s,
        eta=_eta(broadcast, waiting[1] + claimed[1], rate_per_s, figures.as_of),
        canary=_canary_state(broadcast),
        error_rate=_error_rate(broadcast, counts),
        halted_reason=broadcast.state_reason if state is State.HALTED else "",
        as_of=figures.as_of,
    )


def _count(broadcast: Broadcast) -> _Figures:
    as_of = datetime.now(UTC)
    parameters: dict[str, Any] = {"number": broadcast.number, "over_s": RATE_OVER_S, "left_over": LEFT_OVER}
    with connection.cursor() as cursor:
        cursor.execute(_CHUNKS, parameters)
        chunks = {state: (n, recipients, late, left) for state, n, recipients, late, left in cursor.fetchall()}
        rows: dict[int, int] = {}
        if broadcast.started_at is not None:
            wanted = id_range(broadcast)
            cursor.execute(_ROWS, [wanted.low, wanted.high])
            rows = dict(cursor.fetchall())
    return _Figures(chunks, rows, as_of)


def _observed_s(broadcast: Broadcast, as_of: datetime) -> float:
    if broadcast.started_at is None:
        return RATE_OVER_S
    return min(RATE_OVER_S, max(1.0, (as_of - broadcast.started_at).total_seconds()))


def _eta(broadcast: Broadcast, left: int, rate_per_s: float, as_of: datetime) -> datetime | None:
    is_going = broadcast.finished_at is None and broadcast.state not in (State.PAUSED, State.HALTED)
    if not is_going or not broadcast.is_planned or not left or rate_per_s <= 0:
        return None
    return as_of + timedelta(seconds=left / rate_per_s)


def _canary_state(broadcast: Broadcast) -> CanaryState:
    if broadcast.canary_share <= 0:
        return "none"
    if broadcast.is_canary_over:
        return "over"
    return "halted" if broadcast.state == State.HALTED else "going"


def _error_rate(broadcast: Broadcast, counts: Mapping[Status, int]) -> float | None:
    if broadcast.max_error_rate is not None and broadcast.recent_total > 0:
        return broadcast.recent_bad / broadcast.recent_total
    failed = sum(counts.get(status, 0) for status in _FAILED)
    tried = failed + sum(counts.get(status, 0) for status in _TRIED)
    return failed / tried if tried else None

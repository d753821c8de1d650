"""Cutting an audience into chunks: recipients are walked in the order of their ids, one stretch of ids a transaction,
which also moves the broadcast's ``planned_until``. So a planner that dies has lost nothing, another goes on where it
was, and two at once cannot do the same stretch: the second finds the mark moved and takes its own work back.

Only people with an address on the channel are taken; whether they may be written to is decided when they are."""

import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import structlog
from django.db import connection, transaction
from django.db.models import Q
from django.db.models.functions import Now, Trunc

from apps.channels import Channel
from apps.delivery.broadcasts.audience import compile_audience
from apps.delivery.broadcasts.models import Broadcast, State
from apps.delivery.broadcasts.windows import SendWindow

STRETCH = 100_000  # ids
MIN_STRETCH = 1_000
MAX_STRETCH = 50_000_000
QUICK_S = 0.3  # a step that took less and found little is followed by a longer one
SLOW_S = 2.0
RATE_CHUNKS_PER_S = 2  # so that a rate is even
_PLANNERS_LOCK = 0x62726F61  # a namespace of PostgreSQL's advisory locks
log = structlog.get_logger("notify.delivery.broadcasts.planning")

# A person's device is looked up in its index, one by one: as a join it is at the mercy of statistics, which are wildly
# wrong after an import. The LIMIT keeps it from becoming one, and the test in brackets keeps a second index out, that
# of the devices in use, which would be read from end to end for each person.
_HAS_DEVICE = """
    CROSS JOIN LATERAL (
        SELECT FROM preferences_device v WHERE v.recipient_id = r.id AND (v.deactivated_at IS NULL) IS TRUE LIMIT 1
    ) AS device
"""
_REACHABLE = {
    Channel.PUSH: (_HAS_DEVICE, "true"),
    Channel.SMS: ("", "r.phone_ct IS NOT NULL"),
    Channel.EMAIL: ("", "r.email_ct IS NOT NULL"),
}
# The canary is everybody at whom the share of those so far passes a whole number: evenly spread, the first included.
_CUT = """
INSERT INTO broadcast_chunk (broadcast_number, no, channel, state, is_canary, fence, lapses, recipients, recipient_ids)
SELECT %s, last.no + row_number() OVER (ORDER BY is_canary DESC, part), %s, 1, is_canary, 0, 0, count(*),
       array_agg(id ORDER BY id)
FROM (
    SELECT id, is_canary, (row_number() OVER (PARTITION BY is_canary ORDER BY id) - 1) / %s AS part
    FROM (
        SELECT id, ceil((place + 1) * %s::float8) > ceil(place * %s::float8) AS is_canary
        FROM (
            SELECT r.id, row_number() OVER (ORDER BY r.id) - 1 + %s AS place
            FROM preferences_recipient r {join}
            WHERE r.id > %s AND r.id <= %s AND r.erased_at IS NULL AND {reachable} AND {audience}
        ) AS walked
    ) AS marked
) AS cut, (SELECT COALESCE(max(no), 0) AS no FROM broadcast_chunk WHERE broadcast_number = %s) AS last
GROUP BY is_canary, part, last.no
RETURNING recipients
"""


def select_due(now: datetime) -> Iterator[Broadcast]:
    """The broadcasts that are to be planned (on) at ``now``."""
    is_due = Q(state=State.PLANNING) | Q(state=State.SCHEDULED) & (Q(send_at=None) | Q(send_at__lte=now))
    for broadcast in Broadcast.objects.filter(is_due, finished_at=None).defer("content_ct").order_by("number"):
        window = SendWindow.read(broadcast.send_window)
        if broadcast.state == State.PLANNING or window is None or window.is_open(now):
            yield broadcast


def chunk_size(broadcast: Broadcast, channel: Channel) -> int:
    """How many recipients of this broadcast go into a chunk: a call's worth, fewer where the rate asks for it."""
    size = broadcast.chunk_size * (2 if channel is Channel.EMAIL else 1)
    if broadcast.rate_per_s is None:
        return size
    return max(1, min(size, broadcast.rate_per_s // RATE_CHUNKS_PER_S))


class Planner:
    """Remembers how long a stretch each broadcast's next step may be."""

    def __init__(self) -> None:
        self._stretches: dict[int, int] = defaultdict(lambda: STRETCH)

    def step_each(self) -> bool:
        """Plans a stretch of each broadcast that is due; returns whether there was anything for this planner to do."""
        steps = [self._step(broadcast) for broadcast in select_due(datetime.now(UTC))]
        return any(steps)

    def _step(self, broadcast: Broadcast) -> bool:
        stretch = self._stretches[broadcast.number]
        started = time.monotonic()
        found = _plan_stretch(broadcast, stretch)
        elapsed_s = time.monotonic() - started
        if elapsed_s > SLOW_S:
            self._stretches[broadcast.number] = max(MIN_STRETCH, stretch // 4)
        elif elapsed_s < QUICK_S and found is not None and found < STRETCH // 4:
            self._stretches[broadcast.number] = min(MAX_STRETCH, stretch * 4)
        return found is not None


class _Overtaken(Exception):
    """Somebody else planned this stretch, or the broadcast was paused or cancelled in the meantime."""


def _plan_stretch(broadcast: Broadcast, stretch: int) -> int | None:
    """How many recipients the stretch gave; ``None`` if it was somebody else's."""
    _start(broadcast)
    try:
        with transaction.atomic():
            if not _lock(broadcast.number):
                return None
            found = _cut_stretch(broadcast, stretch)
    except _Overtaken:
        return None
    if broadcast.is_planned:
        log.info("broadcast_planned", broadcast_id=str(broadcast.id), recipients=broadcast.recipients)
    return found


def _start(broadcast: Broadcast) -> None:
    """Fixes the moment that is in the ids of all its deliveries."""
    if broadcast.state != State.SCHEDULED:
        return
    starting = Broadcast.objects.filter(id=broadcast.id, state=State.SCHEDULED)
    if starting.update(state=State.PLANNING, started_at=Trunc(Now(), "millisecond"), state_since=Now()):
        _refresh_statistics()


def _refresh_statistics() -> None:
    """Right after an import PostgreSQL may still think that there are hardly any people, and join them accordingly, in
    hours. Its own analysis comes a minute late."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_stat_user_tables WHERE relname LIKE 'preferences\\_%' "
            "AND n_mod_since_analyze > 1000 + 0.2 * n_live_tup"
        )
        for (table,) in cursor.fetchall():
            cursor.execute(f"ANALYZE {connection.ops.quote_name(table)}")


def _lock(number: int) -> bool:
    """Whether this planner may work on it. A lock of its own, as the row's would keep the pumps waiting; it only spares
    the second planner the work."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", [_PLANNERS_LOCK, number])
        row = cursor.fetchone()
    return bool(row and row[0])


def _cut_stretch(broadcast: Broadcast, stretch: int) -> int:
    after = broadcast.planned_until
    first, last = _find_ends(after)
    until = first + stretch - 1
    is_last = until >= last
    found = sum(_cut(broadcast, Channel(channel), after, until) for channel in broadcast.channels)
    broadcast.planned_until = until
    broadcast.recipients += found
    broadcast.is_planned = is_last
    changes: dict[str, Any] = {"planned_until": until, "recipients": broadcast.recipients}
    if is_last:
        has_canary = broadcast.canary_share > 0 and not broadcast.is_canary_over
        state = State.CANARY if has_canary else State.RUNNING
        changes |= {"is_planned": True, "state": state, "state_since": Now()}
    # Last, so that the row, which every claim of a chunk needs, is locked for a moment only.
    mine = Broadcast.objects.filter(id=broadcast.id, state=State.PLANNING, planned_until=after)
    if not mine.update(**changes):
        raise _Overtaken
    return found


def _cut(broadcast: Broadcast, channel: Channel, after: int, until: int) -> int:
    audience = compile_audience(broadcast.audience, channel)
    share, seen = broadcast.canary_share, broadcast.recipients
    join, reachable = _REACHABLE[channel]
    sql = _CUT.format(join=join, reachable=reachable, audience=audience.sql)
    numbers = [broadcast.number, int(channel), chunk_size(broadcast, channel)]
    with connection.cursor() as cursor:
        cursor.execute(sql, [*numbers, share, share, seen, after, until, *audience.params, broadcast.number])
        return sum(recipients for (recipients,) in cursor.fetchall())


def _find_ends(after: int) -> tuple[int, int]:
    """The lowest id beyond ``after``, as there may be none for long, and the highest of all."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT min(id), max(id) FROM preferences_recipient WHERE id > %s", [after])
        row = cursor.fetchone()
    return (after + 1, after) if row is None or row[0] is None else (row[0], row[1])

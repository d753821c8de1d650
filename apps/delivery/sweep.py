"""The sweep: finds due rows that nobody works on and rings for them again.

Due are: accepted rows whose doorbell was lost, deferred and scheduled rows whose time has come, retries, and rows whose
worker died (lease run out). ``ring_at`` says when. A rung row is stamped with its next ring before the doorbell goes
out, so that two sweeps at once never ring twice and a backlog is rung for once an interval, not once a second.

What a queue can take is shared by weight between the clients that have due rows in it, so that nobody waits behind
another's mountain; within a client the oldest come first. The high lane is swept before the bulk lane.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import structlog
from django.db import connection, transaction

from apps import metrics
from apps.channels import Channel, Lane
from apps.delivery import canary
from apps.delivery.broadcasts.pumping import ring_pumps
from apps.delivery.doorbell import BATCH_SIZE as DOORBELL_SIZE
from apps.delivery.doorbell import queue_depth, ring_deliveries, ring_receipts
from apps.delivery.queues import delivery_queue
from apps.delivery.selectors import heartbeat_ages, select_due_clients
from apps.delivery.shares import share_by_weight, take_turns

# A doorbell that was lost costs its rows so long; one that only hangs in a long queue is joined by a second, which then
# finds nothing to do.
RING_AGAIN_S = 8.0
# Of one queue. What hangs there nobody can overtake, so in the bulk lane it is work for a few seconds; the high lane's
# doorbells are rung one by one at intake and mostly name a single row.
MAX_DOORBELLS = {Lane.HIGH: 200, Lane.BULK: 40}
BATCH_SIZE = 5_000
HEARTBEAT = "sweep"
# A sweep that beat asked for. While there is none for so long, the workers sweep unasked, one of them at a time.
BEAT_HEARTBEAT = "beat"
BEAT_PATIENCE_S = 10.0
STAND_IN = "stand_in"
STAND_IN_EVERY_S = 1.0
CANARIES = "canaries"
log = structlog.get_logger("notify.delivery.sweep")

_LOCK = """
SELECT due.id, due.client_id, due.ring_at
FROM unnest(%(clients)s::bigint[], %(shares)s::int[]) AS share(client_id, rows)
CROSS JOIN LATERAL (
    SELECT id, client_id, ring_at FROM delivery
    WHERE lane = %(lane)s AND channel = %(channel)s AND client_id = share.client_id AND ring_at <= now()
    ORDER BY ring_at
    LIMIT share.rows
    FOR UPDATE SKIP LOCKED
) AS due
"""
# A statement of its own: joined with the one above, the planner reads every partition to find the rows by their ids.
_STAMP = """
UPDATE delivery SET ring_at = now() + make_interval(secs => %(again_s)s)
WHERE id = ANY(%(ids)s::uuid[]) AND id BETWEEN %(low)s AND %(high)s
"""
# What has waited longest stays first.
_RING_SOON = """
UPDATE delivery SET ring_at = LEAST(next_attempt_at, now())
WHERE id = ANY(%(ids)s::uuid[]) AND id BETWEEN %(low)s AND %(high)s AND ring_at IS NOT NULL
"""


class DueRow(NamedTuple):
    """A row that is to be rung for; ``ring_at`` is since when."""

    id: UUID
    client_id: int
    ring_at: datetime


def sweep() -> int:
    """Rings for everything that is due, up to a bound per queue; returns how many rows. Safe to run twice at once."""
    due = sorted(select_due_clients().items())
    rung = sum(_sweep_queue(channel, lane, weights) for (lane, channel), weights in due)
    ring_pumps()
    if _has_pending_receipts():
        ring_receipts()
    _beat(HEARTBEAT)
    if rung:
        log.info("swept", rung=rung)
        metrics.sweep_rung(rung)
    return rung


def sweep_for_beat() -> None:
    """The sweep that beat asks for every second."""
    sweep()
    _beat(BEAT_HEARTBEAT)
    if _take_turn(CANARIES, every_s=canary.EVERY_S):
        canary.ring_canaries()


def stand_in_for_beat(*, is_patient: bool) -> bool:
    """Sweeps if beat, or whoever does as it asks, is away; returns whether it did. Any number of processes may call
    this: one of them sweeps, once a second. ``is_patient`` while beat may not have begun yet."""
    age = heartbeat_ages(BEAT_HEARTBEAT).get(())
    if (age is None and is_patient) or (age is not None and age < BEAT_PATIENCE_S):
        return False
    if not _take_turn(STAND_IN, every_s=STAND_IN_EVERY_S):
        return False
    log.warning("standing_in_for_beat", beat_age_s=age, hint="is beat running, and worker-maintenance?")
    sweep()
    if _take_turn(CANARIES, every_s=canary.EVERY_S):
        canary.ring_canaries()
    return True


def ring_soon(ids: Sequence[UUID]) -> None:
    """The doorbell of these rows could not be rung: the next sweep shall."""
    with connection.cursor() as cursor:
        cursor.execute(_RING_SOON, {"ids": list(ids), "low": min(ids), "high": max(ids)})


def _sweep_queue(channel: Channel, lane: Lane, weights: Mapping[int, int]) -> int:
    depth = queue_depth(delivery_queue(channel, lane))
    if depth is None:  # no broker, no queue: nothing that is rung now arrives
        return 0
    # Where many doorbells hang already, more of them help nobody and may fill the broker.
    room = (MAX_DOORBELLS[lane] - depth) * DOORBELL_SIZE
    rung = 0
    batch_size = DOORBELL_SIZE  # at first: the broker may answer and yet refuse
    while weights and rung < room:
        shares = share_by_weight(min(batch_size, room - rung), weights)
        rows = _stamp(channel, lane, shares)
        if rows and not ring_deliveries((row.id, channel, lane) for row in _in_turn(rows)):
            ring_soon([row.id for row in rows])
            break
        rung += len(rows)
        weights = _without_the_satisfied(weights, shares, rows)
        batch_size = BATCH_SIZE
    return rung


def _stamp(channel: Channel, lane: Lane, shares: Mapping[int, int]) -> list[DueRow]:
    """Takes up to its share of each client's due rows and says when they are to be rung for again."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            _LOCK,
            {"clients": list(shares), "shares": list(shares.values()), "lane": int(lane), "channel": int(channel)},
        )
        rows = [DueRow(*row) for row in cursor.fetchall()]
        if rows:
            ids = [row.id for row in rows]
            cursor.execute(_STAMP, {"ids": ids, "low": min(ids), "high": max(ids), "again_s": RING_AGAIN_S})
        return rows


def _in_turn(rows: Sequence[DueRow]) -> list[DueRow]:
    """Clients take turns, so that the first doorbells name rows of each of them."""
    by_client: dict[int, list[DueRow]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.ring_at):
        by_client[row.client_id].append(row)
    return take_turns(by_client.values())


def _without_the_satisfied(
    weights: Mapping[int, int], shares: Mapping[int, int], rows: Sequence[DueRow]
) -> dict[int, int]:
    """Those who used their share up and may want more; what the others left is theirs."""
    used: dict[int, int] = defaultdict(int)
    for row in rows:
        used[row.client_id] += 1
    return {client: weight for client, weight in weights.items() if used[client] >= shares[client]}


def _has_pending_receipts() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT 1 FROM receipt_event WHERE applied_at IS NULL "
            "AND received_at < now() - interval '2 seconds')"
        )
        row = cursor.fetchone()
    return bool(row and row[0])


def _beat(name: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO heartbeat (name, finished_at) VALUES (%s, now()) "
            "ON CONFLICT (name) DO UPDATE SET finished_at = excluded.finished_at",
            [name],
        )


def _take_turn(name: str, *, every_s: float) -> bool:
    """Whether it is time for ``name`` again; of all who ask at once one is told so."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO heartbeat AS last (name, finished_at) VALUES (%s, now()) "
            "ON CONFLICT (name) DO UPDATE SET finished_at = excluded.finished_at "
            "WHERE last.finished_at <= now() - make_interval(secs => %s) RETURNING name",
            [name, every_s],
        )
        return cursor.fetchone() is not None

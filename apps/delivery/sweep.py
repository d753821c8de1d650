"""The sweep: finds due rows that nobody works on and rings for them again.

Due are: accepted rows whose doorbell was lost, deferred and scheduled rows whose time has come, retries, and rows whose
worker died (lease run out). ``ring_at`` says when. A rung row is stamped with its next ring before the doorbell goes
out, so that two sweeps at once never ring twice and a backlog is rung for once an interval, not once a second.
"""

from collections.abc import Sequence
from uuid import UUID

import structlog
from django.db import connection

from apps import metrics
from apps.channels import Channel, Lane
from apps.delivery.doorbell import queue_depth, ring_deliveries, ring_receipts
from apps.delivery.queues import delivery_queue

RING_AGAIN_S = 30.0
MAX_DOORBELLS = 200  # of one queue: up to 100,000 rows
BATCH_SIZE = 5_000
MAX_BATCHES = 10
HEARTBEAT = "sweep"
log = structlog.get_logger("notify.delivery.sweep")

# Oldest first, each queue on its own, so that a backlog of one never hides a row of another.
_STAMP = """
WITH due AS MATERIALIZED (
    SELECT id FROM delivery
    WHERE ring_at <= now() AND lane = %(lane)s AND channel = %(channel)s
    ORDER BY ring_at
    LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED
)
UPDATE delivery d SET ring_at = now() + make_interval(secs => %(again_s)s)
FROM due WHERE d.id = due.id
RETURNING d.id, d.channel, d.lane
"""
_RING_SOON = """
UPDATE delivery SET ring_at = now()
WHERE id = ANY(%(ids)s::uuid[]) AND id BETWEEN %(low)s AND %(high)s AND ring_at IS NOT NULL
"""


def sweep() -> int:
    """Rings for everything that is due, up to a bound per queue; returns how many rows. Safe to run twice at once."""
    rung = sum(_sweep_queue(channel, lane) for lane in Lane for channel in Channel)
    if _has_pending_receipts():
        ring_receipts()
    _beat()
    if rung:
        log.info("swept", rung=rung)
        metrics.sweep_rung(rung)
    return rung


def ring_soon(ids: Sequence[UUID]) -> None:
    """The doorbell of these rows could not be rung: the next sweep shall."""
    with connection.cursor() as cursor:
        cursor.execute(_RING_SOON, {"ids": list(ids), "low": min(ids), "high": max(ids)})


def _sweep_queue(channel: Channel, lane: Lane) -> int:
    # Where many doorbells hang already, more of them help nobody and may fill the broker.
    if queue_depth(delivery_queue(channel, lane)) >= MAX_DOORBELLS:
        return 0
    rung = 0
    for _ in range(MAX_BATCHES):
        rows = _stamp(channel, lane)
        if rows and not ring_deliveries(rows):
            ring_soon([row[0] for row in rows])
            break
        rung += len(rows)
        if len(rows) < BATCH_SIZE:
            break
    return rung


def _stamp(channel: Channel, lane: Lane) -> list[tuple[UUID, int, int]]:
    with connection.cursor() as cursor:
        cursor.execute(
            _STAMP, {"lane": int(lane), "channel": int(channel), "limit": BATCH_SIZE, "again_s": RING_AGAIN_S}
        )
        return list(cursor.fetchall())


def _has_pending_receipts() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT 1 FROM receipt_event WHERE applied_at IS NULL "
            "AND received_at < now() - interval '2 seconds')"
        )
        row = cursor.fetchone()
    return bool(row and row[0])


def _beat() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO heartbeat (name, finished_at) VALUES (%s, now()) "
            "ON CONFLICT (name) DO UPDATE SET finished_at = excluded.finished_at",
            [HEARTBEAT],
        )

"""Pumps: the messages that keep workers at the chunks of a channel. A pump works for a moment and then rings itself
again at the tail of the queue, so that whatever else hangs there gets its turn; the sweep sees to it that there are
always some while there is work, and more of them where workers stand idle."""

import time
from datetime import UTC, datetime

import structlog
from django.conf import settings
from django.db import connection

from apps.channels import Channel, Lane
from apps.delivery.broadcasts.chunks import deliver_chunk
from apps.delivery.broadcasts.claiming import claim_chunk, count_claimable
from apps.delivery.doorbell import queue_depth, ring
from apps.delivery.queues import FANOUT, delivery_queue

HANGING = 8  # pumps that should hang in a queue, or be at work
MAX_PUMPS = 1_024  # of a channel
TURN_S = 0.5
RING_AGAIN_S = 10.0  # a pump not seen for so long is rung for again
PLANNERS = 2  # messages for the planner that may hang at a time
log = structlog.get_logger("notify.delivery.broadcasts.pumping")

# The lowest slots that are free: one whose message is lost is free after a while, one without work at once.
_TAKE_SLOTS = """
INSERT INTO broadcast_pump AS p (channel, slot, run_no, rung_at)
SELECT %(channel)s, free.slot, 0, now()
FROM (
    SELECT slots.slot FROM generate_series(0, %(max)s - 1) AS slots(slot)
    WHERE NOT EXISTS (
        SELECT FROM broadcast_pump alive
        WHERE alive.channel = %(channel)s AND alive.slot = slots.slot
          AND alive.rung_at > now() - make_interval(secs => %(again_s)s)
    )
    ORDER BY slots.slot LIMIT %(n)s
) AS free
ON CONFLICT (channel, slot) DO UPDATE SET rung_at = now()
WHERE p.rung_at IS NULL OR p.rung_at <= now() - make_interval(secs => %(again_s)s)
RETURNING slot, run_no
"""
_HAS_WORK = """
SELECT EXISTS (
    SELECT FROM broadcast
    WHERE finished_at IS NULL AND (state IN (2, 3, 4, 8) OR expires_at <= now()
                                   OR state = 1 AND (send_at IS NULL OR send_at <= now()))
)
"""


def ring_planner() -> None:
    """Rings for what is due to be planned, looked after or tidied up."""
    ring("notify.plan_broadcasts", [], FANOUT)


def ring_pumps() -> int:
    """Rings for the planner and for as many pumps as there is work and room for; returns how many pumps. Safe to run
    twice at once; with nothing to do it costs one small query."""
    with connection.cursor() as cursor:
        cursor.execute(_HAS_WORK)
        row = cursor.fetchone()
    if not row or not row[0]:
        return 0
    depth = queue_depth(FANOUT)
    if depth is not None and depth < PLANNERS:
        ring_planner()
    return ring_workers()


def ring_workers() -> int:
    """Rings for as many pumps as there is work and room for; returns how many."""
    return sum(_ring_channel(channel) for channel in Channel)


def _ring_channel(channel: Channel) -> int:
    work = count_claimable(channel, now=datetime.now(UTC), limit=HANGING)
    if work == 0:
        return 0
    depth = queue_depth(delivery_queue(channel, Lane.BULK))
    if depth is None:
        return 0
    wanted = min(HANGING, work)
    # Rows' doorbells hang in the same queue: many of those are no reason to have no pump.
    missing = max(wanted - _count_alive(channel), wanted - depth)
    rung = 0
    for slot, run_no in _take_slots(channel, missing):
        if not _ring_pump(channel, slot, run_no):
            break
        rung += 1
    return rung


def _count_alive(channel: Channel) -> int:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM broadcast_pump WHERE channel = %s AND rung_at > now() - make_interval(secs => %s)",
            [int(channel), RING_AGAIN_S],
        )
        row = cursor.fetchone()
    return int(row[0]) if row else 0


def _take_slots(channel: Channel, n: int) -> list[tuple[int, int]]:
    if n <= 0:
        return []
    with connection.cursor() as cursor:
        cursor.execute(_TAKE_SLOTS, {"channel": int(channel), "max": MAX_PUMPS, "n": n, "again_s": RING_AGAIN_S})
        return list(cursor.fetchall())


def _ring_pump(channel: Channel, slot: int, run_no: int) -> bool:
    if ring("notify.broadcast", [int(channel), slot, run_no], delivery_queue(channel, Lane.BULK)):
        return True
    _free_slot(channel, slot)
    return False


def pump(channel: Channel, slot: int, run_no: int) -> int:
    """One turn: takes and sends chunks of this channel for a moment, then rings itself again if there may be more.
    Returns how many chunks. A message that was rung twice has its turn once."""
    if not _start_turn(channel, slot, run_no):
        return 0
    deadline = time.monotonic() + TURN_S
    sent = 0
    while time.monotonic() < deadline:
        chunk = claim_chunk(channel, now=datetime.now(UTC), lease_s=settings.DELIVERY_LEASE_S)
        if chunk is None or not deliver_chunk(chunk):
            _free_slot(channel, slot)  # the sweep looks again within a second
            return sent
        sent += 1
    _ring_pump(channel, slot, run_no + 1)
    return sent


def _start_turn(channel: Channel, slot: int, run_no: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE broadcast_pump SET run_no = run_no + 1, rung_at = now() "
            "WHERE channel = %s AND slot = %s AND run_no = %s",
            [int(channel), slot, run_no],
        )
        return bool(cursor.rowcount)


def _free_slot(channel: Channel, slot: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE broadcast_pump SET rung_at = NULL WHERE channel = %s AND slot = %s", [int(channel), slot]
        )

"""Chunks: who takes which, and how one ends. As with rows (``outcomes.py``), a claim gives a worker the chunk until its
lease runs out and raises its ``fence``; what it records counts only under the fence it was claimed with."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import orjson
from django.db import connection

from apps.channels import Channel
from apps.delivery.broadcasts.fairness import Contender, Turn, choose
from apps.delivery.broadcasts.windows import SendWindow

_RATE_CREDIT_S = 1.0  # of a second in which nobody came to take a chunk, so much is made up for

# Until its canary is over a broadcast sends that alone. "is_canary >= true" is a bound in the index, where
# "is_canary OR NOT …" would read all of the others.
_CHUNK_MAY_GO = """
    k.channel = %(channel)s AND k.broadcast_number = b.number AND k.state < 3
    AND k.is_canary >= (b.canary_share > 0 AND NOT b.is_canary_over)
    AND (k.lease_until IS NULL OR k.lease_until <= now())
"""
_BROADCAST_MAY_GO = """
    b.state IN (2, 3, 4) AND (b.next_chunk_at IS NULL OR b.next_chunk_at <= now())
    AND (b.expires_at IS NULL OR b.expires_at > now())
"""
_CONTENDERS = f"""
SELECT b.id, b.number, b.client_id, c.weight, b.virtual_time, next.recipients, b.started_at, b.send_window
FROM broadcast b
JOIN clients_client c ON c.id = b.client_id
CROSS JOIN LATERAL (
    SELECT k.recipients FROM broadcast_chunk k WHERE {_CHUNK_MAY_GO} ORDER BY k.is_canary DESC, k.no LIMIT 1
) AS next
WHERE b.finished_at IS NULL AND {_BROADCAST_MAY_GO}
"""  # noqa: S608 - constants only
_COUNT = f"""
SELECT b.send_window, waiting.n
FROM broadcast b
CROSS JOIN LATERAL (
    SELECT count(*) AS n FROM (
        SELECT FROM broadcast_chunk k WHERE {_CHUNK_MAY_GO} ORDER BY k.is_canary DESC, k.no LIMIT %(limit)s
    ) AS first_ones
) AS waiting
WHERE b.finished_at IS NULL AND {_BROADCAST_MAY_GO} AND waiting.n > 0
"""  # noqa: S608 - constants only
_CLAIM = f"""
WITH turn AS (
    UPDATE broadcast b
    SET virtual_time = GREATEST(b.virtual_time, %(floor)s) + %(charge)s,
        next_chunk_at = GREATEST(COALESCE(b.next_chunk_at, now()), now() - make_interval(secs => %(credit_s)s))
                        + make_interval(secs => %(cost)s / b.rate_per_s::float8)
    WHERE b.id = %(id)s AND {_BROADCAST_MAY_GO}
    RETURNING b.number, b.canary_share, b.is_canary_over, b.max_error_rate IS NOT NULL AS has_error_limit
), picked AS MATERIALIZED (
    SELECT k.broadcast_number, k.no, b.has_error_limit
    FROM turn b CROSS JOIN LATERAL (
        SELECT k.broadcast_number, k.no FROM broadcast_chunk k
        WHERE {_CHUNK_MAY_GO}
        ORDER BY k.is_canary DESC, k.no LIMIT 1
        FOR UPDATE SKIP LOCKED
    ) AS k
)
UPDATE broadcast_chunk k
SET state = 2, fence = k.fence + 1, lapses = k.lapses + (k.state = 2)::int,
    lease_until = now() + make_interval(secs => %(lease_s)s)
FROM picked WHERE k.broadcast_number = picked.broadcast_number AND k.no = picked.no
RETURNING k.no, k.fence, k.lapses, k.is_canary, picked.has_error_limit, k.recipient_ids, k.counts
"""  # noqa: S608 - constants only


class Chunk(NamedTuple):
    """A chunk this worker may work on until its lease runs out. ``counts`` is what became of recipients of it that it
    holds no longer."""

    broadcast_id: UUID
    number: int
    client_id: int
    started_at: datetime
    channel: Channel
    no: int
    fence: int
    lapses: int
    is_canary: bool
    has_error_limit: bool
    recipient_ids: list[int]
    counts: Mapping[str, int] | None


def claim_chunk(channel: Channel, *, now: datetime, lease_s: float) -> Chunk | None:
    """Takes the chunk whose turn it is on this channel; ``None`` if none may go now. ``now`` is for send windows."""
    contenders = _select_contenders(channel, now)
    while (turn := choose(contenders)) is not None:
        chunk = _claim(turn, channel, lease_s)
        if chunk is not None:
            return chunk
        contenders.remove(turn.contender)  # others took what there was, or it was paused
    return None


def count_claimable(channel: Channel, *, now: datetime, limit: int) -> int:
    """How many chunks of this channel may go now, counted up to ``limit`` of each broadcast."""
    with connection.cursor() as cursor:
        cursor.execute(_COUNT, {"channel": int(channel), "limit": limit})
        return sum(n for window, n in cursor.fetchall() if _is_open(window, now))


def _select_contenders(channel: Channel, now: datetime) -> list[Contender]:
    with connection.cursor() as cursor:
        cursor.execute(_CONTENDERS, {"channel": int(channel)})
        return [Contender(*columns) for *columns, window in cursor.fetchall() if _is_open(window, now)]


def _is_open(stored: str | None, now: datetime) -> bool:
    """``stored`` is JSON, which a cursor of Django's leaves alone."""
    return stored is None or SendWindow(**orjson.loads(stored)).is_open(now)


def _claim(turn: Turn, channel: Channel, lease_s: float) -> Chunk | None:
    contender = turn.contender
    parameters: dict[str, Any] = {
        "id": contender.id,
        "channel": int(channel),
        "floor": turn.floor,
        "charge": turn.charge,
        "cost": contender.cost,
        "credit_s": _RATE_CREDIT_S,
        "lease_s": lease_s,
    }
    with connection.cursor() as cursor:
        cursor.execute(_CLAIM, parameters)
        row = cursor.fetchone()
    if row is None:
        return None
    *head, counts = row
    known = (contender.id, contender.number, contender.client_id, contender.started_at, channel)
    return Chunk._make((*known, *head, None if counts is None else orjson.loads(counts)))

"""Canaries: messages that do nothing but be heard. How long one took is how long a real one takes in that queue; when
none is heard, nobody consumes it."""

import contextlib
import time
from collections.abc import Mapping

import structlog
from django_redis import get_redis_connection
from redis import RedisError

from apps import metrics
from apps.delivery.doorbell import queue_depth, ring
from apps.delivery.queues import ALL_QUEUES

EVERY_S = 10.0
REMEMBERED_S = 3_600
PILE = 3  # so many canaries and nobody has heard one
MAX_DEPTH = 1_000  # a queue that nobody consumes is not filled further
SILENCE_S = 60.0
_KEY = "canary:{}"
log = structlog.get_logger("notify.delivery.canary")


def ring_canaries() -> None:
    """A canary into every queue, unless it is so deep already that one more tells nothing new."""
    for queue in ALL_QUEUES:
        depth = queue_depth(queue)
        if depth is not None and depth < MAX_DEPTH:
            ring("notify.canary", [queue, time.time()], queue)


def hear(queue: str, rung_at_s: float) -> None:
    """A worker has heard the canary that was rung in ``queue`` at ``rung_at_s``, by the clock of who rang."""
    if queue not in ALL_QUEUES:  # a worker's own: that it was consumed is all there is to know
        return
    now_s = time.time()
    metrics.queue_latency(queue, max(0.0, now_s - rung_at_s))
    with contextlib.suppress(RedisError):  # the cache is away: then nobody knows, and nobody is accused
        get_redis_connection("default").set(_KEY.format(queue), int(now_s), ex=REMEMBERED_S)


def find_silent(depths: Mapping[str, float], *, now_s: float) -> dict[str, float | None]:
    """The queues in which messages wait and no canary has been heard for long: for how many seconds, ``None`` if not
    for an hour. Raises ``redis.RedisError``."""
    piled = [queue for queue in ALL_QUEUES if depths.get(queue, 0) >= PILE]
    if not piled:
        return {}
    heard = get_redis_connection("default").mget([_KEY.format(queue) for queue in piled])
    ages = {
        queue: None if moment is None else now_s - float(moment) for queue, moment in zip(piled, heard, strict=True)
    }
    return {queue: age for queue, age in ages.items() if age is None or age > SILENCE_S}

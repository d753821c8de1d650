"""Ringing: telling the workers that rows are due. A doorbell carries ids only, and losing one costs a second: the
sweep finds the rows. So ringing never raises, never blocks for long, and never retries."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from uuid import UUID

import structlog
from celery import current_app
from kombu.exceptions import OperationalError

from apps.channels import Channel, Lane
from apps.delivery.queues import RECEIPTS, delivery_queue

BATCH_SIZE = 500
_PAUSE_S = 1.0  # after a failed publish: what follows within it is left to the sweep
log = structlog.get_logger("notify.delivery.doorbell")


class _Line:
    """Whether the broker answered last time, for this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._down_until = 0.0

    def is_up(self) -> bool:
        return time.monotonic() >= self._down_until

    def mark_down(self) -> None:
        with self._lock:
            self._down_until = time.monotonic() + _PAUSE_S

    def reset(self) -> None:
        self._down_until = 0.0


_line = _Line()


def reset() -> None:
    """Forgets that the broker was down."""
    _line.reset()


def ring_deliveries(deliveries: Iterable[tuple[UUID, int, int]]) -> bool:
    """Rings for (delivery id, channel, lane) in batches of one queue each; returns whether all were published."""
    by_queue: dict[str, list[str]] = defaultdict(list)
    for delivery_id, channel, lane in deliveries:
        by_queue[delivery_queue(Channel(channel), Lane(lane))].append(str(delivery_id))
    # Every batch is tried, whatever became of the one before.
    published = [
        _publish("notify.deliver", [list(ids)], queue)
        for queue, all_ids in by_queue.items()
        for ids in batched_ids(all_ids)
    ]
    return all(published)


def ring_receipts() -> bool:
    """Rings for the receipts inbox."""
    return _publish("notify.apply_receipts", [], RECEIPTS)


def batched_ids(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[start : start + BATCH_SIZE] for start in range(0, len(ids), BATCH_SIZE))


def _publish(task: str, args: list[object], queue: str) -> bool:
    if not _line.is_up():
        return False
    try:
        # By the queue's name alone: Celery then goes through the default exchange, which needs no binding. On Redis
        # bindings are data that a FLUSHALL takes away, and what is published to an exchange without one is lost.
        current_app.send_task(task, args, queue=queue, confirm_timeout=3)
    except (OperationalError, OSError, TimeoutError) as error:
        _line.mark_down()
        log.warning("doorbell_lost", queue=queue, error=type(error).__name__, hint="the sweep will ring again")
        return False
    return True

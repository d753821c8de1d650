"""Ringing: telling the workers that rows are due. A doorbell carries ids only, and losing one costs a second: the
sweep finds the rows. So ringing never raises, never blocks for long, and never retries."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from uuid import UUID

import structlog
from celery import current_app
from django.conf import settings
from kombu import Connection, pools

from apps.channels import Channel, Lane
from apps.delivery.queues import RECEIPTS, delivery_queue

BATCH_SIZE = 500
_PAUSE_S = 1.0  # after a failed publish: what follows within it is left to the sweep
_TIMEOUT_S = 0.7  # for every step of a publish: a caller of the API may be waiting
log = structlog.get_logger("notify.delivery.doorbell")


class _Line:
    """Whether the broker answered last time, for this process. While it is down, one caller a second tries."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_down = False
        self._next_try = 0.0

    def may_try(self) -> bool:
        if not self._is_down:
            return True
        with self._lock:
            now = time.monotonic()
            if now < self._next_try:
                return False
            self._next_try = now + _PAUSE_S
            return True

    def report(self, *, is_up: bool) -> None:
        if self._is_down == is_up:
            with self._lock:
                self._is_down = not is_up
                self._next_try = time.monotonic() + _PAUSE_S


_line = _Line()


def reset() -> None:
    """Forgets that the broker was down."""
    _line.report(is_up=True)


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
    if not _line.may_try():
        return False
    try:
        # On an error the pool closes this connection: whatever it says next may be about this message (py-amqp takes a
        # late confirm for the next message's).
        with pools.connections[_connection()].acquire(block=True, timeout=_TIMEOUT_S) as connection:
            # By the queue's name alone: Celery then goes through the default exchange, which needs no binding. On Redis
            # bindings are data that a FLUSHALL takes away; what is published without one is lost.
            current_app.send_task(task, args, queue=queue, connection=connection, confirm_timeout=_TIMEOUT_S)
    except Exception as error:
        # Any, as nothing that goes wrong here may turn an accepted notification into an error.
        _line.report(is_up=False)
        log.warning("doorbell_lost", queue=queue, error=type(error).__name__, hint="the sweep will ring again")
        return False
    _line.report(is_up=True)
    return True


def queue_depth(queue: str) -> int:
    """How many doorbells hang in ``queue``; 0 where nobody knows (no such queue yet, no broker)."""
    try:
        with pools.connections[_connection()].acquire(block=True, timeout=_TIMEOUT_S) as connection:
            return int(connection.default_channel.queue_declare(queue=queue, passive=True).message_count)
    except Exception as error:
        log.debug("queue_depth_unknown", queue=queue, error=type(error).__name__)
        return 0


@cache
def _connection() -> Connection:
    """The broker with time-outs that suit a caller who waits, not a worker that listens; key of a pool of its own."""
    limits = (
        {"read_timeout": _TIMEOUT_S, "write_timeout": _TIMEOUT_S}
        if settings.BROKER_IS_AMQP
        else {"socket_timeout": _TIMEOUT_S, "socket_connect_timeout": _TIMEOUT_S}
    )
    options = {**settings.CELERY_BROKER_TRANSPORT_OPTIONS, **limits, "max_retries": 1, "interval_start": 0.0}
    return current_app.connection_for_write(connect_timeout=_TIMEOUT_S, transport_options=options)

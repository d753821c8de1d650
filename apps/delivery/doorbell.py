"""Ringing: telling the workers that rows are due. A doorbell carries ids only, and losing one costs a second: the
sweep finds the rows. So ringing never raises, never blocks for long, and never retries."""

import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any
from uuid import UUID

import structlog
from celery import current_app
from celery.signals import after_task_publish, before_task_publish
from django.conf import settings
from kombu import Connection, pools
from kombu.exceptions import ChannelError
from kombu.serialization import dumps

from apps.channels import Channel, Lane
from apps.delivery.queues import BULK_QUEUES, RECEIPTS, delivery_queue
from apps.randomness import random_uuid

BATCH_SIZE = 500
CROWDED = 20  # doorbells; the sweep leaves up to twice as many hanging
DEPTH_AGE_S = 0.5
RECEIPTS_PAUSE_S = 0.1
_SHOWN_CHARACTERS = 1024  # of the arguments, to whoever looks at the messages (Flower); Celery's own bound
_PERSISTENT = 2  # AMQP's delivery mode
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
    """Forgets that the broker was down, what hung in its queues, and when was rung for receipts."""
    _line.report(is_up=True)
    _begin_anew()


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


class _ReceiptsBell:
    """Rings at once for the first of many, and for those that come within a moment after it once more, at its end:
    three receipts an SMS would else be three doorbells, of which the first finds them all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._quiet_until = float("-inf")
        self._is_ringing_later = False

    def ring(self) -> bool:
        with self._lock:
            now = time.monotonic()
            if now < self._quiet_until:
                if not self._is_ringing_later:
                    self._is_ringing_later = True
                    later = threading.Timer(self._quiet_until - now, self._ring_again)
                    later.daemon = True
                    later.start()
                return True
            self._quiet_until = now + RECEIPTS_PAUSE_S
        return _ring_for_receipts()

    def _ring_again(self) -> None:
        with self._lock:
            self._is_ringing_later = False
            self._quiet_until = time.monotonic() + RECEIPTS_PAUSE_S
        _ring_for_receipts()


def _ring_for_receipts() -> bool:
    if _depths.of(RECEIPTS) > CROWDED:  # nobody takes them; the sweep rings too
        return False
    return _publish("notify.apply_receipts", [], RECEIPTS)


_receipts_bell = _ReceiptsBell()


def ring_receipts() -> bool:
    """Rings for the receipts inbox, ten times a second at most; returns whether it rang or soon will."""
    return _receipts_bell.ring()


def ring(task: str, args: list[object], queue: str) -> bool:
    """Rings for the task of this name; returns whether the message was published."""
    return _publish(task, args, queue)


def batched_ids(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[start : start + BATCH_SIZE] for start in range(0, len(ids), BATCH_SIZE))


def _publish(task: str, args: list[object], queue: str) -> bool:
    if not _line.may_try():
        return False
    try:
        # On an error the pool closes this connection: whatever it says next may be about this message (py-amqp takes a
        # late confirm for the next message's).
        with pools.connections[_connection()].acquire(block=True, timeout=_TIMEOUT_S) as connection:
            _send(connection, task, args, queue)
    except Exception as error:
        # Any, as nothing that goes wrong here may turn an accepted notification into an error.
        _line.report(is_up=False)
        log.warning("doorbell_lost", queue=queue, error=type(error).__name__, hint="the sweep will ring again")
        return False
    _line.report(is_up=True)
    return True


def _send(connection: Connection, task: str, args: list[object], queue: str) -> None:
    """What ``app.send_task`` does, in a third of its time: there is no route to find, no option to merge and no result
    to wait for, and an API call waits for it."""
    task_id = str(random_uuid())
    headers = {**_headers(task), "id": task_id, "root_id": task_id, "argsrepr": repr(args)[:_SHOWN_CHARACTERS]}
    properties = {"correlation_id": task_id, "reply_to": "", "delivery_mode": _PERSISTENT}
    body: tuple[Any, ...] = (args, {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None})
    # Named as Celery names them, for whoever listens: the trace id gets into the headers so.
    told = {"sender": task, "body": body, "exchange": "", "routing_key": queue, "headers": headers}
    before_task_publish.send(**told, declare=[], properties=properties, retry_policy=None)
    content_type, encoding, data = dumps(body, serializer="json")
    channel: Any = connection.default_channel
    # Through the default exchange, by the queue's name, which needs no binding. On Redis bindings are data that a
    # FLUSHALL takes away; what is published without one is lost. Queues are declared by ``manage.py declare_topology``;
    # one that is missing is an error here (mandatory).
    channel.basic_publish(
        channel.prepare_message(data, 0, content_type, encoding, headers, properties),
        exchange="",
        routing_key=queue,
        mandatory=True,
        confirm_timeout=_TIMEOUT_S,
    )
    after_task_publish.send(**told)


@cache
def _headers(task: str) -> dict[str, object]:
    """The headers that all messages for ``task`` share."""
    headers: dict[str, object] = current_app.amqp.as_task_v2("", task, (), {}, ignore_result=True).headers
    return headers


os.register_at_fork(after_in_child=_headers.cache_clear)  # they name the process


class _Depths:
    """How many doorbells hang in the queues that may get crowded, as of half a second ago or so: whoever asks is not
    kept waiting, a thread of its own goes to see."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depths: dict[str, int | None] = {}
        self._read_at = float("-inf")

    def of(self, queue: str) -> int:
        """0 as long as nobody knows."""
        if time.monotonic() - self._read_at > DEPTH_AGE_S and self._lock.acquire(blocking=False):
            self._read_at = time.monotonic()
            threading.Thread(target=self._read, name="queue-depths", daemon=True).start()
        return self._depths.get(queue) or 0

    def _read(self) -> None:
        try:
            self._depths = {queue: queue_depth(queue) for queue in (*BULK_QUEUES, RECEIPTS)}
        finally:
            self._lock.release()


_depths = _Depths()


def _begin_anew() -> None:
    global _depths, _receipts_bell
    _depths, _receipts_bell = _Depths(), _ReceiptsBell()


os.register_at_fork(after_in_child=_begin_anew)  # threads of the parent may have been at it


def is_crowded(channel: Channel, lane: Lane) -> bool:
    """Whether so many doorbells hang in that queue that one more would only stand in others' way: then the sweep rings,
    which is fair between clients. What is urgent never waits for the sweep."""
    return lane is Lane.BULK and _depths.of(delivery_queue(channel, lane)) > CROWDED


def queue_depth(queue: str) -> int | None:
    """How many doorbells hang in ``queue``; ``None`` where ringing is of no use: no broker, or no such queue in it."""
    try:
        with pools.connections[_connection()].acquire(block=True, timeout=_TIMEOUT_S) as connection:
            return int(connection.default_channel.queue_declare(queue=queue, passive=True).message_count)
    except ChannelError as error:
        if not settings.BROKER_IS_AMQP:  # Redis has no empty lists
            return 0
        log.error("queue_missing", queue=queue, error=type(error).__name__, hint="manage.py declare_topology")
    except Exception as error:
        log.debug("queue_depth_unknown", queue=queue, error=type(error).__name__)
    return None


@cache
def _connection() -> Connection:
    """The broker with time-outs that suit a caller who waits, not a worker that listens; key of a pool of its own."""
    limits = (
        {"read_timeout": _TIMEOUT_S, "write_timeout": _TIMEOUT_S}
        if settings.BROKER_IS_AMQP
        else {"socket_timeout": _TIMEOUT_S, "socket_connect_timeout": _TIMEOUT_S}
    )
    hosts = len(settings.BROKER_URL.split(";"))  # each gets its turn
    options = {**settings.CELERY_BROKER_TRANSPORT_OPTIONS, **limits, "max_retries": hosts, "interval_start": 0.0}
    return current_app.connection_for_write(connect_timeout=_TIMEOUT_S, transport_options=options)

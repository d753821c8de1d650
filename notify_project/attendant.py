"""A thread of every worker process that looks after it: shows that it consumes, and sweeps while nobody else does."""

import threading
import time

import structlog
from celery import Celery
from django.db import connection
from kombu import Exchange, Queue

from apps import liveness
from apps.delivery.doorbell import ring
from apps.delivery.queues import EXCHANGE_NAME
from apps.delivery.sweep import BEAT_PATIENCE_S, stand_in_for_beat

PACE_S = 2.0
CANARY_EVERY_S = 10.0
QUEUE_EXPIRES_S = 120.0
log = structlog.get_logger("notify.attendant")


def own_queue(name: str) -> Queue:
    """The queue that the worker ``name`` alone consumes; it goes when the worker has been gone for long."""
    return Queue(
        f"{EXCHANGE_NAME}.canary.{name}",
        exchange=Exchange("", type="direct"),
        routing_key=f"{EXCHANGE_NAME}.canary.{name}",
        durable=True,
        expires=QUEUE_EXPIRES_S,
    )


def add_own_queue(app: Celery, name: str) -> None:
    """Has the worker consume its own queue too."""
    app.amqp.queues.select_add(own_queue(name))


class Attendant(threading.Thread):
    """``note_task`` is called for every task that begins; the rest it does by itself, until ``stop``.

    Every canary into the worker's own queue goes the way of all its messages: connection, loop, thread. It must not go
    into a shared queue, where another worker might take it."""

    def __init__(self, name: str) -> None:
        super().__init__(name="attendant", daemon=True)
        self._worker = name
        self._queue = str(own_queue(name).name)
        self._is_over = threading.Event()
        self._has_consumed = True
        self._next_canary = 0.0
        self._begin = time.monotonic()

    def note_task(self) -> None:
        """A task has begun."""
        self._has_consumed = True

    def stop(self) -> None:
        """The worker ends; it is to be missed by nobody."""
        self._is_over.set()

    def run(self) -> None:
        while not self._is_over.is_set():
            try:
                self._show_life()
                self._stand_in()
            except Exception as error:  # whatever is away will be back
                log.debug("attendant_hindered", error=type(error).__name__)
            self._is_over.wait(PACE_S)
        liveness.forget(self._worker)

    def _show_life(self) -> None:
        now = time.monotonic()
        if now >= self._next_canary:
            self._next_canary = now + CANARY_EVERY_S
            if not ring("notify.canary", [self._queue, time.time()], self._queue):
                self._has_consumed = True  # from a broker that is away nobody can
        if self._has_consumed:
            self._has_consumed = False
            liveness.show_life(self._worker)

    def _stand_in(self) -> None:
        try:
            stand_in_for_beat(is_patient=time.monotonic() - self._begin < BEAT_PATIENCE_S)
        finally:
            connection.close()

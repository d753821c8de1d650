"""Flower hears of every task, though not at once."""

import threading
from collections import Counter
from typing import Any

import pytest
from celery import current_app

from apps.delivery.queues import RECEIPTS
from tests.brokers import broker as broker
from tests.observability.probe_tasks import probe
from tests.waiting import wait_for
from tests.workers import WorkerProcess

TASKS = 5
STAGES = ("task-received", "task-started", "task-succeeded")


@pytest.mark.django_db(transaction=True)
def test_events_of_tasks_reach_who_listens(broker: Any) -> None:
    seen: Counter[str] = Counter()
    is_over = threading.Event()

    def listen() -> None:
        with current_app.connection_for_read() as connection:
            receiver = current_app.events.Receiver(
                connection, handlers={"*": lambda event: seen.update([event["type"]])}
            )
            while not is_over.is_set():
                try:
                    receiver.capture(limit=None, timeout=0.5, wakeup=False)
                except TimeoutError:
                    continue

    listener = threading.Thread(target=listen)
    with WorkerProcess([RECEIPTS], environment=broker.environment, include="tests.observability.probe_tasks"):
        listener.start()
        try:
            wait_for(lambda: seen["worker-heartbeat"] > 0, lambda: seen)
            for number in range(TASKS):
                probe.apply_async((number,), queue=RECEIPTS)
            wait_for(lambda: all(seen[stage] == TASKS for stage in STAGES), lambda: seen)
        finally:
            is_over.set()
            listener.join()

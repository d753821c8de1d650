"""A real worker process: its lines are like everybody's, a trace goes on in it, and it shows its metrics."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator

import pytest

from apps import trace
from apps.delivery.queues import MAINTENANCE
from notify_project.local.ports import free_port
from tests.observability.probe_tasks import fail, probe

WAIT_S = 30


class Worker:
    """A worker on the maintenance queue; ``lines`` grows with what it writes."""

    def __init__(self) -> None:
        self.metrics_port = free_port()
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._process = subprocess.Popen(
            [
                *(
                    sys.executable,
                    "-m",
                    "celery",
                    "--app=notify_project",
                    "worker",
                    "--pool=threads",
                    "--concurrency=1",
                ),
                *(f"--queues={MAINTENANCE}", "--include=tests.observability.probe_tasks", "--hostname=probe@%h"),
            ],
            env=os.environ | {"METRICS_PORT": str(self.metrics_port), "NOTIFY_ROLE": "worker-probe"},
            stdout=subprocess.DEVNULL,  # Celery's banner
            stderr=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()

    def wait_for(self, is_it: Callable[[dict], bool]) -> dict:
        """The first line, parsed, that ``is_it``."""
        deadline = time.monotonic() + WAIT_S
        with self._news:
            while True:
                for line in self.lines:
                    if line.startswith("{") and is_it(json.loads(line)):
                        return json.loads(line)
                left = deadline - time.monotonic()
                assert left > 0, "".join(self.lines)[-5000:]
                self._news.wait(left)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=WAIT_S)
        assert self._process.stderr is not None
        self._process.stderr.close()


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker()
    worker.wait_for(lambda line: line["logger"] == "celery.apps.worker" and line["event"].endswith("ready."))
    yield worker
    worker.stop()


def test_a_task_continues_the_trace_of_its_publisher(worker):
    with trace.bind_trace("order-4711"):
        result = probe.apply_async((1,), queue=MAINTENANCE)
    line = worker.wait_for(lambda line: line.get("number") == 1)
    assert line["trace_id"] == "order-4711"
    assert (line["task"], line["task_id"]) == ("tests.probe", result.id)
    assert (line["logger"], line["role"]) == ("notify.probe", "worker-probe")


def test_a_task_nobody_traced_begins_a_trace_and_not_the_one_before(worker):
    with trace.bind_trace("order-4712"):
        probe.apply_async((2,), queue=MAINTENANCE)
    probe.apply_async((3,), queue=MAINTENANCE)
    assert worker.wait_for(lambda line: line.get("number") == 2)["trace_id"] == "order-4712"
    fresh = worker.wait_for(lambda line: line.get("number") == 3)["trace_id"]
    assert len(fresh) == 32
    assert fresh != "order-4712"


@pytest.mark.parametrize("forged", ["x" * 65, "someone@example.com", "a b", ""])
def test_a_forged_trace_in_a_message_is_not_believed(worker, forged):
    number = hash(forged) & 0xFFFF
    probe.apply_async((number,), queue=MAINTENANCE, headers={"trace_id": forged})
    assert len(worker.wait_for(lambda line: line.get("number") == number)["trace_id"]) == 32


def test_a_failed_task_leaves_its_traceback_without_personal_data_or_local_variables(worker):
    with trace.bind_trace("order-4713"):
        fail.apply_async((5,), queue=MAINTENANCE)
    line = worker.wait_for(lambda line: line.get("trace_id") == "order-4713")
    assert line["logger"] == "celery.app.trace"
    assert line["level"] == "error"
    assert "ValueError" in line["exception"]
    assert "probe_tasks.py" in line["exception"]
    everything = "".join(worker.lines)
    assert "someone@example.com" not in everything
    assert "5 hunter2" not in everything


def test_every_line_of_a_worker_is_json(worker):
    for line in worker.lines:
        assert {"timestamp", "level", "event", "logger", "role", "pid"} <= json.loads(line).keys()


def test_a_worker_on_its_own_shows_its_metrics(worker):
    with urllib.request.urlopen(f"http://127.0.0.1:{worker.metrics_port}/metrics", timeout=10) as page:
        text = page.read().decode()
    assert "# TYPE notify_deliveries_total counter" in text
    assert "notify_queue_depth{" in text

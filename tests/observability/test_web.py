"""A real web server of several processes: one page of metrics for all of them, and nothing but JSON lines."""

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from notify_project.local.ports import free_port

WAIT_S = 30
WORKERS = 2
GRANIAN_LOGGING = Path(__file__).parents[2] / "notify_project" / "granian.json"


class Web:
    """granian with ``WORKERS`` processes; ``lines`` grows with what they write."""

    def __init__(self, metrics_directory: Path) -> None:
        self.port = free_port()
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [
                *(
                    str(Path(sys.executable).with_name("granian")),
                    "--interface=asginl",
                    "--loop=uvloop",
                    "--host=127.0.0.1",
                ),
                *(f"--port={self.port}", f"--workers={WORKERS}", "--no-access-log"),
                *(f"--log-config={GRANIAN_LOGGING}", "notify_project.asgi:application"),
            ],
            env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(metrics_directory), "NOTIFY_ROLE": "web"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line)

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
        """Each call on a connection of its own, so that the processes take turns."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read().decode()
        finally:
            connection.close()

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                assert self.get("/healthz")[0] == 200
                return
            except OSError:
                assert time.monotonic() < deadline, "".join(self.lines)[-5000:]
                threading.Event().wait(0.05)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=WAIT_S)
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    web = Web(tmp_path_factory.mktemp("metrics"))
    try:
        web.wait_until_up()
        yield web
    finally:
        web.stop()


def probes_counted(page: str) -> float:
    labels = {"route": "healthz", "method": "GET", "status": "200"}
    return sum(
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "http_requests_total" and sample.labels == labels
    )


def test_any_process_answers_for_all(web):
    before = probes_counted(web.get("/metrics")[2])
    for _ in range(40):
        web.get("/healthz")
    for _ in range(6):  # whichever process is asked
        assert probes_counted(web.get("/metrics")[2]) == before + 40


def test_a_request_from_elsewhere_through_a_proxy_is_not_shown_the_metrics(web):
    assert web.get("/metrics", **{"X-Forwarded-For": "203.0.113.5"})[0] == 403


def test_the_trace_comes_back_and_stands_in_the_access_line(web):
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    _, headers, _ = web.get("/no/such/page", traceparent=f"00-{trace_id}-00f067aa0ba902b7-01")
    assert headers["x-trace-id"] == trace_id
    deadline = time.monotonic() + WAIT_S
    while not any(trace_id in line for line in list(web.lines)):
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)
    line = json.loads(next(line for line in web.lines if trace_id in line))
    assert (line["event"], line["status"], line["role"]) == ("request", 404, "web")


def test_the_admins_static_files_are_there(web):
    assert web.get("/static/admin/css/base.css")[0] == 200


def test_every_line_of_the_web_server_is_json(web):
    assert web.lines
    for line in web.lines:
        assert {"timestamp", "level", "event", "logger", "role", "pid"} <= json.loads(line).keys()

"""The real sandbox process, a web server that takes its receipts, and clients for its providers."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from notify_project.local.ports import free_port
from tests.providers.sandbox.client import SandboxClient
from tests.providers.sandbox.web import Web

ROOT = Path(__file__).resolve().parents[3]


def run_command(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "apps.providers.sandbox", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)


def wait_until(condition: Callable[[], object], timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


class SandboxProcess:
    """``init`` and ``serve`` in a directory of its own."""

    def __init__(self, data_dir: Path, webhook_base: str) -> None:
        self.data_dir = data_dir
        self.port, self.http_port, self.smtp_port = free_port(), free_port(), free_port()
        self._place = ["--data-dir", str(data_dir), "--port", str(self.port), "--smtp-port", str(self.smtp_port)]
        done = run_command("init", *self._place, "--webhook-base", webhook_base)
        assert done.returncode == 0, done.stderr
        self.process: subprocess.Popen | None = None
        self.client = SandboxClient(data_dir, self.port, self.http_port)

    def start(self) -> "SandboxProcess":
        command = [sys.executable, "-m", "apps.providers.sandbox", "serve", *self._place]
        command += ["--http-port", str(self.http_port)]
        environment = {**os.environ, "PYTHONWARNINGS": "default"}
        with (self.data_dir / "out").open("ab") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        wait_until(self.client.is_up, timeout_s=15)
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(timeout=5)
        self.client.close()
        return status

    def read_output(self) -> str:
        return (self.data_dir / "out").read_text()


@pytest.fixture(scope="session")
def web() -> Iterator[Web]:
    server = Web()
    yield server
    server.close()


@pytest.fixture(scope="session")
def shared_process(tmp_path_factory, web) -> Iterator[SandboxProcess]:
    process = SandboxProcess(tmp_path_factory.mktemp("sandbox"), web.url).start()
    yield process
    assert process.stop() == 0
    assert len(process.read_output().splitlines()) == 1, process.read_output()


@pytest.fixture
def sandbox(shared_process, web) -> Iterator[SandboxClient]:
    """The shared sandbox, empty, with quick receipts to ``web``."""
    client = shared_process.client
    client.control("POST", "reset")
    for provider in ("fcm", "twilio", "sendgrid"):
        client.set_receipts(provider, delay_ms=5)
    web.clear()
    yield client
    client.control("POST", "reset")


@pytest.fixture
def make_process(tmp_path, web) -> Iterator[Callable[..., SandboxProcess]]:
    """Makes sandboxes of the test's own; those still running at the end are killed."""
    made = []

    def make(webhook_base: str = web.url) -> SandboxProcess:
        made.append(SandboxProcess(tmp_path / f"sandbox-{len(made)}", webhook_base))
        return made[-1]

    yield make
    for process in made:
        process.client.close()
        if process.process is not None and process.process.poll() is None:
            process.process.kill()
            process.process.wait()

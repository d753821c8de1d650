"""compose/nginx/nginx.conf before a real web process. Skipped where no nginx is installed."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from notify_project.local.ports import LOOPBACK, free_port
from tests.notify_project.server import THREADS, Server, database_url

ROOT = Path(__file__).parents[2]
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(NGINX is None and "CI" not in os.environ, reason="nginx is not installed")
SLOW_CALLERS = 4 * THREADS


@pytest.fixture
def web(tmp_path: Path, transactional_db: None) -> Iterator[Server]:
    server = Server(tmp_path / "log", DATABASE_URL=database_url(), TRUSTED_PROXIES=LOOPBACK)
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


@pytest.fixture
def gateway(web: Server, tmp_path: Path) -> Iterator[Server]:
    """The same calls as of ``web``, through nginx."""
    port = free_port()
    text = (ROOT / "compose/nginx/nginx.conf").read_text()
    for written, here in (
        ("server web:8000", f"server {LOOPBACK}:{web.port}"),
        ("listen 8080", f"listen {LOOPBACK}:{port}"),
        ("/tmp/", f"{tmp_path}/nginx-"),
        ("worker_processes auto", "worker_processes 1"),
        ("client_body_timeout 10s", "client_body_timeout 1s"),
    ):
        assert text.count(written) >= 1
        text = text.replace(written, here)
    conf = tmp_path / "nginx.conf"
    conf.write_text(text)
    whoever = " user root;" if os.geteuid() == 0 else ""  # who can write here
    process = subprocess.Popen([str(NGINX), "-e", "stderr", "-c", str(conf), "-g", f"daemon off;{whoever}"])
    gateway = Server.at(port, web)
    try:
        gateway.wait_ready()
        yield gateway
    finally:
        process.terminate()
        process.wait(10)


def test_slow_callers_do_not_get_through(gateway: Server, web: Server) -> None:
    start = b"POST /v1/webhooks/twilio HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{"
    with gateway.held_open(start, count=SLOW_CALLERS) as connections:
        for path, status in (("/healthz", 200), ("/readyz", 200), ("/v1/notifications", 401)):
            started = time.monotonic()
            assert gateway.ask("GET", path)[0] == status
            assert time.monotonic() - started < 1.0
        for connection in connections:
            with suppress(ConnectionResetError):
                connection.recv(65_536)  # nginx has given up: the end of the stream, or 408
    assert "webhooks" not in web.log.read_text()


def test_one_address_holds_so_many_connections_and_no_more(gateway: Server) -> None:
    start = b"POST /v1/webhooks/twilio HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{"
    with gateway.held_open(start, count=100):
        deadline = time.monotonic() + 5
        while gateway.ask("GET", "/healthz")[0] != 429:
            assert time.monotonic() < deadline
    while gateway.ask("GET", "/healthz")[0] != 200:
        assert time.monotonic() < deadline


def test_body_too_large_gets_the_platforms_own_document(gateway: Server) -> None:
    status, document, _ = gateway.ask("POST", "/v1/notifications", b"x" * 2_000_000)
    assert (status, document["type"]) == (413, "/problems/body-too-large")


def test_metrics_are_not_for_whoever_comes_through_the_gateway(gateway: Server, web: Server) -> None:
    assert web.ask("GET", "/metrics")[0] == 200
    assert gateway.ask("GET", "/metrics")[0] == 403
    assert gateway.ask("GET", "/metrics", **{"X-Forwarded-For": LOOPBACK})[0] == 403

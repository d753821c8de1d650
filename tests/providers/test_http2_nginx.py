"""The transport against an HTTP/2 server that nobody here wrote: nginx, which allows few streams at once, says GOAWAY
after a thousand requests of a connection, and takes bodies larger than its window."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from apps.providers.authorities import ca_bundle
from apps.providers.limits import Limits
from apps.providers.messages import ProviderRequest, ProviderResponse
from apps.providers.transport import Transport
from notify_project.local.ports import LOOPBACK, free_port

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(NGINX is None and "CI" not in os.environ, reason="nginx is not installed")
BEARER = ("Authorization", "Bearer " + "x" * 900)
CONF = """
worker_processes 1; pid {home}/pid;
events {{ worker_connections 256; }}
http {{
    access_log off; keepalive_requests 1000;
    client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
    server {{
        listen {host}:{port} ssl http2; http2_max_concurrent_streams 20;
        ssl_certificate {certificate}; ssl_certificate_key {key};
        location / {{ proxy_pass http://{host}:{back_port}; }}
    }}
    server {{
        listen {host}:{back_port};
        location / {{ add_header x-got $http_authorization; return 200 "$request_uri has $content_length"; }}
        location /busy {{ return 429 "slow down"; }}
    }}
}}
"""


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


@pytest.fixture
def url(tmp_path: Path, authority: tuple[Path, Path]) -> Iterator[str]:
    certificate, key = authority
    port = free_port()
    conf = tmp_path / "nginx.conf"
    conf.write_text(
        CONF.format(home=tmp_path, host=LOOPBACK, port=port, back_port=free_port(), certificate=certificate, key=key)
    )
    whoever = " user root;" if os.geteuid() == 0 else ""  # who can write here
    process = subprocess.Popen([str(NGINX), "-e", "stderr", "-c", str(conf), "-g", f"daemon off;{whoever}"])
    deadline = time.monotonic() + 10
    while not _listens(port):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield f"https://{LOOPBACK}:{port}"
    process.terminate()
    process.wait(10)


@pytest.fixture
def transport(authority: tuple[Path, Path]) -> Iterator[Transport]:
    limits = Limits(connect_s=5.0, total_s=10.0, call_s=30.0)
    transport = Transport(limits=limits, ca_file=ca_bundle(str(authority[0])))
    yield transport
    transport.close()


@pytest.mark.parametrize("place", ["/send", "/3/device/{}"], ids=["one path", "a path for each"])
def test_every_request_gets_its_own_answer(transport: Transport, url: str, place: str) -> None:
    for _ in range(3):
        bodies = [b"x" * (40_000 if number % 50 == 0 else 300 + number) for number in range(500)]
        paths = [place.format(number) for number in range(500)]
        outcomes = transport.send_all(
            [
                ProviderRequest((), f"{url}{path}", "POST", (BEARER,), body)
                for path, body in zip(paths, bodies, strict=True)
            ]
        )
        for path, body, outcome in zip(paths, bodies, outcomes, strict=True):
            assert isinstance(outcome, ProviderResponse), outcome
            assert (outcome.status, outcome.body) == (200, f"{path} has {len(body)}".encode())
        assert {outcome.headers["x-got"] for outcome in outcomes if isinstance(outcome, ProviderResponse)} == {
            BEARER[1]
        }


def test_an_error_has_its_headers(transport: Transport, url: str) -> None:
    [outcome] = transport.send_all([ProviderRequest((), f"{url}/busy", "POST", (), b"{}")])
    assert isinstance(outcome, ProviderResponse)
    assert (outcome.status, outcome.body, outcome.headers["content-type"]) == (429, b"slow down", "text/plain")

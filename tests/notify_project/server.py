"""A web process of the product, as granian runs it, and ways to ask it."""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from copy import copy
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
from django.conf import settings

from notify_project.local.ports import LOOPBACK, free_port
from notify_project.local.roles import Counts, web_command

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 30
THREADS = 4


def database_url(place: str = "") -> str:
    """Of the test database, which pytest-django has named; ``place`` is another host and port to find it at."""
    database: dict[str, Any] = settings.DATABASES["default"]
    password = f":{quote(database['PASSWORD'])}" if database["PASSWORD"] else ""
    host = database["HOST"] or "127.0.0.1"
    place = place or f"{quote(host, safe='')}:{database['PORT']}"
    return f"postgres://{database['USER']}{password}@{place}/{database['NAME']}"


class Server:
    """A granian process and the requests made of it."""

    def __init__(self, log: Path, **environment: str) -> None:
        self.port = free_port()
        self.log = log
        command = web_command(host=LOOPBACK, port=self.port, counts=Counts())
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=ROOT,
                env={**os.environ, "WEB_THREADS": str(THREADS), **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    @classmethod
    def at(cls, port: int, behind: "Server") -> "Server":
        """Somebody on ``port`` who passes on to ``behind``."""
        other = copy(behind)
        other.port = port
        return other

    def wait_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                assert self.ask("GET", "/healthz")[0] == HTTPStatus.OK
            except OSError:
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.05)
            else:
                return

    def ask(self, method: str, target: str, body: Any = None, **headers: str) -> tuple[int, dict[str, Any], Any]:
        """Status, document and headers of the answer. A body that is an iterator goes out chunked."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            try:
                connection.request(method, target, body, headers)
            except (BrokenPipeError, ConnectionResetError):
                pass  # an early answer to a body the server does not want
            response = connection.getresponse()
            content = response.read()
            document = json.loads(content) if "json" in response.headers["Content-Type"] else {}
            return response.status, document, response.headers

    def send_raw(self, data: bytes) -> None:
        """Send ``data`` and go away without reading the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(data)

    def exchange(self, *parts: bytes, is_cut: bool = False) -> tuple[int, dict[str, Any]]:
        """Send ``parts``, end our side of the connection if ``is_cut``, and read an answer that is a problem."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(b"".join(parts))
            if is_cut:
                connection.shutdown(socket.SHUT_WR)
            response = http.client.HTTPResponse(connection)
            response.begin()
            return response.status, json.loads(response.read())

    @contextmanager
    def held_open(self, data: bytes, count: int) -> Iterator[list[socket.socket]]:
        """``count`` connections that have sent ``data`` and then say no more."""
        with ExitStack() as stack:
            connections = [socket.create_connection(("127.0.0.1", self.port), timeout=10) for _ in range(count)]
            for connection in connections:
                stack.enter_context(connection)
                connection.sendall(data)
            yield connections

    def resident_bytes(self) -> int:
        processes = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        return sum(int(process.memory_info().rss) for process in processes)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)

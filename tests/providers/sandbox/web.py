"""A web server that takes receipts, keeps them, and answers as told."""

import json
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl


@dataclass(frozen=True)
class Posted:
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> object:
        return json.loads(self.body)

    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True))


class Web:
    """``statuses`` are used up first, one a call; then every call is answered 204. A call is kept and
    answered ``delay_s`` after it ``arrived``."""

    def __init__(self, port: int = 0) -> None:
        self.calls: list[Posted] = []
        self.statuses: list[int] = []
        self.connections = 0
        self.arrived = 0
        self.delay_s = 0.0
        self._changed = threading.Condition()
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                web.connections += 1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                posted = Posted(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
                self.send_response(web._take(posted))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def _take(self, posted: Posted) -> int:
        self.arrived += 1
        time.sleep(self.delay_s)
        with self._changed:
            self.calls.append(posted)
            self._changed.notify_all()
            return self.statuses.pop(0) if self.statuses else 204

    def wait_for(self, count: int, timeout_s: float = 5.0) -> list[Posted]:
        with self._changed:
            arrived = self._changed.wait_for(lambda: len(self.calls) >= count, timeout_s)
            assert arrived, f"only {len(self.calls)} of {count} calls came"
            return list(self.calls)

    def clear(self) -> None:
        with self._changed:
            self.calls, self.statuses, self.connections, self.arrived, self.delay_s = [], [], 0, 0, 0.0

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

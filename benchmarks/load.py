"""A load generator that costs little: requests are made beforehand, a few connections are kept alive, each sends its
next request when it has its answer. A process of its own, without a library between it and the socket."""

import json
import selectors
import socket
import time
from collections import Counter
from typing import Any

from benchmarks.results import percentiles
from benchmarks.starting_line import run_when_told

RECEIVE_BYTES = 1 << 18
END_OF_HEAD = b"\r\n\r\n"


class Caller:
    """One connection and the requests it has yet to send."""

    def __init__(self, address: tuple[str, int], requests: list[bytes]) -> None:
        self.socket = socket.create_connection(address, timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._requests = requests
        self._received = b""
        self._sent_at = 0.0
        self.statuses: Counter[int] = Counter()
        self.latencies_ms: list[float] = []

    def send_next(self) -> bool:
        """Whether there was one to send."""
        if not self._requests:
            return False
        self._sent_at = time.perf_counter()
        self.socket.sendall(self._requests.pop())
        return True

    def receive(self) -> bool:
        """Whether the answer is complete now."""
        data = self.socket.recv(RECEIVE_BYTES)
        if not data:
            raise RuntimeError("the server hung up")
        self._received += data
        head_end = self._received.find(END_OF_HEAD)
        if head_end < 0:
            return False
        head = self._received[:head_end].lower()
        start = head.index(b"content-length:") + 15
        line_end = head.find(b"\r\n", start)
        length = int(head[start : line_end if line_end >= 0 else len(head)])
        if len(self._received) < head_end + len(END_OF_HEAD) + length:
            return False
        self.latencies_ms.append((time.perf_counter() - self._sent_at) * 1000)
        self.statuses[int(head[9:12])] += 1
        self._received = b""
        return True


def make_request(path: str, headers: dict[str, str], body: bytes) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + END_OF_HEAD + body


class Load:
    """Takes ``{"step": "prepare", "file", "port", "connections"}``, where the file holds JSON lines
    ``[path, headers, body]``, and then ``{"step": "go"}``."""

    def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        return self._go() if order["step"] == "go" else self._prepare(order)

    def _prepare(self, order: dict[str, Any]) -> dict[str, Any]:
        with open(order["file"]) as lines:  # noqa: PTH123
            requests = [
                make_request(path, headers, json.dumps(body).encode()) for path, headers, body in map(json.loads, lines)
            ]
        count = order["connections"]
        self._callers = [Caller(("127.0.0.1", order["port"]), requests[number::count]) for number in range(count)]
        return {}

    def _go(self) -> dict[str, Any]:
        selector = selectors.DefaultSelector()
        started, cpu = time.perf_counter(), time.process_time()
        open_calls = 0
        for caller in self._callers:
            selector.register(caller.socket, selectors.EVENT_READ, caller)
            open_calls += caller.send_next()
        while open_calls:
            for key, _ in selector.select():
                if key.data.receive() and not key.data.send_next():
                    open_calls -= 1
        seconds, used = time.perf_counter() - started, time.process_time() - cpu
        statuses: Counter[int] = Counter()
        for caller in self._callers:
            statuses += caller.statuses
            caller.socket.close()
        latencies = [one for caller in self._callers for one in caller.latencies_ms]
        return {"seconds": seconds, "cpu_s": used, "statuses": dict(statuses), "ms": percentiles(latencies)}


if __name__ == "__main__":
    run_when_told(Load().obey)

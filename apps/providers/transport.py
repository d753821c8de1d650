"""The one way to the providers' data plane: HTTP/2 multiplexed where the server offers it, else HTTP/1.1; TLS verified.

HTTP/2 is spoken by ``http2``, at a third of the CPU that libcurl takes for a small request (``make bench-transport``);
HTTP/1.1 by libcurl.
"""

import select
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf
from urllib.parse import urlsplit

import structlog
from django.conf import settings

from apps import yielding
from apps.providers.allowance import QUEUE_S, SHORT_QUEUE_S, Allowance
from apps.providers.authorities import ca_bundle
from apps.providers.curl_transport import CurlTransport
from apps.providers.http2 import Connection, Refused
from apps.providers.limits import Limits
from apps.providers.messages import Outcome, ProviderRequest, TransportFailure
from apps.providers.tls import ConnectError, client_context, connect

CONNECTIONS = 4  # to one origin, where the server allows few streams on each
MAX_SENDINGS = 3
MAX_IDLE_S = 90.0  # after which a firewall on the way may have forgotten a connection
HTTP1_S = 600.0  # how long a server that did not offer HTTP/2 is not asked again
TRANSPORTS_PER_THREAD = 6  # one for each time-out in use
# Of many answers, all that arrive within this time are taken in one go.
GATHER_S = 0.002
CROWD = 32  # requests in flight
GIVEN_UP = "broken off"
log = structlog.get_logger("notify.providers.transport")


@dataclass(frozen=True, slots=True)
class _Task:
    """A request's place in the call, its path, and which sending of it this is."""

    index: int
    path: str
    sending: int = 1


class _Line:
    """The connections to one origin, and what of a call waits for them."""

    def __init__(self, origin: str, limits: Limits, ca_file: str) -> None:
        parts = urlsplit(origin)
        if not parts.hostname or not parts.netloc.isascii() or "@" in parts.netloc:
            raise ValueError("not a host")
        self._host, self._port, self._authority = parts.hostname, parts.port or 443, parts.netloc
        self._limits = limits
        self._ca_file = ca_file
        self.connections: list[Connection[_Task]] = []
        self.waiting: deque[_Task] = deque()
        self.allowance = Allowance()
        self.is_http1 = False
        self._asked_at = 0.0
        self.is_shut = False  # no new connections for the rest of the call

    @property
    def in_flight(self) -> int:
        return sum(connection.in_flight for connection in self.connections)

    def find_connection(self) -> Connection[_Task] | None:
        """One with room, a new one if need be; ``None`` if there is none to be had now. Raises ``ConnectError``."""
        for connection in self.connections:
            if connection.room > 0:
                return connection
        if len(self.connections) >= CONNECTIONS or (self.is_shut and self.connections):
            return None
        sock = connect(self._host, self._port, client_context(self._ca_file, "h2", "http/1.1"), self._limits.connect_s)
        if sock.selected_alpn_protocol() != "h2":
            sock.close()
            self.is_http1, self._asked_at = True, time.monotonic()
            return None
        self.connections.append(Connection(sock, self._authority, self._limits.total_s))
        return self.connections[-1]

    def refresh(self, now: float) -> None:
        """Hear what came since the last call, such as the end of a connection."""
        self.is_shut = False
        self.is_http1 = self.is_http1 and now - self._asked_at < HTTP1_S
        for connection in self.connections:
            if now - connection.last_used > MAX_IDLE_S:
                connection.close()
            else:
                connection.receive()
        self.tidy()

    def tidy(self) -> None:
        """Forget connections that are of no more use."""
        for connection in self.connections:
            if connection.is_ending and not connection.in_flight:
                connection.flush()
                connection.close()
        self.connections = [connection for connection in self.connections if not connection.is_closed]


class _Call:
    """One ``send_all``."""

    def __init__(self, requests: Sequence[ProviderRequest], limits: Limits) -> None:
        self.requests = requests
        self.outcomes: list[Outcome | None] = [None] * len(requests)
        self.deadline = time.monotonic() + limits.call_s
        self.is_yielding = False

    def fail(self, task: _Task, detail: str, *, latency_s: float = 0.0, was_started: bool = True) -> None:
        """For what has not left."""
        self.outcomes[task.index] = TransportFailure(False, detail, latency_s, was_started)

    def fill(self, line: _Line) -> None:
        """Start what there is room for. A request's time runs from here, not from the call of ``send_all``."""
        started = time.monotonic()
        if line.waiting and started > self.deadline:
            while line.waiting:
                self.fail(line.waiting.popleft(), "not started in time", was_started=False)
        while line.waiting and (room := int(line.allowance.limit) - line.in_flight) > 0 and not line.is_http1:
            try:
                connection = line.find_connection()
            except ConnectError as error:
                if line.in_flight:
                    line.is_shut = True
                    return
                while line.waiting:
                    self.fail(line.waiting.popleft(), str(error), latency_s=time.monotonic() - started)
                return
            if connection is None:
                return
            self._start(line, connection, room)
            connection.flush()
            if connection.is_closed:  # it was lost since the last call
                self.take_verdicts(line, time.monotonic())

    def _start(self, line: _Line, connection: Connection[_Task], room: int) -> None:
        now, waiting, requests = time.monotonic(), line.waiting, self.requests
        for _ in range(min(room, connection.room, len(waiting))):
            task = waiting.popleft()
            try:
                connection.start(task.path, requests[task.index], task, now)
            except ValueError:
                self.fail(task, "malformed request")

    def give_up(self, lines: Sequence[_Line]) -> None:
        """Break off: what was answered stands, and of the rest it is known whether it has left."""
        for line in lines:
            for connection in line.connections:
                connection.close(GIVEN_UP)
            self.take_verdicts(line, time.monotonic())
            while line.waiting:
                self.fail(line.waiting.popleft(), GIVEN_UP)
        for index, outcome in enumerate(self.outcomes):
            if outcome is None:  # on its way into a connection
                self.outcomes[index] = TransportFailure(True, GIVEN_UP)

    def take_verdicts(self, line: _Line, now: float) -> None:
        latency_s, quickest_s, count = 0.0, inf, 0
        for connection in line.connections:
            for task, verdict in connection.verdicts:
                if not isinstance(verdict, Refused):
                    self.outcomes[task.index] = verdict
                    latency_s, count = latency_s + verdict.latency_s, count + 1
                    quickest_s = min(quickest_s, verdict.latency_s)
                elif task.sending < MAX_SENDINGS:
                    line.waiting.append(_Task(task.index, task.path, task.sending + 1))
                else:
                    self.fail(task, verdict.detail)
            connection.verdicts.clear()
        if count:
            queue_s = SHORT_QUEUE_S if self.is_yielding else QUEUE_S
            line.allowance.learn(quickest_s, latency_s / count, now, queue_s=queue_s)
        line.tidy()


class Transport:
    """Sends requests over connections that it keeps. One per thread (``thread_transport``); not thread-safe."""

    def __init__(self, *, limits: Limits | None = None, ca_file: str) -> None:
        self._limits = limits or Limits()
        self._ca_file = ca_file
        self._lines: dict[str, _Line] = {}
        self._http1 = CurlTransport(limits=self._limits, ca_file=ca_file)

    def send_all(self, requests: Sequence[ProviderRequest]) -> list[Outcome]:
        """Send ``requests`` at once, each at most once as far as any server may have read it, and return their outcomes
        in the same order. Takes ``limits.call_s + limits.connect_s + limits.total_s`` seconds at most; never raises
        for what a network or a server does, nor once something may have left."""
        call = _Call(requests, self._limits)
        lines = self._assign(call)
        try:
            for line in lines:
                line.refresh(time.monotonic())
            while True:
                for line in lines:
                    call.fill(line)
                busy = [line for line in lines if line.in_flight or (line.waiting and not line.is_http1)]
                if not busy:
                    break
                self._advance(call, busy)
        except Exception:
            # A bug of ours, or the system's. What has left must be known all the same: it would be sent again.
            log.exception("transport_failed", requests=len(requests))
            call.give_up(lines)
        finally:
            self._leave(lines)
        self._send_http1(call, lines)
        return [outcome for outcome in call.outcomes if outcome is not None]

    def close(self) -> None:
        """Close every connection. A call under way in this transport must have ended."""
        for line in self._lines.values():
            for connection in line.connections:
                connection.close()
        self._lines.clear()
        self._http1.close()

    def __del__(self) -> None:
        self.close()  # its thread has ended

    def _assign(self, call: _Call) -> list[_Line]:
        """Have each request wait at the line of its origin."""
        lines: dict[str, _Line] = {}
        url, path = "", ""
        line: _Line | None = None
        for index, request in enumerate(call.requests):
            if request.url != url or line is None:  # most calls have one URL
                url = request.url
                origin, path = _split(url)
                try:
                    line = lines[origin] = self._line(origin)
                except ValueError as error:
                    line = None
                    call.fail(_Task(index, path), str(error))
                    continue
            line.waiting.append(_Task(index, path))
        return list(lines.values())

    def _line(self, origin: str) -> _Line:
        line = self._lines.get(origin)
        if line is None:
            if not origin.startswith("https://"):
                raise ValueError("not an https URL")
            try:
                line = self._lines[origin] = _Line(origin, self._limits, self._ca_file)
            except ValueError:
                raise ValueError("malformed URL") from None
        return line

    def _advance(self, call: _Call, lines: Sequence[_Line]) -> None:
        connections = [connection for line in lines for connection in line.connections]
        pause_s = yielding.pause_s()
        call.is_yielding = pause_s > 0
        _wait(connections, call.deadline, pause_s)
        for connection in connections:
            connection.receive()
        now = time.monotonic()
        for connection in connections:
            connection.expire(now)
            connection.flush()
        for line in lines:
            call.take_verdicts(line, now)

    def _leave(self, lines: Sequence[_Line]) -> None:
        """Requests are under way here only when the call was interrupted: the next must not meet this one's answers."""
        now = time.monotonic()
        for line in lines:
            for connection in line.connections:
                connection.last_used = now
                if connection.in_flight:
                    connection.close()
                    connection.verdicts.clear()
                    line.waiting.clear()
            line.tidy()

    def _send_http1(self, call: _Call, lines: Sequence[_Line]) -> None:
        tasks = [task for line in lines if line.is_http1 for task in line.waiting]
        if not tasks:
            return
        for line in lines:
            line.waiting.clear()
        outcomes = self._http1.send_all([call.requests[task.index] for task in tasks], call.deadline)
        for task, outcome in zip(tasks, outcomes, strict=True):
            call.outcomes[task.index] = outcome


def _wait(connections: Sequence[Connection[_Task]], deadline: float, pause_s: float) -> None:
    """Until there is something to read, to write or to give up; and for ``pause_s`` before it is read."""
    poll = select.poll()
    until, in_flight = deadline, 0
    for connection in connections:
        poll.register(connection, select.POLLIN | select.POLLOUT if connection.has_to_write else select.POLLIN)
        in_flight += connection.in_flight
        until = min(until, connection.deadline() or until)
    is_read = poll.poll(min(500.0, max(1.0, ceil((until - time.monotonic()) * 1000))))
    if is_read and in_flight >= CROWD:
        pause_s = max(pause_s, GATHER_S)
    if is_read and pause_s:
        # Not time.sleep: it waits for a moment on a clock, and libfaketime, which skews clocks, answers with an error.
        select.select((), (), (), pause_s)


def _split(url: str) -> tuple[str, str]:
    """Origin and path."""
    end = url.find("/", 8)
    return (url, "/") if end < 0 else (url[:end], url[end:])


_local = threading.local()


def thread_transport(total_s: float | None = None) -> Transport:
    """The calling thread's transport by the ``PROVIDER_*`` settings, made on first use, with ``total_s`` for one
    request in place of theirs."""
    limit_s = settings.PROVIDER_TIMEOUT_S if total_s is None else total_s
    wanted = (settings.PROVIDER_CONNECT_TIMEOUT_S, limit_s, settings.PROVIDER_CA_FILE)
    kept: dict[tuple[float, float, str], Transport] = _local.__dict__.setdefault("transports", {})
    transport = kept.get(wanted)
    if transport is None:
        connect_s, limit_s, ca_file = wanted
        transport = Transport(limits=Limits(connect_s=connect_s, total_s=limit_s), ca_file=ca_bundle(ca_file))
        kept[wanted] = transport
        if len(kept) > TRANSPORTS_PER_THREAD:  # the settings were changed, as tests do
            kept.pop(next(iter(kept))).close()
    return transport

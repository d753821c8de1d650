"""HTTP/1.1 to the servers that speak nothing newer: libcurl's multi interface, TLS verified.

libcurl repeats a request on its own when a reused connection dies before the first byte of an answer
(https://github.com/curl/curl/pull/18417): a second SMS to somebody if the provider had taken the first. Its
pre-request callback runs right before each sending, so the second call for one request stops it. The same callback
tells whether a request left at all, whatever went wrong afterwards.
"""

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import pycurl

from apps.providers.http2_heads import USER_AGENT
from apps.providers.lazy_headers import LazyHeaders
from apps.providers.limits import Limits
from apps.providers.messages import MAX_BODY_BYTES, Outcome, ProviderRequest, ProviderResponse, TransportFailure

IN_FLIGHT = 16  # one connection each
IDLE_CONNECTIONS = 32


class _Headers(LazyHeaders):
    __slots__ = ("_lines",)

    def __init__(self, lines: Sequence[bytes]) -> None:
        super().__init__()
        self._lines = lines

    def _parse(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        for raw in self._lines:
            line = raw.decode("latin-1")
            name, colon, value = line.partition(":")
            if line.startswith("HTTP/"):
                headers.clear()  # an interim (1xx) answer's are not the answer's
            elif colon:
                headers[name.lower()] = value.strip()
        return headers


class _Exchange:
    """An easy handle, kept for the next request, and what it heard."""

    def __init__(self, limits: Limits, ca_file: str) -> None:
        self.index = 0
        self.sendings = 0
        self.size = 0
        self.header_lines: list[bytes] = []
        self.chunks: list[bytes] = []
        self._head: tuple[str, str, tuple[tuple[str, str], ...]] | None = None  # what the handle is set to
        self.easy = easy = pycurl.Curl()
        easy.exchange = self
        easy.setopt(pycurl.NOSIGNAL, 1)  # signals and threads do not mix
        easy.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTPS)
        easy.setopt(pycurl.PROXY, "")  # an http_proxy left in the environment must not see tokens and addresses
        easy.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
        easy.setopt(pycurl.SSL_VERIFYPEER, 1)
        easy.setopt(pycurl.SSL_VERIFYHOST, 2)
        easy.setopt(pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2)
        easy.setopt(pycurl.CAINFO, ca_file)
        easy.setopt(pycurl.CONNECTTIMEOUT_MS, int(limits.connect_s * 1000))
        easy.setopt(pycurl.TIMEOUT_MS, int(limits.total_s * 1000))
        easy.setopt(pycurl.USERAGENT, USER_AGENT)
        easy.setopt(pycurl.HEADERFUNCTION, self.header_lines.append)
        easy.setopt(pycurl.WRITEFUNCTION, self._write)
        easy.setopt(pycurl.PREREQFUNCTION, self._allow_sending)

    def prepare(self, index: int, request: ProviderRequest) -> None:
        """Load ``request``; raises ``ValueError`` or ``pycurl.error`` for one that no server should see."""
        self.index = index
        self.sendings = self.size = 0
        head = request.url, request.method, request.headers
        if head != self._head:  # a batch's requests differ in their bodies only
            self._head = None
            self._set_head(request)
            self._head = head
        self.easy.setopt(pycurl.POSTFIELDS, request.body)

    def _set_head(self, request: ProviderRequest) -> None:
        lines = ["Expect:"]  # no round trip to ask whether a large body is welcome
        for name, value in request.headers:
            if not (value.isprintable() and name.isprintable()) or ":" in name:
                raise ValueError("a header with a control character")
            lines.append(f"{name}: {value}")
        self.easy.setopt(pycurl.URL, request.url)
        self.easy.setopt(pycurl.CUSTOMREQUEST, request.method)
        self.easy.setopt(pycurl.HTTPHEADER, lines)

    def forget(self) -> None:
        """Keep nothing of what was said."""
        self.header_lines.clear()
        self.chunks.clear()

    def _allow_sending(self, *_addresses: object) -> int:
        self.sendings += 1
        verdict: int = pycurl.PREREQFUNC_OK if self.sendings == 1 else pycurl.PREREQFUNC_ABORT
        return verdict

    def _write(self, chunk: bytes) -> int | None:
        self.size += len(chunk)
        if self.size > MAX_BODY_BYTES:
            return 0  # fewer than it brought: libcurl gives up on the transfer
        self.chunks.append(chunk)
        return None

    def response(self) -> ProviderResponse:
        easy = self.easy
        return ProviderResponse(
            easy.getinfo(pycurl.RESPONSE_CODE),
            _Headers(tuple(self.header_lines)),
            b"".join(self.chunks),
            max(0.0, easy.getinfo(pycurl.TOTAL_TIME) - easy.getinfo(pycurl.PRETRANSFER_TIME)),
        )

    def failure(self, code: int) -> Outcome:
        easy = self.easy
        if self.size > MAX_BODY_BYTES and easy.getinfo(pycurl.RESPONSE_CODE) >= 400:
            return self.response()  # an error page, cut: its status is what matters
        return TransportFailure(
            has_left=self.sendings > 0,
            detail=f"curl {code}: {_REASONS.get(code, 'failed')}",
            latency_s=easy.getinfo(pycurl.TOTAL_TIME),
        )


# libcurl's own texts may hold addresses and parts of the traffic; these end up in logs.
_REASONS = {
    pycurl.E_COULDNT_RESOLVE_HOST: "host name not found",
    pycurl.E_COULDNT_CONNECT: "connection refused or unreachable",
    pycurl.E_OPERATION_TIMEDOUT: "timed out",
    pycurl.E_PEER_FAILED_VERIFICATION: "certificate not trusted",
    pycurl.E_SSL_CONNECT_ERROR: "TLS handshake failed",
    pycurl.E_GOT_NOTHING: "connection closed without an answer",
    pycurl.E_SEND_ERROR: "connection lost while sending",
    pycurl.E_RECV_ERROR: "connection lost while waiting",
    pycurl.E_ABORTED_BY_CALLBACK: "connection lost while waiting",
    pycurl.E_PARTIAL_FILE: "answer cut short",
    pycurl.E_WRITE_ERROR: "answer too large",
    pycurl.E_UNSUPPORTED_PROTOCOL: "not an https URL",
    pycurl.E_URL_MALFORMAT: "malformed URL",
}


class CurlTransport:
    """Sends requests over connections that it keeps. Not thread-safe."""

    def __init__(self, *, limits: Limits, ca_file: str) -> None:
        self._limits = limits
        self._ca_file = ca_file
        self._idle: list[_Exchange] = []
        self._multi: Any = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAX_HOST_CONNECTIONS, IN_FLIGHT)
        self._multi.setopt(pycurl.M_MAXCONNECTS, IDLE_CONNECTIONS)

    def send_all(self, requests: Sequence[ProviderRequest], deadline: float) -> list[Outcome]:
        """As ``Transport.send_all``; no request is started after ``deadline`` (``time.monotonic``)."""
        outcomes: list[Outcome | None] = [None] * len(requests)
        waiting = deque(range(len(requests)))
        in_flight: set[_Exchange] = set()
        try:
            while waiting or in_flight:
                self._fill(requests, waiting, in_flight, outcomes, deadline)
                if in_flight:
                    self._advance()
                for exchange, outcome in self._finished():
                    in_flight.remove(exchange)
                    outcomes[exchange.index] = outcome
                    self._release(exchange)
        finally:
            for exchange in in_flight:  # only when interrupted: the next call must not meet this one's answers
                self._release(exchange)
        return [outcome for outcome in outcomes if outcome is not None]

    def close(self) -> None:
        """Close every connection. A call under way in this transport must have ended."""
        for exchange in self._idle:
            exchange.easy.close()
        self._idle.clear()
        self._multi.close()

    def _fill(
        self,
        requests: Sequence[ProviderRequest],
        waiting: deque[int],
        in_flight: set[_Exchange],
        outcomes: list[Outcome | None],
        deadline: float,
    ) -> None:
        """Start requests while there is room. A request's time runs from here, not from the call of ``send_all``."""
        is_late = bool(waiting) and time.monotonic() > deadline
        while waiting and (is_late or len(in_flight) < IN_FLIGHT):
            index = waiting.popleft()
            if is_late:
                outcomes[index] = TransportFailure(has_left=False, detail="not started in time", was_started=False)
                continue
            exchange = self._acquire()
            try:
                exchange.prepare(index, requests[index])
            except (ValueError, pycurl.error):
                self._idle.append(exchange)
                outcomes[index] = TransportFailure(has_left=False, detail="malformed request")
            else:
                self._multi.add_handle(exchange.easy)
                in_flight.add(exchange)

    def _advance(self) -> None:
        self._multi.perform()
        wait_ms = self._multi.timeout()
        if wait_ms != 0 and self._multi.select(0.1 if wait_ms < 0 else min(wait_ms / 1000, 0.1)) == -1:
            time.sleep(0.001)  # no socket to wait on yet: a name is being looked up

    def _finished(self) -> list[tuple[_Exchange, Outcome]]:
        found: list[tuple[_Exchange, Outcome]] = []
        queued = 1
        while queued:
            queued, succeeded, failed = self._multi.info_read()
            found.extend((easy.exchange, easy.exchange.response()) for easy in succeeded)
            found.extend((easy.exchange, easy.exchange.failure(code)) for easy, code, _text in failed)
        return found

    def _acquire(self) -> _Exchange:
        return self._idle.pop() if self._idle else _Exchange(self._limits, self._ca_file)

    def _release(self, exchange: _Exchange) -> None:
        self._multi.remove_handle(exchange.easy)
        exchange.forget()
        self._idle.append(exchange)

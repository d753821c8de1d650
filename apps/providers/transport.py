"""The one way to the providers' data plane: libcurl's multi interface, HTTP/2 multiplexed, TLS verified.

libcurl repeats a request on its own when a reused connection dies before the first byte of an answer
(https://github.com/curl/curl/pull/18417): a second SMS to somebody if the provider had taken the first. Its
pre-request callback runs right before each sending, so the second call for one request stops it. The same callback
tells whether a request left at all, whatever went wrong afterwards.
"""

import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pycurl
from django.conf import settings

from apps.providers.authorities import ca_bundle
from apps.providers.messages import ProviderRequest, ProviderResponse, TransportFailure

MAX_BODY_BYTES = 65_536
H2_IN_FLIGHT = 200
H1_IN_FLIGHT = 16  # one connection each; also the first batch to a server not met before
STREAMS_PER_CONNECTION = 100  # what most servers announce; a server's own lower limit wins
IDLE_CONNECTIONS = 32
MAX_SENDINGS = 3
# Of many answers, all that arrive within this time are taken in one go: libcurl looks at every transfer each time.
GATHER_S = 0.005
CROWD = 32  # requests in flight
TRANSPORTS_PER_THREAD = 6  # one for each time-out in use
USER_AGENT = "notify"
Outcome = ProviderResponse | TransportFailure


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: to connect, for one request in all, and after which a call of ``send_all`` starts no more requests."""

    connect_s: float = 1.0
    total_s: float = 2.0
    call_s: float = 8.0


class _Headers(Mapping[str, str]):
    """An answer's headers, read when somebody asks: of most answers the status and the body say it all."""

    __slots__ = ("_lines", "_parsed")

    def __init__(self, lines: Sequence[bytes]) -> None:
        self._lines = lines
        self._parsed: dict[str, str] | None = None

    def _read(self) -> dict[str, str]:
        if self._parsed is None:
            headers: dict[str, str] = {}
            for raw in self._lines:
                line = raw.decode("latin-1")
                name, colon, value = line.partition(":")
                if line.startswith("HTTP/"):
                    headers.clear()  # an interim (1xx) answer's are not the answer's
                elif colon:
                    headers[name.lower()] = value.strip()
            self._parsed = headers
        return self._parsed

    def __getitem__(self, name: str) -> str:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __repr__(self) -> str:
        return repr(self._read())


class _Exchange:
    """An easy handle, kept for the next request, and what it heard."""

    def __init__(self, limits: Limits, ca_file: str, on_sending: Callable[["_Exchange"], None]) -> None:
        self.index = 0
        self.request: ProviderRequest | None = None
        self.sendings = 0
        self.size = 0
        self.header_lines: list[bytes] = []
        self.chunks: list[bytes] = []
        self.trace: list[bytes] = []
        self._on_sending = on_sending
        self._head: tuple[str, str, tuple[tuple[str, str], ...]] | None = None  # what the handle is set to
        self.easy = easy = pycurl.Curl()
        easy.exchange = self
        easy.setopt(pycurl.NOSIGNAL, 1)  # signals and threads do not mix
        easy.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTPS)
        easy.setopt(pycurl.PROXY, "")  # an http_proxy left in the environment must not see tokens and addresses
        easy.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2TLS)
        easy.setopt(pycurl.PIPEWAIT, 1)  # rather a stream of a connection under way than a connection more
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
        easy.setopt(pycurl.DEBUGFUNCTION, self.trace.insert)  # (kind, text): cheap, as nothing but the texts is wanted

    def prepare(self, index: int, request: ProviderRequest) -> None:
        """Load ``request``; raises ``ValueError`` or ``pycurl.error`` for one that no server should see."""
        self.index, self.request = index, request
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

    def watch(self) -> None:
        """Have libcurl say why, should it want to send again. Off until the request is out: it costs time."""
        self.easy.setopt(pycurl.VERBOSE, 1)

    def forget(self) -> None:
        """Back to silence, without a trace of what was said."""
        self.easy.setopt(pycurl.VERBOSE, 0)
        self.request = None
        self.header_lines.clear()
        self.chunks.clear()
        self.trace.clear()

    def is_refused(self) -> bool:
        """Whether the server promised that it processed nothing: REFUSED_STREAM, or a GOAWAY that leaves the stream out
        (RFC 9113, 6.8 and 8.7). libcurl answers both with one sending more, like a connection that died, and tells the
        difference by this remark only. Where it was not heard (a refusal faster than ``watch``) the outcome counts as
        unknown, which errs on the safe side."""
        return self.sendings > 1 and any(
            text.startswith(b"HTTP/2 stream") and b"refused" in text for text in self.trace
        )

    def _allow_sending(self, *_addresses: object) -> int:
        self.sendings += 1
        self._on_sending(self)
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
        detail = "refused by the server" if self.is_refused() else f"curl {code}: {_REASONS.get(code, 'failed')}"
        return TransportFailure(
            has_left=self.sendings > 0 and not self.is_refused(),
            detail=detail,
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
    pycurl.E_HTTP2: "HTTP/2 connection lost",
    pycurl.E_PARTIAL_FILE: "answer cut short",
    pycurl.E_WRITE_ERROR: "answer too large",
    pycurl.E_UNSUPPORTED_PROTOCOL: "not an https URL",
    pycurl.E_URL_MALFORMAT: "malformed URL",
    92: "HTTP/2 stream reset",
}


class Transport:
    """Sends requests over connections that it keeps. One per thread (``thread_transport``); not thread-safe."""

    def __init__(self, *, limits: Limits | None = None, ca_file: str) -> None:
        self._limits = limits or Limits()
        self._ca_file = ca_file
        self._idle: list[_Exchange] = []
        self._just_sent: list[_Exchange] = []
        self._versions: dict[str, int] = {}
        self._multi: Any = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_MULTIPLEX)
        self._multi.setopt(pycurl.M_MAX_CONCURRENT_STREAMS, STREAMS_PER_CONNECTION)
        self._multi.setopt(pycurl.M_MAX_HOST_CONNECTIONS, H1_IN_FLIGHT)
        self._multi.setopt(pycurl.M_MAXCONNECTS, IDLE_CONNECTIONS)

    def send_all(self, requests: Sequence[ProviderRequest]) -> list[Outcome]:
        """Send ``requests`` at once, each at most once as far as any server may have read it, and return their outcomes
        in the same order. Takes ``limits.call_s + limits.total_s`` seconds at most; never raises for what a
        network or a server does."""
        outcomes: list[Outcome | None] = [None] * len(requests)
        deadline = time.monotonic() + self._limits.call_s
        waiting = deque((index, 1) for index in range(len(requests)))
        in_flight: dict[_Exchange, int] = {}
        try:
            while waiting or in_flight:
                self._fill(requests, waiting, in_flight, outcomes, deadline)
                if in_flight:
                    self._advance(is_crowded=len(in_flight) >= CROWD)
                for exchange, outcome in self._finished():
                    sending = in_flight.pop(exchange)
                    if isinstance(outcome, TransportFailure) and exchange.is_refused() and sending < MAX_SENDINGS:
                        waiting.append((exchange.index, sending + 1))
                    else:
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
        waiting: "deque[tuple[int, int]]",
        in_flight: dict[_Exchange, int],
        outcomes: list[Outcome | None],
        deadline: float,
    ) -> None:
        """Start requests while there is room. A request's time runs from here, not from the call of ``send_all``."""
        is_late = bool(waiting) and time.monotonic() > deadline
        url, room = "", 0
        while waiting:
            index, sending = waiting[0]
            request = requests[index]
            if request.url is not url:
                url, room = request.url, self._room(request.url)
            if is_late:
                outcomes[index] = TransportFailure(has_left=False, detail="not started in time", was_started=False)
            elif len(in_flight) >= room:
                return
            else:
                exchange = self._acquire()
                try:
                    exchange.prepare(index, request)
                except (ValueError, pycurl.error):
                    self._idle.append(exchange)
                    outcomes[index] = TransportFailure(has_left=False, detail="malformed request")
                else:
                    self._multi.add_handle(exchange.easy)
                    in_flight[exchange] = sending
            waiting.popleft()

    def _room(self, url: str) -> int:
        return H2_IN_FLIGHT if self._versions.get(_origin(url)) == 2 else H1_IN_FLIGHT

    def _advance(self, *, is_crowded: bool) -> None:
        self._multi.perform()
        for exchange in self._just_sent:
            exchange.watch()
        self._just_sent.clear()
        wait_ms = self._multi.timeout()
        if wait_ms != 0 and self._multi.select(0.1 if wait_ms < 0 else min(wait_ms / 1000, 0.1)) == -1:
            time.sleep(0.001)  # no socket to wait on yet: a name is being looked up
        elif is_crowded:
            select.select((), (), (), GATHER_S)

    def _finished(self) -> list[tuple[_Exchange, Outcome]]:
        found: list[tuple[_Exchange, Outcome]] = []
        noted = ""
        queued = 1
        while queued:
            queued, succeeded, failed = self._multi.info_read()
            for easy in succeeded:
                exchange = easy.exchange
                if exchange.request.url is not noted:  # most batches have one URL
                    noted = exchange.request.url
                    self._note_version(exchange)
                found.append((exchange, exchange.response()))
            found.extend((easy.exchange, easy.exchange.failure(code)) for easy, code, _text in failed)
        return found

    def _note_version(self, exchange: _Exchange) -> None:
        assert exchange.request is not None
        version = 2 if exchange.easy.getinfo(pycurl.INFO_HTTP_VERSION) >= pycurl.CURL_HTTP_VERSION_2_0 else 1
        self._versions[_origin(exchange.request.url)] = version

    def _acquire(self) -> _Exchange:
        return self._idle.pop() if self._idle else _Exchange(self._limits, self._ca_file, self._just_sent.append)

    def _release(self, exchange: _Exchange) -> None:
        self._multi.remove_handle(exchange.easy)
        exchange.forget()
        self._idle.append(exchange)


def _origin(url: str) -> str:
    end = url.find("/", 8)
    return url if end < 0 else url[:end]


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

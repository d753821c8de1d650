"""The way to mail servers: ``smtplib`` over connections that are kept, behind the same call as the HTTP transport.

An e-mail is the server's from the moment it has read the line with the lone dot (RFC 5321, 4.1.1.4). A connection lost
before that line is sent lost nothing with it; one lost afterwards leaves an unknown outcome.
"""

import atexit
import re
import smtplib
import socket
import ssl
import threading
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlsplit

from django.conf import settings

from apps.providers.authorities import ca_bundle
from apps.providers.limits import Limits
from apps.providers.messages import Outcome, ProviderRequest, ProviderResponse, TransportFailure

CONNECTIONS = 8  # for one batch
MESSAGES_PER_CONNECTION = 10  # below which another connection is not worth its handshake
IDLE_CONNECTIONS = 16  # a server, kept by the process
IDLE_S = 30.0  # servers wait for minutes (RFC 5321, 4.5.3.2), but many wait less
MAX_REPLY_BYTES = 4_096
_LINE_ENDS = re.compile(rb"\r\n|\r|\n")
_DOTS = re.compile(rb"(?m)^\.")


class _LostError(Exception):
    """The conversation broke off. ``has_left``: the server may have the e-mail."""

    def __init__(self, *, has_left: bool, detail: str) -> None:
        super().__init__(detail)
        self.has_left = has_left
        self.detail = detail


class _RefusedError(Exception):
    """The server said no. ``is_final``: it hangs up, too."""

    def __init__(self, stage: str, code: int, text: bytes) -> None:
        super().__init__(stage)
        self.stage, self.code, self.text = stage, code, text

    @property
    def is_final(self) -> bool:
        return self.code == 421 or self.code < 0  # RFC 5321, 3.8


@dataclass(frozen=True, slots=True)
class _Way:
    """A server and the way in: requests with the same one share connections."""

    url: str
    starttls: str
    ehlo: str
    user: str
    password: str


class _Client(smtplib.SMTP):
    """smtplib's client with one time-out to connect and another for the greeting."""

    def __init__(self, way: _Way, tls: ssl.SSLContext, *, connect_s: float, greeting_s: float) -> None:
        parts = urlsplit(way.url)
        self._connect_s = connect_s
        self._tls = tls if parts.scheme == "smtps" else None
        super().__init__(parts.hostname or "", parts.port or 25, local_hostname=way.ehlo, timeout=greeting_s)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        connected = socket.create_connection((host, port), self._connect_s)
        if self._tls is not None:
            connected = self._tls.wrap_socket(connected, server_hostname=host)
        connected.settimeout(timeout)
        return connected


class _Connection:
    """A conversation with one server, past its greeting and our credentials. Not thread-safe."""

    def __init__(self, way: _Way, tls: ssl.SSLContext, *, connect_s: float, deadline: float) -> None:
        """Open it before ``deadline`` (monotonic). Raises ``_RefusedError`` or ``_LostError``."""
        self._deadline = deadline
        self.idle_since = 0.0
        try:
            left_s = max(0.001, deadline - time.monotonic())
            self._smtp = _Client(way, tls, connect_s=min(connect_s, left_s), greeting_s=left_s)
        except smtplib.SMTPConnectError as error:
            raise _RefusedError("connect", error.smtp_code, _as_bytes(error.smtp_error)) from None
        except (OSError, smtplib.SMTPException, ValueError) as error:
            raise _LostError(has_left=False, detail=_explain(error, "connection refused or unreachable")) from None
        try:
            self._limit_time()
            self._expect("ehlo", *self._smtp.ehlo())
            if way.starttls == "required":
                self._start_tls(tls)
            if way.user:
                self._log_in(way)
        except (_RefusedError, _LostError):
            self.close()
            raise
        except (OSError, smtplib.SMTPException, ValueError) as error:
            self.close()
            raise _LostError(has_left=False, detail=_explain(error, "connection lost while opening")) from None

    def _start_tls(self, tls: ssl.SSLContext) -> None:
        if not self._smtp.has_extn("starttls"):
            raise _LostError(has_left=False, detail="the server offers no STARTTLS")
        self._limit_time()
        self._expect("starttls", *self._smtp.starttls(context=tls))
        self._limit_time()
        self._expect("ehlo", *self._smtp.ehlo())

    def _log_in(self, way: _Way) -> None:
        self._limit_time()
        try:
            self._smtp.login(way.user, way.password)
        except smtplib.SMTPAuthenticationError as error:
            raise _RefusedError("auth", error.smtp_code, _as_bytes(error.smtp_error)) from None
        except smtplib.SMTPNotSupportedError:
            raise _LostError(has_left=False, detail="the server takes no credentials") from None

    def send(self, headers: Mapping[str, str], body: bytes, *, deadline: float) -> ProviderResponse:
        """The server's yes to one e-mail before ``deadline``. Raises ``_RefusedError`` or ``_LostError``."""
        started = time.monotonic()
        self._deadline = deadline
        self._command("mail", f"MAIL FROM:<{headers['mail-from']}>")
        self._command("rcpt", f"RCPT TO:<{headers['rcpt-to']}>")
        self._command("data", "DATA", wanted=3)
        content = _DOTS.sub(b"..", _LINE_ENDS.sub(b"\r\n", body))  # RFC 5321, 4.5.2
        self._write(content if content.endswith(b"\r\n") else content + b"\r\n", has_left=False)
        self._write(b".\r\n", has_left=True)
        code, text = self._read(has_left=True)
        self._expect("data", code, text)
        return _response("data", code, text, time.monotonic() - started)

    def start_over(self) -> bool:
        """Whether the conversation can go on after a refusal."""
        try:
            self._command("mail", "RSET")
        except (_RefusedError, _LostError):
            return False
        return True

    def close(self) -> None:
        self._smtp.close()

    def _command(self, stage: str, line: str, *, wanted: int = 2) -> None:
        self._write(f"{line}\r\n".encode("ascii"), has_left=False)
        self._expect(stage, *self._read(has_left=False), wanted=wanted)

    def _write(self, data: bytes, *, has_left: bool) -> None:
        try:
            self._limit_time()
            self._smtp.send(data)
        except (OSError, smtplib.SMTPException) as error:
            raise _LostError(has_left=has_left, detail=_explain(error, "connection lost while sending")) from None

    def _read(self, *, has_left: bool) -> tuple[int, bytes]:
        try:
            self._limit_time()
            return self._smtp.getreply()
        except (OSError, smtplib.SMTPException) as error:
            raise _LostError(has_left=has_left, detail=_explain(error, "connection lost while waiting")) from None

    def _limit_time(self) -> None:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        if self._smtp.sock is not None:
            self._smtp.sock.settimeout(left_s)

    def _expect(self, stage: str, code: int, text: bytes, *, wanted: int = 2) -> None:
        if code // 100 != wanted:
            raise _RefusedError(stage, code, text)


class SmtpTransport:
    """Sends requests over connections that it keeps. Thread-safe: every conversation has a connection of its own."""

    def __init__(self, *, limits: Limits, ca_file: str) -> None:
        self._limits = limits
        self._tls = ssl.create_default_context(cafile=ca_file)
        self._idle: dict[_Way, deque[_Connection]] = defaultdict(deque)
        self._lock = threading.Lock()

    def send_all(self, requests: Sequence[ProviderRequest]) -> list[Outcome]:
        """Send ``requests``, over several connections if there are many, and return their outcomes in the same order.
        Takes ``limits.call_s + limits.connect_s + limits.total_s`` seconds at most; never raises for what a network or
        a server does."""
        deadline = time.monotonic() + self._limits.call_s
        outcomes: dict[int, Outcome] = {}
        shares = _share_out(requests)
        if len(shares) == 1:
            way, positions = shares[0]
            outcomes.update(self._send_share(way, requests, positions, deadline))
        elif shares:
            with ThreadPoolExecutor(len(shares), thread_name_prefix="smtp") as pool:
                futures = [pool.submit(self._send_share, way, requests, share, deadline) for way, share in shares]
                for future in futures:
                    outcomes.update(future.result())
        return [outcomes[position] for position in range(len(requests))]

    def _send_share(
        self, way: _Way, requests: Sequence[ProviderRequest], positions: Sequence[int], deadline: float
    ) -> dict[int, Outcome]:
        """One conversation for several requests. A server that cannot be reached is not tried again for each."""
        outcomes: dict[int, Outcome] = {}
        connection: _Connection | None = None
        unreachable: Outcome | None = None
        for position in positions:
            if unreachable is not None:
                outcomes[position] = unreachable
            elif time.monotonic() > deadline:
                outcomes[position] = TransportFailure(has_left=False, detail="not started in time", was_started=False)
            elif not _is_well_formed(requests[position]):
                outcomes[position] = TransportFailure(has_left=False, detail="malformed request")
            else:
                connection, outcome, is_unreachable = self._send_one(way, requests[position], connection)
                outcomes[position] = outcome
                unreachable = outcome if is_unreachable else None
        if connection is not None:
            self._keep(way, connection)
        return outcomes

    def _send_one(
        self, way: _Way, request: ProviderRequest, connection: _Connection | None
    ) -> tuple[_Connection | None, Outcome, bool]:
        """The connection to go on with (``None``: make another), the outcome, and whether the server was out of
        reach."""
        headers = dict(request.headers)
        is_fresh = False
        deadline = time.monotonic() + self._limits.connect_s + self._limits.total_s
        while True:
            started = time.monotonic()
            try:
                if connection is None:
                    connection = self._take_idle(way)
                if connection is None:
                    is_fresh = True
                    connection = _Connection(way, self._tls, connect_s=self._limits.connect_s, deadline=deadline)
            except _RefusedError as refusal:
                return None, _response(refusal.stage, refusal.code, refusal.text, time.monotonic() - started), True
            except _LostError as lost:
                return None, TransportFailure(lost.has_left, lost.detail, time.monotonic() - started), True
            try:
                return connection, connection.send(headers, request.body, deadline=deadline), False
            except _RefusedError as refusal:
                outcome = _response(refusal.stage, refusal.code, refusal.text, time.monotonic() - started)
                if not refusal.is_final and connection.start_over():
                    return connection, outcome, False
                connection.close()
                if not refusal.is_final or is_fresh or refusal.stage == "data":
                    return None, outcome, False
            except _LostError as lost:
                connection.close()
                if lost.has_left or is_fresh:
                    return None, TransportFailure(lost.has_left, lost.detail, time.monotonic() - started), False
            connection = None  # a kept connection that the server had given up on: nothing was sent, so once more

    def _take_idle(self, way: _Way) -> _Connection | None:
        with self._lock:
            idle = self._idle[way]
            while idle:
                connection = idle.pop()
                if time.monotonic() - connection.idle_since < IDLE_S:
                    return connection
                connection.close()
        return None

    def _keep(self, way: _Way, connection: _Connection) -> None:
        connection.idle_since = time.monotonic()
        with self._lock:
            idle = self._idle[way]
            idle.append(connection)
            oldest = idle.popleft() if len(idle) > IDLE_CONNECTIONS else None
        if oldest is not None:
            oldest.close()

    def close(self) -> None:
        """Close the connections that are kept."""
        with self._lock:
            kept = [connection for idle in self._idle.values() for connection in idle]
            self._idle.clear()
        for connection in kept:
            connection.close()


def _share_out(requests: Sequence[ProviderRequest]) -> list[tuple[_Way, list[int]]]:
    """Positions of ``requests`` by the connection that is to carry them."""
    by_way: dict[_Way, list[int]] = defaultdict(list)
    for position, request in enumerate(requests):
        headers = dict(request.headers)
        names = ("starttls", "ehlo", "user", "password")
        by_way[_Way(request.url, *(headers.get(name, "") for name in names))].append(position)
    shares = []
    for way, positions in by_way.items():
        count = min(CONNECTIONS, -(-len(positions) // MESSAGES_PER_CONNECTION))
        shares += [(way, positions[start::count]) for start in range(count)]
    return shares


def _is_well_formed(request: ProviderRequest) -> bool:
    """Whether the envelope can be said in one line each: no second command hides in an address."""
    headers = dict(request.headers)
    return all(
        (value := headers.get(name, "")) and value.isascii() and value.isprintable() and not set(value) & set(" <>")
        for name in ("mail-from", "rcpt-to")
    )


def _response(stage: str, code: int, text: bytes, latency_s: float) -> ProviderResponse:
    return ProviderResponse(
        status=max(code, 0), headers={"smtp-stage": stage}, body=text[:MAX_REPLY_BYTES], latency_s=latency_s
    )


def _as_bytes(text: bytes | str) -> bytes:
    return text if isinstance(text, bytes) else text.encode(errors="replace")


def _explain(error: Exception, otherwise: str) -> str:
    """A reason without the server's words, which may hold addresses. smtplib hides a time-out behind its own error."""
    if isinstance(error, TimeoutError) or isinstance(error.__context__, TimeoutError):
        return "timed out"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "certificate not trusted"
    if isinstance(error, ssl.SSLError):
        return "TLS handshake failed"
    return otherwise


_transports: dict[tuple[float, float, str], SmtpTransport] = {}
_guard = threading.Lock()


def smtp_transport(total_s: float | None = None) -> SmtpTransport:
    """This process's transport, by the ``PROVIDER_*`` settings, with ``total_s`` for one e-mail in place of theirs."""
    limit_s = settings.PROVIDER_TIMEOUT_S if total_s is None else total_s
    wanted = (settings.PROVIDER_CONNECT_TIMEOUT_S, limit_s, settings.PROVIDER_CA_FILE)
    transport = _transports.get(wanted)
    if transport is None:
        limits = Limits(connect_s=settings.PROVIDER_CONNECT_TIMEOUT_S, total_s=limit_s)
        with _guard:
            transport = _transports.setdefault(wanted, SmtpTransport(limits=limits, ca_file=ca_bundle(wanted[2])))
    return transport


def close_transports() -> None:
    """Close every connection that this process keeps."""
    with _guard:
        for transport in _transports.values():
            transport.close()
        _transports.clear()


atexit.register(close_transports)

"""A TLS server with just enough HTTP/1.1 and HTTP/2 (RFC 9113) to be told, request by request, how to misbehave."""

import contextlib
import datetime as dt
import ipaddress
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
LATENCY_S = 0.02  # no network refuses a stream in the same instant
REFUSED_STREAM, INTERNAL_ERROR = 7, 2


@dataclass(frozen=True)
class Reply:
    """Answer properly."""

    status: int = 200
    body: bytes = b"{}"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Hang:
    """Read the request and never answer."""


@dataclass(frozen=True)
class Close:
    """End the connection in good order (TLS close_notify, FIN)."""


@dataclass(frozen=True)
class Cut:
    """End the connection as a crash does: FIN without TLS close_notify."""


@dataclass(frozen=True)
class Reset:
    """End the connection with a TCP RST."""


@dataclass(frozen=True)
class RefuseStream:
    """RST_STREAM with REFUSED_STREAM, which promises that nothing was processed (RFC 9113, 8.7)."""

    code: int = REFUSED_STREAM


@dataclass(frozen=True)
class GoAway:
    """GOAWAY that leaves this stream and all later ones unprocessed (RFC 9113, 6.8)."""


@dataclass(frozen=True)
class Truncate:
    """Headers that announce a body which is never finished, then the connection ends."""


@dataclass(frozen=True)
class Gather:
    """Answer only once ``count`` requests wait at the same time."""

    count: int


Action = Reply | Hang | Close | Cut | Reset | RefuseStream | GoAway | Truncate | Gather


@dataclass
class Connection:
    """Kept from when it was accepted; what it speaks is known once TLS stands."""

    is_h2: bool = False
    bodies: list[bytes] = field(default_factory=list)


def issue_certificate(folder: Path, name: str = "authority") -> tuple[Path, Path]:
    """A self-signed authority good for 127.0.0.1 and localhost: (certificate, key) as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=2))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


class WireServer:
    """Serves until ``stop``. ``decide`` gets each request's body and says what to do with it."""

    def __init__(
        self, certificate: Path, key: Path, decide: Callable[[bytes], Action], *, offers_h2: bool = True
    ) -> None:
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(certificate, key)
        self._tls.set_alpn_protocols(["h2", "http/1.1"] if offers_h2 else ["http/1.1"])
        self._decide = decide
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._is_stopping = False
        self.connections: list[Connection] = []
        self.origin = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = f"{self.origin}/send"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def bodies(self) -> list[bytes]:
        """Every request read so far, whatever became of it."""
        return [body for connection in self.connections for body in connection.bodies]

    def stop(self) -> None:
        self._is_stopping = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(timeout=5)

    def _accept(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            raw.settimeout(10)
            self._sockets.append(raw)
            self.connections.append(Connection())
            thread = threading.Thread(target=self._serve, args=(raw, self.connections[-1]), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, raw: socket.socket, connection: Connection) -> None:
        # OSError: the client went away or the test is over; either way this connection is done.
        with (
            contextlib.suppress(OSError, EOFError),
            raw,
            self._tls.wrap_socket(raw, server_side=True, do_handshake_on_connect=False) as tls,
        ):
            self._sockets.append(tls)
            if self._is_stopping:
                return
            tls.do_handshake()
            connection.is_h2 = tls.selected_alpn_protocol() == "h2"
            stream = _Http2(tls, self._decide) if connection.is_h2 else _Http1(tls, self._decide)
            stream.serve(connection)


class _ClosedError(EOFError):
    pass


def _end(tls: ssl.SSLSocket, action: Close | Cut | Reset) -> None:
    if isinstance(action, Reset):
        tls.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif isinstance(action, Close):
        with contextlib.suppress(OSError):
            tls.settimeout(0.2)
            tls.unwrap()
    raise _ClosedError


def _read_exactly(source: ssl.SSLSocket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = source.recv(count - len(parts))
        if not part:
            raise _ClosedError
        parts += part
    return bytes(parts)


class _Http1:
    def __init__(self, tls: ssl.SSLSocket, decide: Callable[[bytes], Action]) -> None:
        self._tls, self._decide = tls, decide

    def serve(self, connection: Connection) -> None:
        reader = self._tls.makefile("rb")
        while True:
            length = 0
            if not reader.readline():
                return
            while (line := reader.readline().strip()) != b"":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            body = reader.read(length)
            connection.bodies.append(body)
            action = self._decide(body)
            if isinstance(action, Reply):
                head = f"HTTP/1.1 {action.status} X\r\ncontent-length: {len(action.body)}\r\n"
                head += "".join(f"{name}: {value}\r\n" for name, value in action.headers)
                self._tls.sendall(head.encode() + b"\r\n" + action.body)
            elif isinstance(action, Truncate):
                self._tls.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
                _end(self._tls, Close())
            elif isinstance(action, Close | Cut | Reset):
                _end(self._tls, action)


class _Http2:
    def __init__(self, tls: ssl.SSLSocket, decide: Callable[[bytes], Action]) -> None:
        self._tls, self._decide = tls, decide
        self._waiting: list[int] = []
        self._last_good = 0

    def _send(self, kind: int, flags: int, stream: int, payload: bytes = b"") -> None:
        self._tls.sendall(
            struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload
        )

    def _frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        while True:
            head = _read_exactly(self._tls, 9)
            payload = _read_exactly(self._tls, int.from_bytes(head[:3], "big"))
            yield head[3], head[4], int.from_bytes(head[5:9], "big") & 0x7FFFFFFF, payload

    def serve(self, connection: Connection) -> None:
        _read_exactly(self._tls, 24)  # the client's preface
        self._send(SETTINGS, 0, 0, struct.pack(">HI", 3, 1000))
        bodies: dict[int, bytearray] = {}
        for kind, flags, stream, payload in self._frames():
            if kind == SETTINGS and not flags & ACK:
                self._send(SETTINGS, ACK, 0)
            elif kind == PING and not flags & ACK:
                self._send(PING, ACK, 0, payload)
            elif kind == HEADERS:
                bodies[stream] = bytearray()
            elif kind == DATA:
                bodies[stream] += payload
                if payload:
                    self._send(WINDOW_UPDATE, 0, 0, struct.pack(">I", len(payload)))
            if kind in (HEADERS, DATA) and flags & END_STREAM:
                body = bytes(bodies.pop(stream))
                connection.bodies.append(body)
                self._act(stream, self._decide(body))

    def _act(self, stream: int, action: Action) -> None:
        if isinstance(action, Reply):
            self._reply(stream, action)
        elif isinstance(action, RefuseStream):
            time.sleep(LATENCY_S)
            self._send(RST_STREAM, 0, stream, struct.pack(">I", action.code))
        elif isinstance(action, GoAway):
            time.sleep(LATENCY_S)
            self._send(GOAWAY, 0, 0, struct.pack(">II", self._last_good, 0))
        elif isinstance(action, Truncate):
            self._send(HEADERS, END_HEADERS, stream, _encode([(":status", "200"), ("content-length", "100")]))
            self._send(DATA, 0, stream, b"{")
            _end(self._tls, Close())
        elif isinstance(action, Close | Cut | Reset):
            _end(self._tls, action)
        elif isinstance(action, Gather):
            self._waiting.append(stream)
            if len(self._waiting) == action.count:
                for waiting in self._waiting:
                    self._reply(waiting, Reply())
                self._waiting.clear()

    def _reply(self, stream: int, reply: Reply) -> None:
        self._last_good = max(self._last_good, stream)
        fields = [(":status", str(reply.status)), *reply.headers]
        self._send(HEADERS, END_HEADERS | (0 if reply.body else END_STREAM), stream, _encode(fields))
        for start in range(0, len(reply.body), 16_384):
            part = reply.body[start : start + 16_384]
            self._send(DATA, END_STREAM if start + 16_384 >= len(reply.body) else 0, stream, part)


def _encode(fields: list[tuple[str, str]]) -> bytes:
    """HPACK (RFC 7541, 6.2.2): literals without indexing and without Huffman; each part under 127 bytes."""
    block = bytearray()
    for name, value in fields:
        block += b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
    return bytes(block)

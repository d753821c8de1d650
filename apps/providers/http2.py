"""The client's side of HTTP/2 (RFC 9113; the numbers in brackets are its sections) over one connection.

Written for batches of small requests that differ in little but their bodies. The peer is told to use no HPACK table, so
that every answer's header block can be read by itself, and it is read only if somebody asks: that of a 200 says so in
its first byte. A request is sent at most once as far as the peer may have read it.
"""

import ssl
import struct
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import hpack

from apps.providers.http2_heads import Heads
from apps.providers.lazy_headers import LazyHeaders
from apps.providers.messages import MAX_BODY_BYTES, ProviderRequest, ProviderResponse, TransportFailure

DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITY = 1, 1, 4, 8, 32
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 1, 2, 3, 4
REFUSED_STREAM, CANCEL = 7, 8
STREAMS = 100  # at once; most servers allow as many
LAST_STREAM = 2**30  # a connection ends before its numbers do (5.1.1)
FRAME_BYTES = 16_384  # the content of a frame that every peer takes (4.2)
WINDOW_BYTES = 65_535  # what may be sent before the peer says more (6.9.2)
MOST_WINDOW_BYTES = 2**31 - 1
OUR_WINDOW_BYTES = 2 * MAX_BODY_BYTES  # of a stream; an answer is cut before it is used up, so it is never renewed
OUR_WINDOW_STEP_BYTES = 2**24  # of the connection; renewed in such steps
MAX_HEADER_BYTES = 65_536
IO_BYTES = 65_536
READS = 64  # in one go
T = TypeVar("T")
_FRAME = struct.Struct(">HBBBL")
_SETTING = struct.Struct(">HL")
_NUMBER = struct.Struct(">L")
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class ProtocolError(Exception):
    """The peer broke the protocol, or speaks a part of it that this client told it not to."""


class Socket(Protocol):
    """What is asked of a non-blocking ``ssl.SSLSocket``."""

    def recv(self, buflen: int, /) -> bytes: ...

    def send(self, data: memoryview, /) -> int: ...

    def close(self) -> None: ...

    def fileno(self) -> int: ...


@dataclass(slots=True, eq=False)
class Stream(Generic[T]):
    """A request under way, and what was heard of it. ``task`` is the caller's. ``offset`` is where it begins among all
    bytes that the connection has to write; ``unsent`` waits for ``window`` to open."""

    number: int
    task: T
    started: float
    offset: int
    window: int
    unsent: bytes = b""
    status: int = 0
    block: bytes = b""
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Refused:
    """The request was not processed and may be sent again: the peer said so (REFUSED_STREAM or a GOAWAY that leaves it
    out, 8.7), or no byte of it was written."""

    detail: str


Verdict = ProviderResponse | TransportFailure | Refused


class _Fields(LazyHeaders):
    __slots__ = ("_block",)

    def __init__(self, block: bytes) -> None:
        super().__init__()
        self._block = block

    def _parse(self) -> dict[str, str]:
        try:
            return dict(_decode(self._block))
        except ProtocolError:  # found out too late: the status was read
            return {}


def _decode(block: bytes) -> Iterator[tuple[str, str]]:
    """(name, value) of each field. Raises ``ProtocolError``."""
    decoder = hpack.Decoder(max_header_list_size=MAX_HEADER_BYTES)
    decoder.max_allowed_table_size = decoder.header_table_size = 0
    try:
        fields = decoder.decode(block, raw=True)
    except hpack.HPACKError as error:
        raise ProtocolError("unreadable headers") from error
    return ((name.decode("latin-1"), value.decode("latin-1")) for name, value in fields)


class Connection(Generic[T]):
    """Requests over one socket, and ``verdicts`` on them as they come in: take and clear them after ``receive`` and
    ``expire``. Nothing is written before ``flush``. Not thread-safe; never blocks."""

    def __init__(self, sock: Socket, authority: str, total_s: float) -> None:
        self.verdicts: list[tuple[T, Verdict]] = []
        self.is_closed = False
        self.is_ending = False  # takes no further requests
        self.last_used = time.monotonic()
        self._socket = sock
        self._total_s = total_s
        self._heads = Heads(authority)
        self._streams: dict[int, Stream[T]] = {}  # the oldest first
        self._next_number = 1
        self._queue: list[bytes] = []
        self._writing = memoryview(b"")
        self._queued_bytes = 0  # since the connection was made
        self._written_bytes = 0
        self._touched_bytes = 0  # handed to the socket, which may have written them
        self._rest = b""
        self._continued: tuple[int, int, bytes] | None = None
        self._most_streams = STREAMS
        self._window = WINDOW_BYTES
        self._stream_window = WINDOW_BYTES
        self._blocked: deque[Stream[T]] = deque()
        self._consumed_bytes = 0
        self._last_heard = 0.0
        ours = (HEADER_TABLE_SIZE, 0), (ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, OUR_WINDOW_BYTES)
        self._put(_PREFACE + _frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in ours)))
        self._put(_frame(WINDOW_UPDATE, 0, 0, _NUMBER.pack(MOST_WINDOW_BYTES - WINDOW_BYTES)))

    # What the caller does

    @property
    def room(self) -> int:
        """How many more requests may be started now."""
        return 0 if self.is_ending or self.is_closed else self._most_streams - len(self._streams)

    @property
    def in_flight(self) -> int:
        return len(self._streams)

    @property
    def has_to_write(self) -> bool:
        return bool(self._queue or self._writing)

    def fileno(self) -> int:
        return self._socket.fileno()

    def start(self, path: str, request: ProviderRequest, task: T, now: float) -> None:
        """Queue a request. Raises ``ValueError`` for one that no server should see."""
        head = self._heads.encode(path, request)
        if len(head) > FRAME_BYTES:
            raise ValueError("headers too large")
        number, body = self._next_number, request.body
        self._next_number += 2
        self.is_ending = self.is_ending or number >= LAST_STREAM
        stream = Stream(number, task, now, self._queued_bytes, self._stream_window)
        self._streams[number] = stream
        size = len(body)
        if not size:
            self._put(_frame(HEADERS, END_HEADERS | END_STREAM, number, head))
        elif size <= FRAME_BYTES and size <= self._window and size <= stream.window:
            self._window -= size
            stream.window -= size
            self._put(_frame(HEADERS, END_HEADERS, number, head) + _frame(DATA, END_STREAM, number, body))
        else:
            self._put(_frame(HEADERS, END_HEADERS, number, head))
            stream.unsent = body
            self._blocked.append(stream)
            self._send_blocked()

    def flush(self) -> None:
        """Write what the socket takes."""
        while self.has_to_write and not self.is_closed:
            if not self._writing:
                self._writing = memoryview(b"".join(self._queue))
                self._queue.clear()
            part = self._writing[:IO_BYTES]
            self._touched_bytes = max(self._touched_bytes, self._written_bytes + len(part))
            try:
                count = self._socket.send(part)
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                return
            except (OSError, ValueError):
                self.close("connection lost while sending")
                return
            self._written_bytes += count
            self._writing = self._writing[count:]

    def receive(self) -> None:
        """Read what has come."""
        for _ in range(READS):
            try:
                data = self._socket.recv(IO_BYTES)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            except (OSError, ValueError):
                data = b""
            if not data:
                self.close("connection lost while waiting")
                return
            now = self._last_heard = time.monotonic()
            try:
                self._read(data, now)
            except ProtocolError as error:
                self.close(f"HTTP/2 broken by the server: {error}")
                return

    def expire(self, now: float) -> None:
        """Give up requests whose time is up. A connection on which nothing was heard all the while is ended, and so is
        one that still holds the whole of such a request, which must not go out later on."""
        limit = now - self._total_s
        for stream in list(self._streams.values()):
            if stream.started > limit or self.is_closed:
                return
            if self._last_heard < stream.started:
                self.is_ending = True
            if not self._has_left(stream):
                self.close("timed out")
                return
            self._drop(stream)
            self._fail(stream, "timed out", now)

    def close(self, detail: str = "") -> None:
        """End the connection and give a verdict on what is under way."""
        if self.is_closed:
            return
        self.is_closed = True
        self._socket.close()
        now = time.monotonic()
        for stream in self._streams.values():
            self._fail(stream, detail, now)
        self._streams.clear()

    def deadline(self) -> float | None:
        """When ``expire`` will have something to do."""
        for stream in self._streams.values():
            return stream.started + self._total_s
        return None

    # Verdicts

    def _has_left(self, stream: Stream[T]) -> bool:
        return stream.offset < self._touched_bytes

    def _fail(self, stream: Stream[T], detail: str, now: float) -> None:
        has_left, time_s = self._has_left(stream), now - stream.started
        is_final = has_left or time_s >= self._total_s
        self.verdicts.append((stream.task, TransportFailure(has_left, detail, time_s) if is_final else Refused(detail)))

    def _finish(self, stream: Stream[T], now: float) -> None:
        if stream.unsent:  # answered before it was sent as a whole (8.1)
            self._drop(stream)
        else:
            del self._streams[stream.number]
        self.verdicts.append((stream.task, _response(stream, now)))

    def _drop(self, stream: Stream[T]) -> None:
        """Tell the peer that nobody listens to the stream any more."""
        del self._streams[stream.number]
        stream.unsent = b""
        self._put(_frame(RST_STREAM, 0, stream.number, _NUMBER.pack(CANCEL)))

    # Writing

    def _put(self, data: bytes) -> None:
        self._queue.append(data)
        self._queued_bytes += len(data)

    def _send_blocked(self) -> None:
        """Bodies, as far as the peer's windows go."""
        for _ in range(len(self._blocked)):
            stream = self._blocked.popleft()
            while stream.unsent and (size := min(len(stream.unsent), FRAME_BYTES, self._window, stream.window)) > 0:
                part, stream.unsent = stream.unsent[:size], stream.unsent[size:]
                self._window -= size
                stream.window -= size
                self._put(_frame(DATA, 0 if stream.unsent else END_STREAM, stream.number, part))
            if stream.unsent:
                self._blocked.append(stream)

    # Reading

    def _read(self, data: bytes, now: float) -> None:
        data = self._rest + data if self._rest else data
        at, end = 0, len(data)
        while end - at >= 9:
            high, low, kind, flags, number = _FRAME.unpack_from(data, at)
            stop = at + 9 + (high << 8 | low)
            if stop - at > 9 + FRAME_BYTES:
                raise ProtocolError("a frame too large")
            if stop > end:
                break
            content = data[at + 9 : stop]
            at = stop
            if self._continued is not None and kind != CONTINUATION:
                raise ProtocolError("headers broken off")
            if kind == DATA:
                self._on_data(number, flags, content, now)
            elif kind == HEADERS:
                self._on_headers(number, flags, content, now)
            else:
                self._on_other(kind, number, flags, content, now)
        self._rest = data[at:]

    def _on_headers(self, number: int, flags: int, content: bytes, now: float) -> None:
        content = _without_padding(flags, content)
        if flags & PRIORITY:
            content = content[5:]
        if flags & END_HEADERS:
            self._on_block(number, flags, content, now)
        else:
            self._continued = number, flags, content

    def _on_block(self, number: int, flags: int, block: bytes, now: float) -> None:
        stream = self._streams.get(number)
        if stream is None:  # of a request given up; no table depends on it
            if number % 2 == 0 or number >= self._next_number:
                raise ProtocolError("an answer to nothing")
            return
        if not stream.status:
            status = 200 if block[:1] == b"\x88" else _read_status(block)
            if status < 200 and not flags & END_STREAM:
                return  # interim (8.1)
            stream.status, stream.block = status, block
        if flags & END_STREAM:
            self._finish(stream, now)

    def _on_data(self, number: int, flags: int, content: bytes, now: float) -> None:
        self._consumed_bytes += len(content)
        if self._consumed_bytes >= OUR_WINDOW_STEP_BYTES:
            self._put(_frame(WINDOW_UPDATE, 0, 0, _NUMBER.pack(self._consumed_bytes)))
            self._consumed_bytes = 0
        stream = self._streams.get(number)
        if stream is None:
            return
        if not stream.status:
            raise ProtocolError("a body before its headers")
        content = _without_padding(flags, content)
        if len(stream.body) + len(content) > MAX_BODY_BYTES:
            self._on_oversize(stream, now)
            return
        stream.body = stream.body + content if stream.body else content
        if flags & END_STREAM:
            self._finish(stream, now)

    def _on_oversize(self, stream: Stream[T], now: float) -> None:
        self._drop(stream)
        if stream.status >= 400:  # an error page, cut: its status is what matters
            self.verdicts.append((stream.task, _response(stream, now)))
        else:
            self._fail(stream, "answer too large", now)

    def _on_other(self, kind: int, number: int, flags: int, content: bytes, now: float) -> None:
        if kind == SETTINGS:
            if not flags & ACK:
                self._on_settings(content)
        elif kind == WINDOW_UPDATE:
            self._on_window(number, _read_number(content))
        elif kind == PING:
            if not flags & ACK:
                self._put(_frame(PING, ACK, 0, content))
        elif kind == RST_STREAM:
            self._on_reset(number, _read_number(content), now)
        elif kind == GOAWAY:
            self._on_goaway(_read_number(content) & MOST_WINDOW_BYTES)
        elif kind == CONTINUATION:
            self._on_continuation(number, flags, content, now)
        elif kind == PUSH_PROMISE:
            raise ProtocolError("a push that was forbidden")
        # what is unknown is ignored (5.5)

    def _on_settings(self, content: bytes) -> None:
        if len(content) % _SETTING.size:
            raise ProtocolError("settings cut short")
        for name, value in _SETTING.iter_unpack(content):
            if name == MAX_CONCURRENT_STREAMS:
                self._most_streams = min(value, STREAMS)
            elif name == HEADER_TABLE_SIZE:
                self._heads.limit(value)
            elif name == INITIAL_WINDOW_SIZE:
                if value > MOST_WINDOW_BYTES:
                    raise ProtocolError("a window too large")
                for stream in self._streams.values():
                    stream.window += value - self._stream_window
                self._stream_window = value
        self._put(_frame(SETTINGS, ACK, 0, b""))
        self._send_blocked()

    def _on_window(self, number: int, more: int) -> None:
        if number == 0:
            self._window += more
        elif stream := self._streams.get(number):
            stream.window += more
        self._send_blocked()

    def _on_reset(self, number: int, code: int, now: float) -> None:
        stream = self._streams.pop(number, None)
        if stream is None:
            return
        stream.unsent = b""
        if code == REFUSED_STREAM:
            self.verdicts.append((stream.task, Refused("refused by the server")))
        else:
            self._fail(stream, f"HTTP/2 stream reset ({code})", now)

    def _on_goaway(self, last: int) -> None:
        self.is_ending = True
        for number in [number for number in self._streams if number > last]:
            stream = self._streams.pop(number)
            stream.unsent = b""
            self.verdicts.append((stream.task, Refused("refused by the server")))

    def _on_continuation(self, number: int, flags: int, content: bytes, now: float) -> None:
        if self._continued is None or self._continued[0] != number:
            raise ProtocolError("a continuation of nothing")
        _, first_flags, block = self._continued
        block += content
        if len(block) > MAX_HEADER_BYTES:
            raise ProtocolError("headers too large")
        self._continued = number, first_flags, block
        if flags & END_HEADERS:
            self._continued = None
            self._on_block(number, first_flags, block, now)


def _response(stream: Stream[T], now: float) -> ProviderResponse:
    return ProviderResponse(stream.status, _Fields(stream.block), stream.body, now - stream.started)


def _frame(kind: int, flags: int, number: int, content: bytes) -> bytes:
    size = len(content)
    return _FRAME.pack(size >> 8, size & 255, kind, flags, number) + content


def _without_padding(flags: int, content: bytes) -> bytes:
    if not flags & PADDED:
        return content
    if not content or content[0] >= len(content):
        raise ProtocolError("more padding than frame")
    return content[1 : len(content) - content[0]]


def _read_number(content: bytes) -> int:
    if len(content) < _NUMBER.size:
        raise ProtocolError("a frame cut short")
    number: int = _NUMBER.unpack_from(content)[0]
    return number


def _read_status(block: bytes) -> int:
    status = next((value for name, value in _decode(block) if name == ":status"), "")
    if not (len(status) == 3 and status.isascii() and status.isdigit()):
        raise ProtocolError("no status")
    return int(status)

"""What stands between the server's event loop and Django: an ASGI application that runs a WSGI one in threads.

A thread is taken only when a request has arrived whole, so whoever sends slowly holds a socket and a little memory, and
nobody else waits for them. Answers are likewise handed over whole.
"""

import asyncio
import io
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from queue import SimpleQueue
from typing import Any
from urllib.parse import unquote_to_bytes

import structlog

from notify_project.refusals import REFUSAL, Refusal

logger = structlog.get_logger("notify.front")

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Environ = dict[str, Any]
WsgiApplication = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

BODY_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})
# Asked by machines that restart us if we do not answer: they wait for no thread that serves requests.
PROBES = frozenset({"/healthz", "/readyz", "/metrics"})
PROBE_THREADS = 4
_CHUNKED_PREFIX = "/v1/"
# A body nobody wants is thrown away as it comes: whoever closes on unread bytes resets the connection, and the caller,
# or the proxy before us, never sees why. Until it has come, or so many bytes, or so long at all or between two pieces.
UNWANTED_BYTES = 16 << 20
UNWANTED_S = 2.0
UNWANTED_PAUSE_S = 0.25
# Two of these are a contradiction, and whoever is in front of us may have believed the other one.
_SINGLE_HEADERS = frozenset(
    {b"authorization", b"content-length", b"content-type", b"host", b"x-api-key", b"x-idempotency-key"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """``body_bytes`` of one request, ``body_bytes_by_path`` where it may be more, ``buffer_bytes`` of all that are
    arriving; ``body_timeout_s`` from the end of the headers to the end of the body; ``queue_timeout_s`` until a thread
    is free."""

    threads: int
    body_bytes: int
    buffer_bytes: int
    body_timeout_s: float
    queue_timeout_s: float
    body_bytes_by_path: Mapping[str, int] = field(default_factory=dict)

    def body_limit(self, path: str) -> int:
        """How many bytes a body sent to ``path`` may have."""
        return self.body_bytes_by_path.get(path, self.body_bytes)


class Front:
    """The ASGI application. What it refuses goes to Django too, as ``environ[REFUSAL]`` and without a body: there it
    gets its problem document, its line in the log and its place in the metrics like any other answer."""

    def __init__(self, application: WsgiApplication, limits: Limits) -> None:
        self._application = application
        self._limits = limits
        self._threads = Threads(self._answer, limits.threads, "request")
        self._probe_threads = Threads(self._answer, PROBE_THREADS, "probe")
        self._held_bytes = 0  # touched by the event loop only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        environ, refusal = _make_environ(scope)
        if refusal is None:
            refusal = _check_framing(environ, self._limits.body_limit(environ["PATH_INFO"]))
        body = b""
        if refusal is None and environ["REQUEST_METHOD"] in BODY_METHODS:
            body, refusal = await self._receive_body(environ, receive)
        environ |= {REFUSAL: refusal, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        threads = self._probe_threads if environ["PATH_INFO"] in PROBES else self._threads
        status, headers, content = await threads.run(environ)
        if refusal is not None:
            headers.append((b"connection", b"close"))
            if _is_body_coming(environ, refusal):
                await _discard_body(receive)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _receive_body(self, environ: Environ, receive: Receive) -> tuple[bytes, Refusal | None]:
        declared = environ.get("CONTENT_LENGTH")
        if not int(declared or 0) and "HTTP_TRANSFER_ENCODING" not in environ:
            return b"", None
        limit = self._limits.body_limit(environ["PATH_INFO"])
        pieces: list[bytes] = []
        size = 0
        alarm = _Alarm(self._limits.body_timeout_s)
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return b"", Refusal.BODY_INCOMPLETE
                if piece := message.get("body", b""):
                    pieces.append(piece)
                    size += len(piece)
                    self._held_bytes += len(piece)
                    if size > limit:
                        return b"", Refusal.BODY_TOO_LARGE
                    if self._held_bytes > self._limits.buffer_bytes:
                        return b"", Refusal.OVERLOADED
                if not message.get("more_body"):
                    break
        except asyncio.CancelledError:
            if not alarm.has_rung:
                raise
            return b"", Refusal.BODY_TOO_SLOW
        finally:
            alarm.stop()
            self._held_bytes -= size
        if declared and size != int(declared):
            return b"", Refusal.BODY_INCOMPLETE
        return b"".join(pieces), None

    def _answer(self, environ: Environ, queued_at: float) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Status, headers and content; runs in a thread."""
        if time.monotonic() - queued_at > self._limits.queue_timeout_s:
            environ |= {REFUSAL: Refusal.OVERLOADED}
        started: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:
            encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
            started[:] = [int(status[:3]), encoded]

        try:
            chunks = self._application(environ, start_response)
            try:
                content = b"".join(chunks)
            finally:
                if (close := getattr(chunks, "close", None)) is not None:
                    close()
        except Exception as error:  # Django turns what views raise into answers; this is past it
            logger.error("unhandled_exception", exc_info=error)
            return 500, [], b""
        return started[0], started[1], content


class _Alarm:
    """Cancels the task that made it, unless stopped in time. ``asyncio.timeout`` for every request, at half the price.
    A receive that it cut short is over; the next one may go on."""

    __slots__ = ("_handle", "_task", "has_rung")

    def __init__(self, seconds: float) -> None:
        self._task = asyncio.current_task()
        self.has_rung = False
        self._handle = asyncio.get_running_loop().call_later(seconds, self._ring)

    def stop(self) -> None:
        self._handle.cancel()

    def _ring(self) -> None:
        self.has_rung = True
        if self._task is not None:
            self._task.cancel()


class Threads:
    """So many threads that run ``work(argument, time.monotonic() of the call)`` for an event loop. Does what a
    ``ThreadPoolExecutor`` would, for less: the loop is woken once for all results that are there."""

    def __init__(self, work: Callable[[Any, float], Any], count: int, name: str) -> None:
        self._work = work
        self._wanted: SimpleQueue[tuple[asyncio.Future[Any], Any, float]] = SimpleQueue()
        self._done: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._is_loop_called = False
        for number in range(count):
            threading.Thread(target=self._serve, name=f"{name}_{number}", daemon=True).start()

    def run(self, argument: Any) -> "asyncio.Future[Any]":
        """What ``work`` makes of it. Called by the event loop; there must be one."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._wanted.put((future, argument, time.monotonic()))
        return future

    def _serve(self) -> None:
        while True:
            future, argument, wanted_at = self._wanted.get()
            result, error = None, None
            try:
                result = self._work(argument, wanted_at)
            except BaseException as raised:  # the caller's; the thread goes on
                error = raised
            self._done.append((future, result, error))
            if not self._is_loop_called:
                self._is_loop_called = True
                future.get_loop().call_soon_threadsafe(self._settle)
            del future, argument, result, error  # not to be held until the next one comes

    def _settle(self) -> None:
        self._is_loop_called = False  # first: whoever finishes from now on calls again
        while self._done:
            future, result, error = self._done.popleft()
            if future.done():  # the caller hung up
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)


def _make_environ(scope: Scope) -> tuple[Environ, Refusal | None]:
    """The request as PEP 3333 has it, without a body. Headers with ``_`` in their names are dropped, as there they
    could not be told from those with ``-``."""
    client, server = scope.get("client") or ("", 0), scope.get("server") or ("", 0)
    environ: Environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(scope.get("raw_path") or scope["path"]).decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "REMOTE_ADDR": client[0],
        "REMOTE_PORT": str(client[1]),
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    refusal = None
    seen = set()
    for name, value in scope["headers"]:
        if b"_" in name:
            continue
        key = _environ_key(name)
        text = value.decode("latin-1")
        if name not in seen:
            seen.add(name)
            environ[key] = text
        elif name in _SINGLE_HEADERS:
            refusal = Refusal.HEADER_REPEATED
        else:
            environ[key] += f"; {text}" if name == b"cookie" else f",{text}"
    return environ, refusal


@lru_cache(maxsize=256)  # the usual ones; whoever invents names drives out what is made again in a microsecond
def _environ_key(name: bytes) -> str:
    key = name.decode("latin-1").upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


def _is_body_coming(environ: Environ, refusal: Refusal) -> bool:
    """Whether there may be more to read of a refused request. To read is also what tells a caller who waits for
    ``100 Continue`` to go on."""
    is_at_end = refusal in (Refusal.BODY_INCOMPLETE, Refusal.BODY_TOO_SLOW)
    return environ["REQUEST_METHOD"] in BODY_METHODS and "HTTP_EXPECT" not in environ and not is_at_end


async def _discard_body(receive: Receive) -> None:
    left = UNWANTED_BYTES
    with suppress(TimeoutError):
        async with asyncio.timeout(UNWANTED_S):
            while left > 0:
                message = await asyncio.wait_for(receive(), UNWANTED_PAUSE_S)
                left -= len(message.get("body", b""))
                if not message.get("more_body"):  # nor has a disconnect
                    return


def _check_framing(environ: Environ, body_limit: int) -> Refusal | None:
    if "HTTP_TRANSFER_ENCODING" in environ:
        is_fit = environ["REQUEST_METHOD"] in BODY_METHODS and environ["PATH_INFO"].startswith(_CHUNKED_PREFIX)
        return None if is_fit else Refusal.LENGTH_REQUIRED
    declared = environ.get("CONTENT_LENGTH", "")
    if declared and not (declared.isascii() and declared.isdigit()):
        return Refusal.BODY_INCOMPLETE
    return Refusal.BODY_TOO_LARGE if len(declared) > 18 or int(declared or 0) > body_limit else None

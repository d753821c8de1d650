"""The thread side of receipts: what is due when, the calls in flight, retries and back-off. libcurl underneath."""

import heapq
import itertools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pycurl

MAX_PENDING = 200_000  # about 200 MB at worst; what comes above is counted as lost
MAX_IN_FLIGHT = 32
CALL_TIMEOUT_MS = 10_000
BACKOFF_BASE_S = 0.25
BACKOFF_MAX_S = 5.0


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP POST of receipts."""

    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(slots=True)
class Receipt:
    """One event on its way to ``url``. ``payload`` belongs to the provider; ``occurred_at`` is Unix seconds;
    ``due`` and ``expires`` are on the monotonic clock."""

    payload: Any
    url: str
    provider: str = ""
    occurred_at: float = 0.0
    due: float = 0.0
    expires: float = 0.0
    attempts: int = 0
    is_forged: bool = False
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Poster:
    """How a provider posts: up to ``batch_size`` receipts for one URL in the one call that
    ``build(receipts, is_forged)`` makes."""

    build: Callable[[Sequence[Receipt], bool], Call]
    batch_size: int = 1


@dataclass(slots=True)
class Counts:
    """``posted`` was answered 2xx, ``failed`` was refused or given up on, ``retries`` counts repeated calls,
    ``dropped`` was left out on purpose, ``lost`` did not fit into the queue."""

    scheduled: int = 0
    posted: int = 0
    failed: int = 0
    retries: int = 0
    dropped: int = 0
    lost: int = 0


@dataclass(slots=True)
class _Origin:
    """Everything bound for one scheme, host and port. While it is away only one call at a time probes for it."""

    heap: list[tuple[float, int, Receipt]] = field(default_factory=list)
    in_flight: int = 0
    failures: int = 0
    paused_until: float = 0.0

    def next_due(self) -> float:
        return max(self.heap[0][0], self.paused_until)

    def note(self, status: int, now: float) -> None:
        """Learns from the end of a call; ``status`` 0 is no answer."""
        if status:
            self.failures, self.paused_until = 0, 0.0
        elif now >= self.paused_until:  # calls that were in flight together count as one failure
            self.failures += 1
            self.paused_until = now + _backoff_s(self.failures)

    @property
    def has_room(self) -> bool:
        return self.in_flight < (1 if self.failures else MAX_IN_FLIGHT)


class Line:
    """Posts receipts. Used by one thread: ``add`` what arrived, call ``step`` again and again, ``close`` at the end."""

    def __init__(
        self, posters: Mapping[str, Poster], counts: Mapping[str, Counts], is_current: Callable[[Receipt], bool]
    ) -> None:
        self._posters = posters
        self._counts = counts
        self._is_current = is_current
        self._origins: dict[str, _Origin] = {}
        self._sequence = itertools.count()
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, MAX_IN_FLIGHT)
        self._spare = [_new_handle() for _ in range(MAX_IN_FLIGHT)]
        self._in_flight: dict[Any, tuple[_Origin, list[Receipt]]] = {}

    def add(self, receipt: Receipt) -> None:
        origin = self._origins.setdefault(_origin_of(receipt.url), _Origin())
        if len(origin.heap) >= MAX_PENDING:
            self._counts[receipt.provider].lost += 1
            return
        heapq.heappush(origin.heap, (receipt.due, next(self._sequence), receipt))

    def step(self) -> float:
        """Starts what is due and moves what is in flight; returns for how many seconds there is nothing to do."""
        now = time.monotonic()
        for origin in self._origins.values():
            self._start_due(origin, now)
        if self._in_flight:
            self._multi.perform()
            self._collect()
        if self._in_flight:
            self._multi.select(0.002)
            return 0.0
        due = min((origin.next_due() for origin in self._origins.values() if origin.heap), default=now + 0.5)
        return min(0.5, due - time.monotonic())

    @property
    def is_idle(self) -> bool:
        """Whether no call is on the wire."""
        return not self._in_flight

    def close(self) -> None:
        for handle in self._in_flight:
            self._multi.remove_handle(handle)
            handle.close()
        for handle in self._spare:
            handle.close()
        self._multi.close()

    def _start_due(self, origin: _Origin, now: float) -> None:
        while origin.heap and origin.next_due() <= now and origin.has_room and self._spare:
            batch = self._next_batch(origin.heap, now)
            if batch:
                self._post(origin, batch)

    def _next_batch(self, heap: list[tuple[float, int, Receipt]], now: float) -> list[Receipt]:
        """The receipts for the next call: consecutive due ones that may share it."""
        batch: list[Receipt] = []
        while heap and heap[0][0] <= now:
            receipt = heap[0][2]
            if not self._is_current(receipt):
                heapq.heappop(heap)
                continue
            if batch and (
                len(batch) >= self._posters[receipt.provider].batch_size
                or (receipt.provider, receipt.url, receipt.is_forged)
                != (batch[0].provider, batch[0].url, batch[0].is_forged)
            ):
                break
            batch.append(heapq.heappop(heap)[2])
        return batch

    def _post(self, origin: _Origin, batch: list[Receipt]) -> None:
        call = self._posters[batch[0].provider].build(batch, batch[0].is_forged)
        handle = self._spare.pop()
        handle.setopt(pycurl.URL, call.url)
        handle.setopt(pycurl.HTTPHEADER, [f"{name}: {value}" for name, value in call.headers] + ["Expect:"])
        handle.setopt(pycurl.POSTFIELDS, call.body)
        self._multi.add_handle(handle)
        self._in_flight[handle] = (origin, batch)
        origin.in_flight += 1

    def _collect(self) -> None:
        remaining = 1
        while remaining:
            remaining, finished, broken = self._multi.info_read()
            for handle in finished:
                self._settle(handle, handle.getinfo(pycurl.RESPONSE_CODE))
            for handle, _code, _text in broken:
                self._settle(handle, 0)

    def _settle(self, handle: Any, status: int) -> None:
        origin, batch = self._in_flight.pop(handle)
        self._multi.remove_handle(handle)
        self._spare.append(handle)
        origin.in_flight -= 1
        origin.note(status, time.monotonic())
        counts = self._counts[batch[0].provider]
        if 200 <= status < 300:
            counts.posted += len(batch)
        elif status == 0 or status >= 500 or status in {408, 429}:
            self._retry(batch, counts)
        else:
            counts.failed += len(batch)

    def _retry(self, batch: list[Receipt], counts: Counts) -> None:
        counts.retries += 1
        now = time.monotonic()
        for receipt in batch:
            if now >= receipt.expires:
                counts.failed += 1
                continue
            receipt.attempts += 1
            receipt.due = now + random.uniform(0.5, 1.0) * _backoff_s(receipt.attempts)  # noqa: S311 (jitter)
            self.add(receipt)


def _origin_of(url: str) -> str:
    return "/".join(url.split("/", 3)[:3])


def _backoff_s(failures: int) -> float:
    return min(BACKOFF_MAX_S, BACKOFF_BASE_S * 2.0 ** min(failures - 1, 10))


def _new_handle() -> Any:
    handle = pycurl.Curl()
    handle.setopt(pycurl.POST, 1)
    handle.setopt(pycurl.NOSIGNAL, 1)
    handle.setopt(pycurl.NOPROXY, "*")
    handle.setopt(pycurl.TIMEOUT_MS, CALL_TIMEOUT_MS)
    handle.setopt(pycurl.CONNECTTIMEOUT_MS, 2_000)
    handle.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
    handle.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
    handle.setopt(pycurl.USERAGENT, "notify-sandbox")
    handle.setopt(pycurl.WRITEFUNCTION, len)
    return handle

"""A small cache of this process, for what may be a few seconds old."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

V = TypeVar("V")


class TtlCache(Generic[V]):
    """At most ``max_size`` values, each for at most ``ttl_s`` seconds; the oldest makes room. Safe between threads."""

    def __init__(self, *, max_size: int, ttl_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_size = max_size
        self._ttl_s = ttl_s
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, tuple[float, V]] = OrderedDict()

    def get(self, key: str) -> V | None:
        """The value kept for ``key``, or None."""
        entry = self._entries.get(key)
        return entry[1] if entry is not None and entry[0] > self._clock() else None

    def put(self, key: str, value: V, *, read_at: float) -> None:
        """Keep ``value``; its age counts from ``read_at``, the clock before it was read."""
        with self._lock:
            self._entries[key] = (read_at + self._ttl_s, value)
            self._entries.move_to_end(key)
            while len(self._entries) > self._max_size:
                self._entries.popitem(last=False)

    def now(self) -> float:
        """The cache's clock, in seconds."""
        return self._clock()

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)

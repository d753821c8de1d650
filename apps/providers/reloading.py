"""A few rows of PostgreSQL that every batch asks for, read every few seconds."""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

import structlog
from django.db import DatabaseError

log = structlog.get_logger(__name__)
T = TypeVar("T")


class Reloading(Generic[T]):
    """What ``load`` returned, at most ``ttl_s`` old. While the database is away the last answer stays, at first
    ``initial``. Safe between threads: one loads while the others use what there is."""

    def __init__(
        self,
        load: Callable[[], T],
        *,
        initial: T,
        ttl_s: float,
        name: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._initial = initial
        self._ttl_s = ttl_s
        self._name = name
        self._clock = clock
        self._lock = threading.Lock()
        self._value = initial
        self._read_at: float | None = None

    def get(self) -> T:
        """The value. Never raises for database trouble."""
        now = self._clock()
        if self._read_at is not None and now - self._read_at < self._ttl_s:
            return self._value
        if not self._lock.acquire(blocking=self._read_at is None):
            return self._value
        try:
            if self._read_at is None or now - self._read_at >= self._ttl_s:
                self._reload(now)
            return self._value
        finally:
            self._lock.release()

    def _reload(self, now: float) -> None:
        try:
            self._value = self._load()
        except DatabaseError as error:
            log.warning("reload_failed", what=self._name, error=type(error).__name__)
        self._read_at = now

    def forget(self) -> None:
        """Read anew when next asked, as after a change made by this process."""
        with self._lock:
            self._value = self._initial
            self._read_at = None

"""A broadcast yields to what is urgent, where both share machines.

The high lane's workers measure how much longer their own work for a delivery takes than when nothing is in its way
(``note_urgent``), and tell everybody: the strain. Whoever sends a broadcast (``yielding``) pauses for a multiple of the
CPU time it uses (``pause_s``): more while the strain is high, less and less while it is not. So it is the urgent that
say how fast a broadcast may be, and on machines of its own, or with nothing urgent about, a broadcast does not wait.
The strain is kept in the cache; while that is away nobody pauses.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

from django.conf import settings

from apps import metrics
from apps.quickest import Quickest
from apps.redis_script import RedisScript

BASE_S = 600.0
WEIGHT = 0.2  # of one more measurement
TELL_S = 0.25
TOLD_FOR_MS = 2_000  # nothing urgent for so long, and nobody yields
HIGH_STRAIN = 2.0
STEP_UP, STEP_DOWN = 1.0, 0.1  # of the multiple, at each reading
MOST_PAUSE_S = 0.05  # at once: answers wait meanwhile
KEY = "strain"
_TELL = RedisScript("return redis.call('set', KEYS[1], ARGV[1], 'px', ARGV[2])")
_HEAR = RedisScript("return redis.call('get', KEYS[1])")


class Strain:
    """What a high-lane worker knows: 1 is no strain at all. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bases: dict[str, Quickest] = {}
        self._value = 1.0
        self._noted_at = self._told_at = 0.0

    def note(self, kind: str, seconds: float, now: float) -> float | None:
        """Learns how long one took, of a ``kind`` of which each takes about as long. Returns the strain if it is time
        to tell."""
        with self._lock:
            base = self._bases.setdefault(kind, Quickest(BASE_S))
            base.learn(seconds, now)
            strain = seconds / base.value
            is_stale = now - self._noted_at > TOLD_FOR_MS / 1000
            self._value = strain if is_stale else self._value + WEIGHT * (strain - self._value)
            self._noted_at = now
            if now - self._told_at < TELL_S:
                return None
            self._told_at = now
            return self._value


class Pace:
    """What a process that sends broadcasts makes of the strain: for how many times its CPU time a thread pauses. It
    begins with the most, as the first seconds of a broadcast are seconds, too. Safe between threads."""

    def __init__(self) -> None:
        self._multiple = inf  # the first reading makes it the most there may be
        self._is_urgent = False
        self._hear_at = 0.0
        self._lock = threading.Lock()

    def multiple(self, now: float) -> float:
        """0 if there is nothing urgent, or it does not suffer."""
        if now >= self._hear_at and settings.BROADCAST_YIELD and self._lock.acquire(blocking=False):
            try:
                self._hear_at = now + TELL_S
                self.learn(_hear())
            finally:
                self._lock.release()
        return self._multiple if self._is_urgent else 0.0

    def learn(self, strain: float | None) -> None:
        """From the strain as it is told now; ``None`` if nothing urgent is going on."""
        if strain is not None:
            step = STEP_UP if strain > HIGH_STRAIN else -STEP_DOWN
            self._multiple = min(settings.BROADCAST_YIELD, max(0.0, self._multiple + step))
        self._is_urgent = strain is not None


def _hear() -> float | None:
    told = _HEAR.run([KEY], [])
    return None if told is None else float(told)


_strain = Strain()
_pace = Pace()
_local = threading.local()


def note_urgent(kind: str, seconds: float) -> None:
    """Something urgent of this kind has taken us so long, without the provider's part."""
    strain = _strain.note(kind, seconds, time.monotonic())
    if strain is not None:
        _TELL.run([KEY], [f"{strain:.2f}", TOLD_FOR_MS])


def strain_now() -> dict[tuple[str, ...], float]:
    """The strain as a gauge has it: nothing while nothing urgent is going on."""
    strain = _hear()
    return {} if strain is None else {(): strain}


@contextmanager
def yielding() -> Iterator[None]:
    """Within the block the calling thread does what can wait."""
    _local.used_s = time.thread_time()
    try:
        yield
    finally:
        _local.used_s = None


def pause_s() -> float:
    """For how long the calling thread is to pause now, for the CPU time it has used since it last asked."""
    before_s: float | None = getattr(_local, "used_s", None)
    if before_s is None:
        return 0.0
    _local.used_s = used_s = time.thread_time()
    seconds = min(MOST_PAUSE_S, _pace.multiple(time.monotonic()) * (used_s - before_s))
    if seconds:
        metrics.broadcast_paused(seconds)
    return seconds

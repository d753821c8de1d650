"""No provider may take all of a worker's threads: what waits for a slow one must not keep the others' messages waiting.

Healthy calls end within a fraction of a second and never meet this. When several calls of one provider have been under
way for longer, further batches for it are turned away at once, to the next provider of their route or back to the
queue; so are batches beyond its share of the process's threads.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from django.conf import settings

SLOW_AFTER_S = 0.5
STUCK_AFTER_S = 1.5
RETRY_AFTER_S = 1.0


class Place(Enum):
    """What a provider's share of the threads had to offer a call."""

    FREE = "free"
    TAKEN = "taken"  # by calls that may yet end well
    STUCK = "stuck"  # by calls that hang: the provider is ill, and too few of them get through to prove it


class Bulkhead:
    """Which provider calls are under way in this process. ``share`` of ``threads`` is the most one provider may have,
    half of that while they are slow."""

    def __init__(self, threads: int, share: float = 0.5) -> None:
        self._most = max(1, int(threads * share))
        self._most_slow = max(1, self._most // 2)
        self._lock = threading.Lock()
        self._started: dict[str, dict[int, float]] = defaultdict(dict)
        self._next_ticket = 0

    def enter(self, alias: str, now: float) -> tuple[Place, int]:
        """Whether a call to ``alias`` may begin at monotonic time ``now``, and the ticket of one that does."""
        with self._lock:
            under_way = self._started[alias]
            ages = [now - started for started in under_way.values()]
            slow = sum(1 for age in ages if age > SLOW_AFTER_S)
            if len(ages) >= self._most or slow >= self._most_slow:
                stuck = sum(1 for age in ages if age > STUCK_AFTER_S)
                return (Place.STUCK if stuck >= self._most_slow else Place.TAKEN), 0
            self._next_ticket += 1
            under_way[self._next_ticket] = now
            return Place.FREE, self._next_ticket

    def leave(self, alias: str, ticket: int) -> None:
        """The call with this ticket is over."""
        with self._lock:
            self._started[alias].pop(ticket, None)


_bulkhead = Bulkhead(settings.WORKER_THREADS)


@contextmanager
def place(alias: str) -> Iterator[Place]:
    """Within the block a call to ``alias`` is under way, if the place it yields is free."""
    found, ticket = _bulkhead.enter(alias, time.monotonic())
    try:
        yield found
    finally:
        if found is Place.FREE:
            _bulkhead.leave(alias, ticket)

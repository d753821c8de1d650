"""No provider may take all of a worker's threads: what waits for a slow one must not keep the others' messages waiting.

A provider has a share of the process's threads. Healthy calls end within a fraction of a second: while they fill the
share, the next batch waits a moment for one of them to end. When several have been under way for longer, further
batches are turned away at once, to the next provider of their route or back to the queue.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from typing import NamedTuple

from django.conf import settings

SLOW_AFTER_S = 0.5
STUCK_AFTER_S = 1.5
MESSAGE_S = 0.002  # what each message of a call adds to both
PATIENCE_S = 2.0
RETRY_AFTER_S = 1.0


class Place(Enum):
    """What a provider's share of the threads had to offer a call."""

    FREE = "free"
    FULL = "full"  # of calls that will soon end
    TAKEN = "taken"  # by calls that may yet end well
    STUCK = "stuck"  # by calls that hang: the provider is ill, and too few of them get through to prove it


class _Call(NamedTuple):
    """When a call began (monotonic), and how much longer it may take for its size."""

    started: float
    grace_s: float

    def is_longer_than(self, limit_s: float, now: float) -> bool:
        return now - self.started > limit_s + self.grace_s


class Bulkhead:
    """Which provider calls are under way in this process. ``share`` of ``threads`` is the most one provider may have,
    half of that while they are slow."""

    def __init__(self, threads: int, share: float = 0.5) -> None:
        self._most = max(1, int(threads * share))
        self._most_slow = max(1, self._most // 2)
        self._has_left = threading.Condition()
        self._under_way: dict[str, dict[int, _Call]] = defaultdict(dict)
        self._next_ticket = 0

    def enter(self, alias: str, now: float, *, messages: int = 1) -> tuple[Place, int]:
        """Whether a call to ``alias`` may begin at monotonic time ``now``, and the ticket of one that does."""
        with self._has_left:
            return self._enter(alias, now, messages)

    def enter_patiently(self, alias: str, *, messages: int) -> tuple[Place, int]:
        """The same, now; waits for up to ``PATIENCE_S`` while the share is full of calls that will soon end."""
        deadline = time.monotonic() + PATIENCE_S
        with self._has_left:
            while True:
                now = time.monotonic()
                found, ticket = self._enter(alias, now, messages)
                if found is not Place.FULL or now >= deadline:
                    return found, ticket
                self._has_left.wait(deadline - now)

    def leave(self, alias: str, ticket: int) -> None:
        """The call with this ticket is over."""
        with self._has_left:
            self._under_way[alias].pop(ticket, None)
            self._has_left.notify_all()

    def _enter(self, alias: str, now: float, messages: int) -> tuple[Place, int]:
        calls = self._under_way[alias]
        slow = sum(call.is_longer_than(SLOW_AFTER_S, now) for call in calls.values())
        if slow >= self._most_slow:
            stuck = sum(call.is_longer_than(STUCK_AFTER_S, now) for call in calls.values())
            return (Place.STUCK if stuck >= self._most_slow else Place.TAKEN), 0
        if len(calls) >= self._most:
            return Place.FULL, 0
        self._next_ticket += 1
        calls[self._next_ticket] = _Call(now, messages * MESSAGE_S)
        return Place.FREE, self._next_ticket


_bulkhead = Bulkhead(settings.WORKER_THREADS)


@contextmanager
def place(alias: str, *, messages: int) -> Iterator[Place]:
    """Within the block a call to ``alias`` with so many messages is under way, if the place it yields is free."""
    found, ticket = _bulkhead.enter_patiently(alias, messages=messages)
    try:
        yield found
    finally:
        if found is Place.FREE:
            _bulkhead.leave(alias, ticket)

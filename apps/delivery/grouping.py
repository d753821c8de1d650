"""Calls that are made at the same time share one run of the work (group commit): one of their threads does it for all.

Alone, a call does its own work at once. While one is at it, others gather, and the first of them then does the work of
all, after ``gather_s``, as those who have just been answered often call again. Nobody waits long for a slow run: who
has waited for ``patience_s`` goes ahead, with those who wait as well.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Generic, TypeVar

import structlog
from django.db.utils import OperationalError

T = TypeVar("T")
R = TypeVar("R")
GATHER_S = 0.001  # costs a busy process a tenth less CPU for a call, and a lone caller nothing
log = structlog.get_logger("notify.delivery.grouping")


def alone_after_failure(
    work: Callable[[Sequence[T]], Sequence[R | None]],
) -> Callable[[Sequence[T]], Sequence[R | None]]:
    """A ``work`` that gives None to each of several items where it would fail: they have to try alone, as it may have
    been another's that went wrong. That the database is away is a failure of all."""

    @wraps(work)
    def run(items: Sequence[T]) -> Sequence[R | None]:
        try:
            return work(items)
        except OperationalError:
            raise
        except Exception as error:
            if len(items) == 1:
                raise
            log.error("group_failed", n=len(items), exc_info=error)
            return [None] * len(items)

    return run


class _Ticket(Generic[T, R]):
    __slots__ = ("error", "is_done", "item", "results", "turn")

    def __init__(self, item: T) -> None:
        self.item = item
        # Released when its work is done, or when it is its thread's turn to do that of a group. A bare lock: an Event
        # is a condition, two locks and a list.
        self.turn = threading.Lock()
        self.turn.acquire()
        self.is_done = False
        self.results: list[R] = []  # one, or none and the error
        self.error: BaseException | None = None


class Grouping(Generic[T, R]):
    """Runs ``work`` on the items of all threads that call at the same time, at most ``max_size`` together. ``work``
    returns a result for each item, in their order."""

    def __init__(
        self,
        work: Callable[[Sequence[T]], Sequence[R]],
        *,
        max_size: int,
        patience_s: float,
        gather_s: float = GATHER_S,
    ) -> None:
        self._work = work
        self._gather_s = gather_s
        self._max_size = max_size
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._waiting: deque[_Ticket[T, R]] = deque()
        self._running = 0

    def run(self, item: T) -> R:
        """The result for ``item``. What ``work`` raised is raised here too, for each of those who shared the run."""
        ticket: _Ticket[T, R] = _Ticket(item)
        with self._lock:
            is_first = not self._running
            if is_first:
                self._running += 1
            else:
                self._waiting.append(ticket)
        if is_first:
            self._lead(ticket)
        elif self._is_to_lead(ticket):
            time.sleep(self._gather_s)
            self._lead(ticket)
        if ticket.error is not None:
            raise ticket.error
        return ticket.results[0]

    def _is_to_lead(self, ticket: _Ticket[T, R]) -> bool:
        """Waits until somebody else has done the ticket's work, or it is its thread's turn to do that of a group."""
        if not ticket.turn.acquire(timeout=self._patience_s):
            with self._lock:
                if ticket in self._waiting:
                    self._waiting.remove(ticket)
                    self._running += 1
                    return True
            ticket.turn.acquire()
        return not ticket.is_done

    def _lead(self, ticket: _Ticket[T, R]) -> None:
        with self._lock:
            others = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._max_size - 1))]
        group = [ticket, *others]
        try:
            results = self._work([one.item for one in group])
            for one, result in zip(group, results, strict=True):
                one.results.append(result)
        except BaseException as error:
            for one in group:
                one.error = error
        finally:
            self._hand_over(others)

    def _hand_over(self, others: Sequence[_Ticket[T, R]]) -> None:
        with self._lock:
            heir = self._waiting.popleft() if self._waiting else None
            if heir is None:
                self._running -= 1
        for one in others:
            one.is_done = True
            one.turn.release()
        if heir is not None:
            heir.turn.release()

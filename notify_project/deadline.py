"""Asking something that may never answer, without waiting for ever and without a heap of waiting threads."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Runs ``ask`` in a daemon thread; those who ask while it runs wait for the same answer.

    So there is at most one thread for each instance, however long ``ask`` hangs and however often it is wanted; it
    ends with the time-outs of the client that ``ask`` uses.
    """

    def __init__(self, name: str, ask: Callable[[], T]) -> None:
        self.name = name
        self._ask = ask
        self._lock = threading.Lock()
        self._flight: Future[T] | None = None

    def start(self) -> "Future[T]":
        """The answer to come; ``result(timeout=…)`` of it raises ``TimeoutError`` or what ``ask`` raised."""
        with self._lock:
            if self._flight is None or self._flight.done():
                self._flight = Future()
                threading.Thread(target=self._run, args=(self._flight,), name=self.name, daemon=True).start()
            return self._flight

    def _run(self, flight: "Future[T]") -> None:
        try:
            flight.set_result(self._ask())
        except BaseException as error:  # belongs to whoever waits
            flight.set_exception(error)

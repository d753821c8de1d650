"""One of many threads does what all of them want."""

import threading
from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class Flight(Generic[T]):
    """Something on its way."""

    __slots__ = ("_has_landed", "_result")

    def __init__(self) -> None:
        self._has_landed = threading.Event()
        self._result: T | None = None

    def land(self, result: T | None) -> None:
        """Here it is; ``None`` if it did not come."""
        self._result = result
        self._has_landed.set()

    def wait(self, timeout_s: float) -> T | None:
        """It, or ``None`` if it did not come, or not in time."""
        return self._result if self._has_landed.wait(timeout_s) else None


class Flights(Generic[T]):
    """What the threads of this process are fetching just now, by key."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_key: dict[str, Flight[T]] = {}

    def board(self, keys: Iterable[str]) -> tuple[list[str], dict[str, Flight[T]]]:
        """The keys that the caller has to fetch, and must ``land`` whatever happens, and the flights of the others.
        Land before waiting for others: then nobody waits in a circle."""
        mine: list[str] = []
        others: dict[str, Flight[T]] = {}
        with self._lock:
            for key in keys:
                flight = self._by_key.get(key)
                if flight is None:
                    self._by_key[key] = Flight()
                    mine.append(key)
                else:
                    others[key] = flight
        return mine, others

    def land(self, keys: Iterable[str], results: Mapping[str, T]) -> None:
        """The caller's keys are fetched; those not in ``results`` did not come."""
        with self._lock:
            flights = [(key, self._by_key.pop(key)) for key in keys]
        for key, flight in flights:
            flight.land(results.get(key))

"""Whether a provider account is worth calling, for the whole fleet.

A breaker opens when at least 40 % of what was counted in the last ten seconds failed, and not on fewer than twenty. It
then stays open for ``settings.BREAKER_OPEN_S``, longer each time it does not recover (``BREAKER_MAX_OPEN_S`` at most),
after which one caller may probe. pybreaker is the face: its states, its listeners, its storage interface. Its ``call``
is not used: it holds a lock while the provider is called, and counts consecutive failures only.

Used around a batch, with nothing held in between::

    admission = breaker.admit(alias)
    if admission.is_allowed:
        results = send_messages(provider, messages[: admission.max_messages])
        tally = breaker.tally(results)
        breaker.report(alias, tally.successes, tally.failures, was_probe=admission.is_probe)
"""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog
from django.conf import settings
from pybreaker import (
    STATE_CLOSED,
    STATE_OPEN,
    CircuitBreaker,
    CircuitBreakerListener,
    CircuitBreakerState,
    CircuitBreakerStorage,
)

from apps.providers.breaker_store import BreakerStore, Operation, Times, View
from apps.providers.errors import BatchRejected, NotStarted, OutcomeUnknown, RateLimited, TransientError
from apps.providers.messages import Result
from apps.providers.models import ForcedState
from apps.providers.orders import orders

log = structlog.get_logger(__name__)

PROBE_MESSAGES = 10
# One lost connection with 1,000 recipients on it is not a thousand failures; two of them are enough.
COUNTED_PER_CALL = 10
TRUST_CLOSED_S = 0.2  # a breaker seen closed this recently is not asked again
FORCED_RETRY_S = 10.0


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a batch may go to a provider now. A probe is the one call that finds out whether the provider is back:
    at most ``max_messages`` may go (``None``: all), and it must be reported. When refused, it is worth asking again
    after ``retry_after_s``; until then the messages wait without having used up an attempt."""

    is_allowed: bool
    is_probe: bool = False
    retry_after_s: float = 0.0
    max_messages: int | None = None


@dataclass(frozen=True, slots=True)
class Tally:
    """What results say about the provider's health."""

    successes: int
    failures: int


def admit(alias: str) -> Admission:
    """May a batch go to provider ``alias`` now? Never raises for Redis or database trouble."""
    order = orders.get().get(alias)
    if order is not None:
        is_closed = order.state == ForcedState.CLOSED
        return Admission(is_closed, retry_after_s=0.0 if is_closed else FORCED_RETRY_S)
    storage = _storage(alias)
    if storage.is_surely_closed():
        return Admission(True)
    view = storage.run(Operation.ADMIT)
    return Admission(view.is_allowed, view.is_probe, view.retry_after_s, PROBE_MESSAGES if view.is_probe else None)


def report(alias: str, successes: int, failures: int, was_probe: bool = False) -> None:
    """Say how a batch went (see ``tally``). A probe must be reported whatever came of it: without either figure the
    next caller probes. Never raises for Redis trouble."""
    if was_probe:
        _storage(alias).run(Operation.PROBED, successes, failures)
    elif successes or failures:
        _storage(alias).run(Operation.REPORT, successes, failures)


def tally(results: Sequence[Result]) -> Tally:
    """Count ``results`` of one ``send_messages`` for ``report``.

    A refused message or recipient is a success of the provider's health; being throttled (the quotas' affair) and
    being refused in company say nothing, nor does what never had its turn. A request
    that carried many messages counts ``COUNTED_PER_CALL`` times at most."""
    successes: Counter[str | int] = Counter()
    failures: Counter[int] = Counter()
    for result in results:
        error = result.error
        if error is None:
            successes[result.provider_message_id or result.delivery_id] += 1
        elif isinstance(error, RateLimited | BatchRejected | NotStarted):
            continue
        elif isinstance(error, TransientError | OutcomeUnknown):
            failures[id(error)] += 1  # an adapter gives all messages of a lost request the same error
        elif result.latency_s:
            successes[id(error)] += 1
    return Tally(*(sum(min(n, COUNTED_PER_CALL) for n in each.values()) for each in (successes, failures)))


@dataclass(frozen=True, slots=True)
class BreakerView:
    """A breaker for people. ``state`` is ``closed``, ``open`` or ``half-open``, as forced if it is."""

    state: str
    is_forced: bool
    reason: str
    failure_rate: float
    volume: int
    retry_after_s: float

    @property
    def failure_percent(self) -> int:
        return round(self.failure_rate * 100)


def look(alias: str) -> BreakerView:
    """The breaker of ``alias`` as it is now; changes nothing."""
    order, view = orders.get().get(alias), _store.run(alias, Operation.LOOK, _times())
    return BreakerView(
        state=order.state.value if order else view.state,
        is_forced=order is not None,
        reason=order.reason if order else "",
        failure_rate=view.failure_rate,
        volume=view.successes + view.failures,
        retry_after_s=0.0 if order else view.retry_after_s,
    )


def _times() -> Times:
    return Times(settings.BREAKER_OPEN_S, settings.BREAKER_MAX_OPEN_S)


class SharedStorage(CircuitBreakerStorage):
    """pybreaker's view of a breaker: what this process last heard of it. Setting ``state`` trips or resets it
    everywhere."""

    def __init__(self, alias: str, store: BreakerStore) -> None:
        super().__init__("shared")
        self._alias = alias
        self._store = store
        self._view = View(STATE_CLOSED, True, False, 0.0, 0, 0)
        self._seen_at = float("-inf")
        self.face: CircuitBreaker = CircuitBreaker(name=alias, state_storage=self, listeners=[_Announcer()])

    def run(self, op: Operation, successes: int = 0, failures: int = 0) -> View:
        view = self._view = self._store.run(self._alias, op, _times(), successes, failures)
        self._seen_at = time.monotonic()
        _ = self.face.state  # notices a change and tells the listeners
        return view

    def is_surely_closed(self) -> bool:
        return self._view.state == STATE_CLOSED and time.monotonic() - self._seen_at < TRUST_CLOSED_S

    @property
    def state(self) -> str:
        return self._view.state

    @state.setter
    def state(self, state: str) -> None:
        if state != self._view.state:
            self.run(Operation.TRIP if state == STATE_OPEN else Operation.RESET)

    @property
    def counter(self) -> int:
        return self._view.failures

    @property
    def success_counter(self) -> int:
        return self._view.successes

    @property
    def opened_at(self) -> datetime | None:
        return None

    @opened_at.setter
    def opened_at(self, moment: datetime) -> None:
        """The store keeps its own time."""


class _Announcer(CircuitBreakerListener):
    def state_change(
        self, cb: CircuitBreaker, old_state: CircuitBreakerState | None, new_state: CircuitBreakerState
    ) -> None:
        storage = cb._state_storage
        log.warning(
            "breaker_changed",
            provider=cb.name,
            state=new_state.name,
            before=old_state.name if old_state else "",
            successes=storage.success_counter,
            failures=storage.counter,
        )


_store = BreakerStore()
_storages: dict[str, SharedStorage] = {}
_guard = threading.Lock()


def _storage(alias: str) -> SharedStorage:
    storage = _storages.get(alias)
    if storage is None:
        with _guard:
            storage = _storages.setdefault(alias, SharedStorage(alias, _store))
    return storage


def face(alias: str) -> CircuitBreaker:
    """pybreaker's object for ``alias``, to add listeners to or to ``open()`` and ``close()`` from a shell."""
    return _storage(alias).face

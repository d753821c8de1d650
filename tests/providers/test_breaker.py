"""apps/providers/breaker.py and its store on a real Valkey, and with it away."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from django.core.exceptions import ValidationError
from pytest_django.fixtures import Settings

from apps import redis_script
from apps.providers import breaker, orders
from apps.providers.breaker_store import MIN_VOLUME, PROBE_S, WINDOW_S, BreakerStore, Operation, Times, step
from apps.providers.errors import (
    BatchRejected,
    InvalidRecipient,
    NotSent,
    NotStarted,
    OutcomeUnknown,
    PermanentError,
    ProviderError,
    RateLimited,
    TransientError,
    Unauthorized,
)
from apps.providers.messages import Result
from apps.providers.models import BreakerOrder, ForcedState

CLOSED_PORT_URL = "redis://127.0.0.1:1/0"
TIMES = Times(open_s=5.0, max_open_s=60.0)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_795_000_000.0

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def alias() -> str:
    return f"test-{uuid4()}"


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[None]:
    monkeypatch.setattr(redis_script, "availability", redis_script.Availability())
    monkeypatch.setattr(breaker, "_store", BreakerStore(clock))
    monkeypatch.setattr(breaker, "_storages", {})
    monkeypatch.setattr(breaker, "TRUST_CLOSED_S", -1.0)
    orders.orders.forget()
    yield
    orders.orders.forget()


@pytest.fixture
def away(settings: Settings) -> None:
    settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": CLOSED_PORT_URL}}


pytestmark = pytest.mark.django_db


def other_process(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    """Forget all that this process knows."""
    monkeypatch.setattr(breaker, "_store", BreakerStore(clock))
    monkeypatch.setattr(breaker, "_storages", {})


def trip(alias: str) -> None:
    breaker.report(alias, 0, MIN_VOLUME)


class TestOpening:
    def test_two_fifths_of_twenty_failed_open(self, alias: str):
        breaker.report(alias, 12, 7)
        assert breaker.admit(alias).is_allowed
        breaker.report(alias, 0, 1)
        refused = breaker.admit(alias)
        assert (refused.is_allowed, refused.is_probe) == (False, False)
        assert refused.retry_after_s == pytest.approx(5.0)

    def test_fewer_than_twenty_prove_nothing(self, alias: str):
        breaker.report(alias, 0, 19)
        assert breaker.admit(alias).is_allowed

    def test_less_than_two_fifths_failed_stays_closed(self, alias: str):
        breaker.report(alias, 121, 79)
        assert breaker.admit(alias).is_allowed

    def test_failures_count_for_ten_seconds(self, alias: str, clock: Clock):
        breaker.report(alias, 0, 15)
        clock.advance(WINDOW_S)
        breaker.report(alias, 0, 15)
        assert breaker.admit(alias).is_allowed
        clock.advance(WINDOW_S - 1)
        breaker.report(alias, 0, 5)
        assert not breaker.admit(alias).is_allowed

    def test_a_success_never_opens(self, alias: str, clock: Clock):
        breaker.report(alias, 0, 15)
        breaker.report(alias, 5, 0)
        assert breaker.admit(alias).is_allowed

    def test_the_whole_fleet_counts_together(self, alias: str, monkeypatch: pytest.MonkeyPatch, clock: Clock):
        for _ in range(4):
            assert breaker.admit(alias).is_allowed
            breaker.report(alias, 0, 5)
            other_process(monkeypatch, clock)
        assert not breaker.admit(alias).is_allowed

    def test_providers_do_not_share_a_breaker(self, alias: str):
        trip(alias)
        assert breaker.admit(f"{alias}-other").is_allowed

    def test_a_breaker_seen_closed_is_not_asked_again_at_once(self, alias: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(breaker, "TRUST_CLOSED_S", 60.0)
        breaker.report(alias, 1, 0)
        asked: list[Operation] = []
        monkeypatch.setattr(breaker._store, "run", lambda _alias, op, *_rest: asked.append(op))
        assert breaker.admit(alias).is_allowed
        assert asked == []


class TestProbing:
    def test_one_probe_in_the_whole_fleet(self, alias: str, monkeypatch: pytest.MonkeyPatch, clock: Clock):
        trip(alias)
        clock.advance(5.0)
        probe = breaker.admit(alias)
        assert (probe.is_allowed, probe.is_probe, probe.max_messages) == (True, True, breaker.PROBE_MESSAGES)
        other_process(monkeypatch, clock)
        refused = breaker.admit(alias)
        assert not refused.is_allowed
        assert refused.retry_after_s == pytest.approx(PROBE_S)

    def test_threads_that_ask_at_once_get_one_probe(self, alias: str, clock: Clock):
        store = BreakerStore(clock)
        store.run(alias, Operation.TRIP, TIMES)
        clock.advance(5.0)
        with ThreadPoolExecutor(8) as pool:
            views = list(pool.map(lambda _: store.run(alias, Operation.ADMIT, TIMES), range(64)))
        assert sum(view.is_probe for view in views) == sum(view.is_allowed for view in views) == 1

    def test_a_probe_that_succeeds_closes(self, alias: str, clock: Clock):
        trip(alias)
        clock.advance(5.0)
        assert breaker.admit(alias).is_probe
        breaker.report(alias, 1, 0, was_probe=True)
        admission = breaker.admit(alias)
        assert (admission.is_allowed, admission.is_probe, admission.max_messages) == (True, False, None)
        assert breaker.look(alias).volume == 0

    def test_a_probe_that_fails_doubles_the_time_up_to_the_longest(self, alias: str, clock: Clock):
        trip(alias)
        waits = []
        for _ in range(6):
            clock.advance(60.0)
            assert breaker.admit(alias).is_probe
            breaker.report(alias, 1, 1, was_probe=True)
            waits.append(breaker.admit(alias).retry_after_s)
        assert waits == pytest.approx([10, 20, 40, 60, 60, 60])

    def test_a_relapse_within_a_minute_goes_on_where_it_was(self, alias: str, clock: Clock):
        trip(alias)
        clock.advance(5.0)
        breaker.admit(alias)
        breaker.report(alias, 1, 0, was_probe=True)
        clock.advance(59.0)
        trip(alias)
        assert breaker.admit(alias).retry_after_s == pytest.approx(10.0)

    def test_a_later_failure_begins_anew(self, alias: str, clock: Clock):
        trip(alias)
        clock.advance(5.0)
        breaker.admit(alias)
        breaker.report(alias, 1, 0, was_probe=True)
        clock.advance(60.0)
        trip(alias)
        assert breaker.admit(alias).retry_after_s == pytest.approx(5.0)

    def test_a_probe_that_learnt_nothing_is_handed_on(self, alias: str, clock: Clock):
        trip(alias)
        clock.advance(5.0)
        assert breaker.admit(alias).is_probe
        assert not breaker.admit(alias).is_allowed
        breaker.report(alias, 0, 0, was_probe=True)
        assert breaker.admit(alias).is_probe

    def test_a_probe_that_never_reports_is_handed_on(self, alias: str, clock: Clock):
        trip(alias)
        clock.advance(5.0)
        assert breaker.admit(alias).is_probe
        clock.advance(PROBE_S)
        assert breaker.admit(alias).is_probe

    def test_late_reports_of_other_batches_change_nothing(self, alias: str, clock: Clock):
        trip(alias)
        breaker.report(alias, 500, 0)
        assert breaker.admit(alias).retry_after_s == pytest.approx(5.0)
        breaker.report(alias, 0, 500)
        assert breaker.admit(alias).retry_after_s == pytest.approx(5.0)


class TestTally:
    @pytest.mark.parametrize(
        ("error", "successes", "failures"),
        [
            (None, 1, 0),
            (TransientError("p", "500"), 0, 1),
            (NotSent("p", "not_sent"), 0, 1),
            (NotStarted("p", "not_started"), 0, 0),
            (Unauthorized("p", "401"), 0, 1),
            (OutcomeUnknown("p", "no_answer"), 0, 1),
            (RateLimited("p", "429"), 0, 0),
            (BatchRejected("p", "400"), 0, 0),
            (PermanentError("p", "400"), 1, 0),
            (InvalidRecipient("p", "404"), 1, 0),
        ],
    )
    def test_only_trouble_of_the_provider_is_a_failure(
        self, error: ProviderError | None, successes: int, failures: int
    ):
        assert breaker.tally([Result("1", error=error, latency_s=0.1)]) == breaker.Tally(successes, failures)

    def test_what_was_never_sent_says_nothing(self):
        assert breaker.tally([Result("1", error=PermanentError("p", "too_long"))]) == breaker.Tally(0, 0)

    def test_messages_count_one_by_one(self):
        results = [Result(str(n), f"id-{n}", latency_s=0.1) for n in range(300)]
        results += [Result(str(n), error=TransientError("p", "503"), latency_s=0.1) for n in range(300, 500)]
        assert breaker.tally(results) == breaker.Tally(300, 200)

    def test_one_request_for_many_counts_ten_times_at_most(self):
        lost = OutcomeUnknown("p", "no_answer")
        results = [Result(str(n), error=lost, latency_s=2.0) for n in range(500)]
        results += [Result(str(n), "same-id", latency_s=0.2) for n in range(500, 900)]
        assert breaker.tally(results) == breaker.Tally(10, 10)


class TestOrders:
    def test_a_breaker_forced_open_refuses(self, alias: str):
        orders.order_breaker(alias=alias, state=ForcedState.OPEN, reason="maintenance", operator="ada")
        refused = breaker.admit(alias)
        assert not refused.is_allowed
        assert refused.retry_after_s == breaker.FORCED_RETRY_S
        view = breaker.look(alias)
        assert (view.state, view.is_forced, view.reason) == ("open", True, "maintenance")

    def test_a_breaker_forced_closed_admits_whatever_happens(self, alias: str):
        trip(alias)
        orders.order_breaker(alias=alias, state=ForcedState.CLOSED, reason="their monitor lies", operator="ada")
        admission = breaker.admit(alias)
        assert (admission.is_allowed, admission.is_probe) == (True, False)

    def test_the_last_order_counts_and_all_are_kept(self, alias: str):
        orders.order_breaker(alias=alias, state=ForcedState.OPEN, reason="maintenance", operator="ada")
        orders.order_breaker(alias=alias, state=ForcedState.AUTOMATIC, reason="done", operator="grace")
        assert breaker.admit(alias).is_allowed
        kept = BreakerOrder.objects.filter(provider=alias).values_list("state", "operator")
        assert list(kept) == [("automatic", "grace"), ("open", "ada")]

    @pytest.mark.parametrize("reason", ["", "  "])
    def test_an_order_needs_a_reason(self, alias: str, reason: str):
        with pytest.raises(ValidationError, match="reason"):
            orders.order_breaker(alias=alias, state=ForcedState.OPEN, reason=reason, operator="ada")


class TestFace:
    def test_listeners_hear_of_a_change_another_process_made(self, alias: str, clock: Clock):
        heard: list[tuple[str, str]] = []

        class Listener(breaker.CircuitBreakerListener):
            def state_change(self, cb, old_state, new_state) -> None:  # type: ignore[no-untyped-def]
                heard.append((old_state.name, new_state.name))

        breaker.face(alias).add_listener(Listener())
        BreakerStore(clock).run(alias, Operation.REPORT, TIMES, 0, MIN_VOLUME)
        assert not breaker.admit(alias).is_allowed
        clock.advance(5.0)
        breaker.admit(alias)
        breaker.report(alias, 5, 0, was_probe=True)
        assert heard == [("closed", "open"), ("open", "half-open"), ("half-open", "closed")]

    def test_open_and_close_work_for_the_whole_fleet(self, alias: str, monkeypatch: pytest.MonkeyPatch, clock: Clock):
        breaker.face(alias).open()
        other_process(monkeypatch, clock)
        assert not breaker.admit(alias).is_allowed
        assert breaker.face(alias).current_state == "open"
        breaker.face(alias).close()
        other_process(monkeypatch, clock)
        assert breaker.admit(alias).is_allowed


class TestStore:
    def test_python_and_lua_decide_alike(self, alias: str, clock: Clock, monkeypatch: pytest.MonkeyPatch):
        dice = random.Random(17)
        remote, local = BreakerStore(clock), dict[str, int]()
        for _ in range(600):
            clock.advance(dice.choice([0.0, 0.3, 1.0, 4.9, 15.0, 61.0]))
            op = dice.choice([*Operation] + [Operation.REPORT, Operation.ADMIT, Operation.PROBED] * 4)
            successes, failures = dice.choice([(0, 0), (3, 1), (0, 12), (9, 9), (1, 30)])
            view = remote.run(alias, op, TIMES, successes, failures)
            expected = step(local, op, TIMES, successes, failures, round(clock() * 1000))
            found = [view.is_allowed, view.is_probe, round(view.retry_after_s * 1000), view.successes, view.failures]
            assert found == [bool(expected[1]), bool(expected[2]), *expected[3:]]

    def test_the_servers_clock_is_the_default(self, alias: str):
        store = BreakerStore()
        store.run(alias, Operation.REPORT, TIMES, 1, MIN_VOLUME)
        assert 4.0 < store.run(alias, Operation.ADMIT, TIMES).retry_after_s <= 5.0

    @pytest.mark.usefixtures("away")
    def test_each_process_counts_for_itself_while_redis_is_away(self, alias: str, clock: Clock):
        trip(alias)
        assert not breaker.admit(alias).is_allowed
        clock.advance(5.0)
        assert breaker.admit(alias).is_probe

    def test_what_was_open_stays_open_when_redis_goes_away(
        self, alias: str, settings: Settings, request: pytest.FixtureRequest
    ):
        trip(alias)
        request.getfixturevalue("away")
        assert breaker.admit(alias).retry_after_s == pytest.approx(5.0)

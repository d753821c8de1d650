"""An opt-out that was answered is obeyed by every decision that begins after it, in every order of what a slow reader,
the opt-out and a sender do, with Redis flushed, stopped and started in between.

Reader and sender run the product's own code; it is held at its seams, which are what a switch of threads, a network
and a garbage collection can put anything between. "Every order" is every interleaving of these steps:

- the reader reads the version, asks the cache, reads PostgreSQL, writes the cache;
- the person's opt-out is written, is committed, and drops what is cached;
- the sender reads the version, asks the cache, reads PostgreSQL, writes the cache, and decides.

11! / (4! 3! 4!) = 11,550 orders, each once with all of them, or a sample (``tests/preferences/scale.py``).
"""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import combinations
from random import Random
from typing import Any

import pytest
from django.db import transaction
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from apps.channels import Channel
from apps.preferences import cache, flights, loading, selectors, services
from apps.preferences.categories import DEFAULT_RULES
from apps.preferences.policy import Action, Decision, Reason, decide
from tests.preferences.actors import Actor, pause
from tests.preferences.factories import RecipientFactory
from tests.preferences.scale import IS_FULL

SEED = 4
STEPS = {"reader": 4, "person": 3, "sender": 4}
COMMIT = 1  # the second of the person's steps
SAMPLE_EVERY = 11
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def every_order() -> Iterator[tuple[str, ...]]:
    """Every interleaving of the actors' steps."""
    places = range(sum(STEPS.values()))
    for readers in combinations(places, STEPS["reader"]):
        rest = [place for place in places if place not in readers]
        for persons in combinations(rest, STEPS["person"]):
            yield tuple(
                "reader" if place in readers else "person" if place in persons else "sender" for place in places
            )


class FlightsOfTheirOwn:
    """As if every actor were a process."""

    def board(self, keys: Any) -> tuple[list[str], dict[str, Any]]:
        return list(keys), {}

    def land(self, keys: Any, results: Any) -> None:
        pass


class Redises:
    """Lets the product reach its Redis, or nobody."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, redis: Redis) -> None:
        self._redis, self._nobody = redis, Redis(port=1, retry=Retry(NoBackoff(), 0))
        self._is_there = True
        real = cache._connection
        monkeypatch.setattr(cache, "_connection", lambda: real() if self._is_there else self._nobody)

    def play(self, event: str) -> None:
        match event:
            case "flush":
                self._redis.flushdb()
            case "stop":
                self._is_there = False
            case "start":
                self._is_there = True
                cache.availability.reset()  # the second for which it is remembered to be away is over


@pytest.fixture
def seams(monkeypatch: pytest.MonkeyPatch) -> None:
    """The product's code pauses before each of these calls; the calls are the real ones."""

    def held(call: Callable[..., Any]) -> Callable[..., Any]:
        def paused(*args: Any, **kwargs: Any) -> Any:
            pause()
            return call(*args, **kwargs)

        return paused

    for module, name in [
        (cache, "read_snapshots"),
        (loading, "_read_snapshots"),
        (cache, "write_snapshots"),
        (cache, "forget_snapshots"),
    ]:
        monkeypatch.setattr(module, name, held(getattr(module, name)))
    # Waiting for one another is a step like others here, not a stretch of time.
    real_wait = flights.Flight.wait
    monkeypatch.setattr(flights.Flight, "wait", held(lambda flight, timeout_s: real_wait(flight, 0)))
    monkeypatch.setattr(cache, "AWAIT_S", 0.0)


@pytest.fixture
def actors() -> Iterator[dict[str, Actor]]:
    cast = {name: Actor() for name in STEPS}
    yield cast
    for actor in cast.values():
        actor.dismiss()


def read(decisions: list[Decision]) -> None:
    """What reader and sender do: intake's and dispatch's way to a decision."""
    versions = {user_id: version for user_id, (_, version) in selectors.select_versions(["u"]).items()}
    snapshot = selectors.load_snapshots(versions)["u"]
    decisions.append(decide(snapshot, Channel.EMAIL, DEFAULT_RULES, NOW))


def opt_out() -> None:
    with transaction.atomic():
        services.update_preferences(user_id="u", is_opted_out=True)
        pause()


@pytest.mark.django_db(transaction=True)
def test_opt_out_is_obeyed_in_every_order(
    redis: Redis,
    seams: None,
    actors: dict[str, Actor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    RecipientFactory(user_id="u")
    redises, shared = Redises(monkeypatch, redis), loading._flights
    seen: Counter[str] = Counter()
    orders = list(every_order())
    assert len(orders) == 11_550
    for number, order in enumerate(orders):
        random = Random(f"{SEED}/{number}")
        if not IS_FULL and number % SAMPLE_EVERY:
            continue
        monkeypatch.setattr(loading, "_flights", random.choice([shared, FlightsOfTheirOwn()]))
        prepare(redis, is_warm=random.random() < 0.5)
        events = make_events(random, len(order))
        decisions = play(order, actors, redises, events)
        must_obey = committed_before_the_sender_began(order)
        story = (number, order, events)
        assert not must_obey or decisions[-1].reason is Reason.GLOBAL_OPT_OUT, story
        after: list[Decision] = []
        read(after)
        assert after[0].reason is Reason.GLOBAL_OPT_OUT, story
        seen[f"{decisions[-1].action.name}, {'after' if must_obey else 'before'}"] += 1
    assert seen[f"{Action.SEND.name}, after"] == 0
    assert min(seen[kind] for kind in ("SEND, before", "SUPPRESS, before", "SUPPRESS, after")) > 10, seen


def prepare(redis: Redis, *, is_warm: bool) -> None:
    redis.flushdb()
    cache.availability.reset()
    services.update_preferences(user_id="u", is_opted_out=False)
    if is_warm:
        read([])


def make_events(random: Random, steps: int) -> dict[int, str]:
    """What befalls Redis before which step: nothing, a flush, or an absence with or without loss of data."""
    events: dict[int, str] = {}
    match random.randrange(4):
        case 1:
            events[random.randrange(steps)] = "flush"
        case 2 | 3 as kind:
            stop, start = sorted(random.sample(range(steps + 1), 2))
            events |= {stop: "stop", start: "start"}
            if kind == 3:
                events[start - 1] = events.get(start - 1, "flush")
    return events


def play(order: tuple[str, ...], actors: dict[str, Actor], redises: Redises, events: dict[int, str]) -> list[Decision]:
    """Plays one order; returns what the sender decided."""
    decisions: list[Decision] = []
    actors["reader"].give(lambda: read([]))
    actors["person"].give(opt_out)
    actors["sender"].give(lambda: read(decisions))
    for place, name in enumerate(order):
        redises.play(events.get(place, ""))
        actors[name].step()
    for actor in actors.values():
        actor.finish()
    redises.play(events.get(len(order), ""))
    return decisions


def committed_before_the_sender_began(order: tuple[str, ...]) -> bool:
    """The commit comes before the sender's reading of the version: from then on it must be obeyed."""
    commit = [place for place, name in enumerate(order) if name == "person"][COMMIT]
    return commit < order.index("sender")

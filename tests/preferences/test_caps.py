from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from pytest_django.fixtures import Settings
from redis import Redis

from apps import redis_script
from apps.channels import Channel
from apps.preferences import caps
from apps.preferences.caps import CapRequest, peek_usage, take_caps
from apps.preferences.categories import Cap, CategoryRules, Kind
from apps.preferences.policy import Usage

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
THREE_A_DAY = CategoryRules(id=7, key="news", cap=Cap(3, timedelta(days=1)))


def request(
    rules: CategoryRules = THREE_A_DAY,
    *,
    recipient: int = 1,
    channel: Channel = Channel.SMS,
    message: UUID | None = None,
) -> CapRequest:
    return CapRequest(recipient, channel, rules, message or uuid4())


def take(rules: CategoryRules = THREE_A_DAY, now: datetime = NOW, **fields: object) -> Usage | None:
    (usage,) = take_caps([request(rules, **fields)], now)  # type: ignore[arg-type]
    return usage


@pytest.fixture(autouse=True)
def _redis_is_known_to_be_there() -> Iterator[None]:
    yield
    redis_script.availability.record(is_away=False)


def test_messages_within_the_period_are_counted_and_the_first_to_leave_it_makes_room() -> None:
    assert [take(now=NOW + number * HOUR) for number in range(3)] == [Usage(0), Usage(1), Usage(2)]
    assert take(now=NOW + 5 * HOUR) == Usage(3, NOW + 24 * HOUR)
    assert take(now=NOW + 24 * HOUR - timedelta(milliseconds=1)) == Usage(3, NOW + 24 * HOUR)
    assert take(now=NOW + 24 * HOUR) == Usage(2)
    assert take(now=NOW + 24 * HOUR) == Usage(3, NOW + 25 * HOUR)


def test_message_tried_again_is_counted_once() -> None:
    message = uuid4()
    for number in range(5):
        assert take(message=message, now=NOW + number * HOUR) == Usage(0)
    assert take() == Usage(1)
    assert take() == Usage(2)
    assert take() == Usage(3, NOW + 24 * HOUR)
    assert take(message=message).count < 3  # it has its place, full or not


def test_batch_is_counted_in_its_order() -> None:
    message = uuid4()
    batch = [request(message=message), request(), request(message=message), request(), request(), request(recipient=2)]
    assert [usage and usage.count for usage in take_caps(batch, NOW)] == [0, 1, 1, 2, 3, 0]


def test_recipients_channels_and_categories_are_counted_apart() -> None:
    other = CategoryRules(id=8, key="offers", cap=THREE_A_DAY.cap)
    assert {take(recipient=n) for n in range(5)} == {Usage(0)}
    assert {take(channel=channel, recipient=9) for channel in Channel} == {Usage(0)}
    assert take(other, recipient=9) == Usage(0)
    assert take(recipient=9) == Usage(1)


def test_looking_does_not_count() -> None:
    for _ in range(5):
        assert peek_usage([request()], NOW) == [Usage(0)]
    for _ in range(3):
        take()
    assert peek_usage([request()], NOW) == [Usage(3, NOW + 24 * HOUR)]


def test_lowered_cap_waits_for_as_many_as_are_too_many() -> None:
    for number in range(3):
        take(now=NOW + number * HOUR)
    one_a_day = CategoryRules(id=7, key="news", cap=Cap(1, timedelta(days=1)))
    assert take(one_a_day, NOW + 3 * HOUR) == Usage(3, NOW + 26 * HOUR)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The keys of each call to Redis. (The server's own count has the other threads' commands in it.)"""
    calls: list[list[str]] = []
    script = caps._COUNT

    class Counted:
        def run(self, keys: list[str], arguments: list[str | float]) -> object:
            calls.append(keys)
            return script.run(keys, arguments)

    monkeypatch.setattr(caps, "_COUNT", Counted())
    return calls


def test_nothing_is_asked_where_nothing_is_capped(asked: list[list[str]]) -> None:
    critical = CategoryRules(id=7, key="news", kind=Kind.CRITICAL, cap=Cap(1, timedelta(days=1)))
    uncapped = CategoryRules(id=8, key="offers")
    assert take_caps([request(critical), request(uncapped)], NOW) == [None, None]
    assert take_caps([], NOW) == []
    assert asked == []
    assert take_caps([request(uncapped), request()], NOW) == [None, Usage(0)]


def test_batch_takes_one_round_trip(asked: list[list[str]]) -> None:
    take_caps([request(recipient=n) for n in range(500)], NOW)
    assert [len(keys) for keys in asked] == [500]


def test_counts_go_with_their_period_and_name_nobody(redis: Redis) -> None:
    take()
    (key,) = redis.keys("cap:*")
    assert key == b"cap:7:2:1"
    assert 86_390 < redis.ttl(key) <= 86_400


def test_nothing_is_capped_while_redis_is_away(settings: Settings) -> None:
    for _ in range(3):
        take()
    settings.CACHES = {"default": settings.CACHES["default"] | {"LOCATION": "redis://127.0.0.1:1/0"}}
    assert take() is None
    assert peek_usage([request()], NOW) == [None]


def test_flushed_redis_begins_anew(redis: Redis) -> None:
    for _ in range(4):
        take()
    redis.flushdb()
    assert take() == Usage(0)

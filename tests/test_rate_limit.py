"""apps/rate_limit.py on a real Valkey, and with it away."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from django_redis import get_redis_connection
from pytest_django import Settings

from apps import rate_limit, redis_script
from apps.rate_limit import Quota, decide, take, take_many

CLOSED_PORT_URL = "redis://127.0.0.1:1/0"
SLOW = 0.001  # tokens per second: nothing refills during a test


@pytest.fixture
def key() -> str:
    return f"test:{uuid4()}"


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No bucket of its own yet, and no memory of a store that was away."""
    monkeypatch.setattr(redis_script, "availability", redis_script.Availability())
    monkeypatch.setattr(rate_limit, "_local", rate_limit._LocalBuckets())


@pytest.fixture
def away(settings: Settings) -> None:
    settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": CLOSED_PORT_URL}}
    settings.RATE_LIMIT_LOCAL_SHARE = 0.5


def test_burst_passes_and_the_next_is_refused(key: str) -> None:
    decisions = [take(key, 1, SLOW, 3) for _ in range(4)]
    assert [decision.allowed for decision in decisions] == [True, True, True, False]
    assert [decision.remaining for decision in decisions] == [2, 1, 0, 0]


def test_refusal_says_when_a_retry_passes(key: str) -> None:
    take(key, 10, 2.0, 10)
    refused = take(key, 4, 2.0, 10)
    assert not refused.allowed
    assert refused.granted == 0
    assert refused.retry_after_s == pytest.approx(4 / 2.0, abs=0.1)
    assert refused.reset_s == pytest.approx(10 / 2.0, abs=0.1)


def test_refused_call_takes_nothing(key: str) -> None:
    take(key, 2, SLOW, 3)
    assert not take(key, 2, SLOW, 3).allowed
    assert take(key, 1, SLOW, 3).allowed


def test_bucket_refills_at_the_rate(key: str) -> None:
    take(key, 5, 1000.0, 5)
    deadline = time.monotonic() + 5
    while not take(key, 5, 1000.0, 5).allowed:
        assert time.monotonic() < deadline


def test_cost_above_the_burst_passes_on_a_full_bucket_and_is_paid_off(key: str) -> None:
    large = take(key, 30, 10.0, 10)
    assert large.allowed
    assert large.remaining == 0
    assert take(key, 1, 10.0, 10).retry_after_s == pytest.approx((30 - 10 + 1) / 10.0, abs=0.1)


def test_refusal_by_one_of_several_quotas_takes_from_none(key: str) -> None:
    wide, narrow = Quota(f"{key}:wide", SLOW, 100), Quota(f"{key}:narrow", SLOW, 2)
    assert take_many([wide, narrow], count=2).key == narrow.key
    refused = take_many([wide, narrow], count=1)
    assert not refused.allowed
    assert refused.key == narrow.key
    assert take(wide.key, 1, SLOW, 100).remaining == 100 - 2 - 1


def test_partial_take_grants_what_every_quota_has_room_for(key: str) -> None:
    requests, segments = Quota(f"{key}:requests", SLOW, 100), Quota(f"{key}:segments", SLOW, 30, cost=3)
    granted = take_many([requests, segments], count=50, partial=True)
    assert (granted.granted, granted.key, granted.remaining) == (10, segments.key, 0)
    assert take_many([requests, segments], count=1, partial=True).granted == 0
    assert take(requests.key, 1, SLOW, 100).remaining == 100 - 10 - 1


def test_threads_never_take_more_than_the_burst(key: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        allowed = sum(pool.map(lambda _: take(key, 1, SLOW, 25).allowed, range(100)))
    assert allowed == 25


def test_script_is_loaded_again_after_the_server_forgot_it(key: str) -> None:
    get_redis_connection("default").script_flush()
    assert take(key, 1, SLOW, 2).remaining == 1


def test_bucket_expires_once_it_is_full(key: str) -> None:
    take(key, 10, 5.0, 10)
    ttl_ms = get_redis_connection("default").pttl(rate_limit.KEY_PREFIX + key)
    assert 2_000 < ttl_ms <= 3_000


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize(
    ("quotas", "counts"),
    [
        ([Quota("a", SLOW, 10)], [3, 4, 5, 1]),
        ([Quota("a", SLOW, 10, cost=3)], [2, 2, 1]),
        ([Quota("a", SLOW, 5), Quota("b", SLOW, 8, cost=2)], [3, 3, 1]),
        ([Quota("a", SLOW, 4)], [9, 1]),
        ([Quota("a", SLOW, 4, cost=9)], [2, 1]),
    ],
)
def test_python_and_lua_decide_alike(key: str, quotas: list[Quota], counts: list[int], *, partial: bool) -> None:
    named = [Quota(f"{key}:{quota.key}", quota.rate_per_s, quota.burst, quota.cost) for quota in quotas]
    debts_us = [0.0 for _ in named]
    for count in counts:
        shared = take_many(named, count=count, partial=partial)
        granted, tightest, remaining, retry_us, reset_us = decide(named, debts_us, count, partial)
        debts_us = [
            debt + granted * quota.cost * 1e6 / quota.rate_per_s for quota, debt in zip(named, debts_us, strict=True)
        ]
        assert (shared.granted, shared.key, shared.remaining) == (granted, named[tightest - 1].key, remaining)
        assert shared.retry_after_s == pytest.approx(retry_us / 1e6, abs=5)
        assert shared.reset_s == pytest.approx(reset_us / 1e6, abs=5)


@pytest.mark.usefixtures("away")
def test_limit_holds_at_the_local_share_while_redis_is_away(key: str) -> None:
    assert sum(take(key, 1, SLOW, 10).allowed for _ in range(20)) == 5


@pytest.mark.usefixtures("away")
def test_cost_above_the_local_share_still_passes_once_the_bucket_is_full(key: str) -> None:
    assert take(key, 8, SLOW, 10).allowed
    assert not take(key, 1, SLOW, 10).allowed


@pytest.mark.usefixtures("away")
def test_only_one_caller_a_second_asks_a_store_that_is_away(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = redis_script.get_redis_connection
    monkeypatch.setattr(redis_script, "get_redis_connection", lambda alias: asked.append(alias) or real(alias))
    for _ in range(50):
        take(key, 1, SLOW, 10)
    assert len(asked) == 1


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_silent_store_costs_one_time_out(key: str, silent_port: int, settings: Settings) -> None:
    settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": f"redis://127.0.0.1:{silent_port}/0"}}
    started = time.monotonic()
    for _ in range(20):
        take(key, 1, SLOW, 10)
    assert time.monotonic() - started < 1.5


def test_store_that_came_back_is_used_again(key: str) -> None:
    availability = redis_script.availability
    availability.record(is_away=True)
    assert not availability.may_try()
    availability._retry_at = 0.0
    assert take(key, 1, SLOW, 10).remaining == 9
    assert availability.may_try()
    assert get_redis_connection("default").exists(rate_limit.KEY_PREFIX + key)


@pytest.mark.parametrize(("rate", "burst", "cost"), [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_impossible_quota_is_a_clear_error(rate: float, burst: int, cost: int) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Quota("k", rate, burst, cost)

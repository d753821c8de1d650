"""apps/providers/quotas.py on a real Valkey, and with it away."""

from typing import Any
from uuid import uuid4

import pytest
from pytest_django.fixtures import Settings

from apps import rate_limit, redis_script
from apps.providers import quotas
from apps.providers.errors import RateLimited, RecipientRateLimited, TransientError
from apps.providers.messages import Result

CLOSED_PORT_URL = "redis://127.0.0.1:1/0"


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_script, "availability", redis_script.Availability())
    monkeypatch.setattr(rate_limit, "_local", rate_limit._LocalBuckets())


@pytest.fixture
def alias() -> str:
    return f"test-{uuid4()}"


@pytest.fixture
def limit(settings: Settings, alias: str) -> Any:
    def limit(**quota: int) -> None:
        settings.PROVIDERS = {alias: {"id": 1, "adapter": "", "options": {}, "quota": quota}}

    return limit


@pytest.fixture
def away(settings: Settings) -> None:
    settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": CLOSED_PORT_URL}}
    settings.RATE_LIMIT_LOCAL_SHARE = 0.25


def test_a_group_gets_what_there_is(limit: Any, alias: str):
    limit(per_second=30)
    assert quotas.take(alias, 20) == quotas.QuotaGrant(20)
    grant = quotas.take(alias, 50)
    assert 10 <= grant.granted < 20
    assert 0 < grant.retry_after_s <= 0.05
    assert grant.interval_s == pytest.approx(1 / 30)


def test_what_got_nothing_comes_back_spread_out():
    grant = quotas.QuotaGrant(0, retry_after_s=2.0, interval_s=0.5)
    assert [grant.delay_s(position) for position in range(3)] == [2.0, 2.5, 3.0]


def test_the_minute_limits_as_well(limit: Any, alias: str):
    limit(per_second=1_000, per_minute=60)
    assert quotas.take(alias, 100).granted == 6
    refused = quotas.take(alias, 100)
    assert refused.granted == 0
    assert refused.retry_after_s == pytest.approx(60 / 54, abs=0.1)


def test_a_minute_of_any_beginning_holds_no_more_than_the_quota(limit: Any, alias: str):
    limit(per_minute=600_000)
    [_, minute] = quotas.quotas_of(alias)
    assert minute.burst + minute.rate_per_s * 60 == pytest.approx(600_000)


@pytest.mark.parametrize("quota", [{}, {"per_second": 0, "per_minute": 0}])
def test_an_account_without_quotas_is_not_held_up(limit: Any, alias: str, quota: dict[str, int]):
    limit(**quota)
    assert quotas.take(alias, 100_000).granted == 100_000


@pytest.mark.parametrize("quota", [{}, {"per_second": 100}, {"per_second": 100, "per_minute": 600}])
def test_a_pause_holds_everybody_up_for_so_long(
    limit: Any, alias: str, quota: dict[str, int], monkeypatch: pytest.MonkeyPatch
):
    limit(**quota)
    quotas.pause(alias, 40.0)
    monkeypatch.setattr(rate_limit, "_local", rate_limit._LocalBuckets())  # another process
    refused = quotas.take(alias, 10)
    assert refused.granted == 0
    assert refused.retry_after_s == pytest.approx(40.0, abs=0.5)


def test_a_shorter_pause_does_not_end_a_longer_one(limit: Any, alias: str):
    limit(per_second=10)
    quotas.pause(alias, 40.0)
    quotas.pause(alias, 1.0)
    assert quotas.take(alias, 1).retry_after_s == pytest.approx(40.0, abs=0.5)


def test_nobody_is_paused_for_more_than_an_hour(limit: Any, alias: str):
    limit()
    quotas.pause(alias, 1e9)
    assert quotas.take(alias, 1).retry_after_s == pytest.approx(3_600.0, abs=0.5)


def results(*errors: Exception | None) -> list[Result]:
    return [Result(str(number), error=error) for number, error in enumerate(errors)]  # type: ignore[arg-type]


def test_a_throttled_account_is_paused_for_the_longest_it_asked_for(limit: Any, alias: str):
    limit()
    quotas.obey(alias, results(RateLimited("p", "429", retry_after_s=5.0), RateLimited("p", "429", retry_after_s=9.0)))
    assert quotas.take(alias, 1).retry_after_s == pytest.approx(9.0, abs=0.5)


def test_a_throttle_without_a_time_pauses_for_a_second(limit: Any, alias: str):
    limit()
    quotas.obey(alias, results(RateLimited("p", "429")))
    assert quotas.take(alias, 1).retry_after_s == pytest.approx(quotas.DEFAULT_PAUSE_S, abs=0.5)


@pytest.mark.parametrize(
    "errors",
    [
        [],
        [None, TransientError("p", "503", retry_after_s=60.0)],
        [RateLimited("p", "429", retry_after_s=60.0), None, None],
        [RecipientRateLimited("p", "429", retry_after_s=60.0)],
    ],
)
def test_one_busy_device_does_not_pause_the_account(limit: Any, alias: str, errors: list[Exception | None]):
    limit()
    quotas.obey(alias, results(*errors))
    assert quotas.take(alias, 1).granted == 1


def test_use_is_that_of_the_tightest_quota(limit: Any, alias: str):
    limit(per_second=1_000, per_minute=1_000)
    assert quotas.used_share(alias) == 0.0
    quotas.take(alias, 50)
    assert quotas.used_share(alias) == pytest.approx(0.5, abs=0.05)


@pytest.mark.usefixtures("away")
class TestWithoutRedis:
    def test_each_process_keeps_to_its_share(self, limit: Any, alias: str):
        limit(per_second=40)
        assert quotas.take(alias, 100).granted == 10

    def test_a_pause_is_kept_in_mind(self, limit: Any, alias: str):
        limit(per_second=40)
        quotas.pause(alias, 30.0)
        refused = quotas.take(alias, 1)
        assert refused.granted == 0
        assert refused.retry_after_s == pytest.approx(30.0, abs=0.5)

    def test_use_is_not_known(self, limit: Any, alias: str):
        limit(per_second=40)
        assert quotas.used_share(alias) is None

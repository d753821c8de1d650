"""Rate tiers and the headers that announce them."""

import pytest
from django.test import Client as HttpClient

from apps.clients.models import RateTier
from tests.clients.factories import make_api_key, make_client

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.clients.urls")]


@pytest.fixture
def headers() -> dict[str, str]:
    RateTier.objects.create(name="tiny tier", requests_per_s=0.1, burst=3)
    return {"X-API-Key": make_api_key(make_client(tier="tiny tier"))}


def test_beyond_the_burst_is_429_with_retry_after(client: HttpClient, headers: dict[str, str]) -> None:
    answers = [client.get("/v1/who", headers=headers) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    refused = answers[-1]
    assert refused.json()["type"] == "/problems/rate-limited"
    assert 9 <= int(refused["Retry-After"]) <= 10
    assert refused["RateLimit-Policy"] == '"tiny-tier";q=3;w=30'
    assert refused["RateLimit"] == f'"tiny-tier";r=0;t={refused["Retry-After"]}'


def test_success_announces_what_is_left(client: HttpClient, headers: dict[str, str]) -> None:
    answer = client.get("/v1/who", headers=headers)
    assert answer["RateLimit-Policy"] == '"tiny-tier";q=3;w=30'
    assert answer["RateLimit"] == '"tiny-tier";r=2;t=10'


def test_batch_is_charged_by_its_items(client: HttpClient, headers: dict[str, str]) -> None:
    body = {"items": 3}
    answer = client.post("/v1/who", body, content_type="application/json", headers=headers)
    assert answer.status_code == 200
    assert answer["RateLimit"].startswith('"tiny-tier";r=0')
    again = client.post("/v1/who", {"items": 1}, content_type="application/json", headers=headers)
    assert again.status_code == 429


def test_batch_beyond_what_is_left_is_refused(client: HttpClient, headers: dict[str, str]) -> None:
    client.get("/v1/who", headers=headers)
    answer = client.post("/v1/who", {"items": 3}, content_type="application/json", headers=headers)
    assert answer.status_code == 429
    assert answer["Retry-After"]


def test_one_client_does_not_use_up_another_s_bucket(client: HttpClient, headers: dict[str, str]) -> None:
    other = {"X-API-Key": make_api_key(make_client(tier="tiny tier"))}
    for _ in range(4):
        client.get("/v1/who", headers=headers)
    assert client.get("/v1/who", headers=other).status_code == 200


def test_keys_of_a_client_share_its_bucket(client: HttpClient) -> None:
    RateTier.objects.create(name="one", requests_per_s=0.1, burst=1)
    owner = make_client(tier="one")
    assert client.get("/v1/who", headers={"X-API-Key": make_api_key(owner)}).status_code == 200
    assert client.get("/v1/who", headers={"X-API-Key": make_api_key(owner)}).status_code == 429


def test_unlimited_tier_has_no_limit_and_no_headers(client: HttpClient) -> None:
    headers = {"X-API-Key": make_api_key(make_client(tier="unlimited"))}
    answers = [client.get("/v1/who", headers=headers) for _ in range(20)]
    assert {answer.status_code for answer in answers} == {200}
    assert "RateLimit" not in answers[0]


def test_open_view_is_not_limited(client: HttpClient) -> None:
    answer = client.get("/v1/open")
    assert answer.status_code == 200
    assert "RateLimit" not in answer


def test_cache_away_limits_locally_and_answers(client: HttpClient, headers: dict[str, str], settings) -> None:
    settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": "redis://127.0.0.1:1/0"}}
    settings.RATE_LIMIT_LOCAL_SHARE = 0.5
    answers = [client.get("/v1/who", headers=headers).status_code for _ in range(4)]
    assert answers == [200, 200, 429, 429]


@pytest.mark.parametrize(
    ("name", "burst", "is_unlimited"), [("standard", 200, False), ("high", 2000, False), ("unlimited", 200, True)]
)
def test_tiers_are_there_from_the_first_migration(name: str, burst: int, *, is_unlimited: bool) -> None:
    tier = RateTier.objects.get(name=name)
    assert (tier.burst, tier.is_unlimited) == (burst, is_unlimited)

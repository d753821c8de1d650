"""API keys through the whole stack."""

from datetime import timedelta

import pytest
from django.test import Client as HttpClient
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from apps.clients import selectors, services
from apps.clients.keys import make_api_key as make_key_text
from apps.clients.models import ApiKey
from tests.clients.factories import make_api_key, make_client

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.clients.urls")]


@pytest.mark.parametrize(
    ("header", "pattern"),
    [
        ("Authorization", "Api-Key {}"),
        ("Authorization", "api-key  {}"),
        ("Authorization", "Bearer {}"),
        ("X-API-Key", "{}"),
    ],
)
def test_key_is_accepted_in_each_header(client: HttpClient, header: str, pattern: str) -> None:
    owner = make_client()
    answer = client.get("/v1/who", headers={header: pattern.format(make_api_key(owner))})
    assert answer.status_code == 200
    assert answer.json()["client"] == owner.name


@pytest.mark.parametrize(
    "header",
    [
        {"Authorization": "Api-Key"},
        {"Authorization": "Api-Key nonsense"},
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"Authorization": "Bearer a.b"},
        {"Authorization": "Bearer ..."},
        {"Authorization": ""},
        {"X-API-Key": ""},
        {"X-API-Key": "nk_" + "a" * 12 + "." + "b" * 43},
        {"X-API-Key": "nk_" + "a" * 12 + "." + "b" * 43 + "\n"},
        {"X-API-Key": "nk_ÄÄÄÄÄÄÄÄÄÄÄÄ." + "b" * 43},
        {"X-API-Key": "x" * 100_000},
        {"X-API-Key": "nk_\x00"},
    ],
)
def test_bad_credential_is_401_with_a_challenge(client: HttpClient, header: dict[str, str]) -> None:
    answer = client.get("/v1/who", headers=header)
    assert answer.status_code == 401
    assert answer["Content-Type"] == "application/problem+json"
    assert answer.json()["type"] == "/problems/unauthenticated"
    assert 'error="invalid_token"' in answer["WWW-Authenticate"]


def test_no_credential_is_401(client: HttpClient) -> None:
    answer = client.get("/v1/who")
    assert answer.status_code == 401
    assert answer["WWW-Authenticate"] == 'Bearer realm="notify", Api-Key realm="notify"'


def test_two_credentials_are_refused(client: HttpClient) -> None:
    key = make_api_key(make_client())
    assert client.get("/v1/who", headers={"Authorization": f"Bearer {key}", "X-API-Key": key}).status_code == 401


def test_right_prefix_with_a_wrong_secret_is_refused(client: HttpClient) -> None:
    key = make_api_key(make_client())
    forged = key[:-43] + ("a" * 43)
    assert client.get("/v1/who", headers={"X-API-Key": forged}).status_code == 401


def test_pepper_of_another_installation_opens_nothing(client: HttpClient, settings) -> None:
    key = make_api_key(make_client())
    settings.API_KEY_PEPPER = "another"
    assert client.get("/v1/who", headers={"X-API-Key": key}).status_code == 401


def test_expired_key_is_refused_even_out_of_the_cache(client: HttpClient) -> None:
    issued = services.issue_api_key(client=make_client(), expires_at=timezone.now() + timedelta(hours=1))
    now = timezone.now()
    assert selectors.find_api_key(issued.text, now=now) is not None
    assert selectors.find_api_key(issued.text, now=now + timedelta(hours=2)) is None


def test_revoked_key_is_refused_once_the_cache_has_aged(client: HttpClient, monkeypatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(selectors._api_keys, "_clock", lambda: clock[0])
    monkeypatch.setattr(selectors._misses, "_clock", lambda: clock[0])
    issued = services.issue_api_key(client=make_client())
    assert client.get("/v1/who", headers={"X-API-Key": issued.text}).status_code == 200
    services.revoke_api_key(prefix=issued.key.prefix, now=timezone.now())
    clock[0] += selectors.CREDENTIAL_TTL_S
    assert selectors.CREDENTIAL_TTL_S <= 5
    assert client.get("/v1/who", headers={"X-API-Key": issued.text}).status_code == 401


def test_revoking_again_keeps_the_first_time() -> None:
    issued = services.issue_api_key(client=make_client())
    first = timezone.now() - timedelta(days=1)
    services.revoke_api_key(prefix=issued.key.prefix, now=first)
    assert services.revoke_api_key(prefix=issued.key.prefix, now=timezone.now()).revoked_at == first


def test_inactive_client_is_refused(client: HttpClient) -> None:
    owner = make_client()
    key = make_api_key(owner)
    owner.is_active = False
    owner.save()
    assert client.get("/v1/who", headers={"X-API-Key": key}).status_code == 401


def test_known_key_costs_no_query_while_cached(
    client: HttpClient, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    key = make_api_key(make_client())
    with django_assert_num_queries(2):  # the key with client and tier; its last use
        client.get("/v1/who", headers={"X-API-Key": key})
    with django_assert_num_queries(0):
        client.get("/v1/who", headers={"X-API-Key": key})


def test_unknown_key_costs_one_query_while_cached(
    client: HttpClient, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    unknown = make_key_text("pepper").text
    with django_assert_num_queries(1):
        for _ in range(3):
            client.get("/v1/who", headers={"X-API-Key": unknown})


def test_database_holds_no_key(client: HttpClient) -> None:
    issued = services.issue_api_key(client=make_client())
    row = ApiKey.objects.values_list().get(pk=issued.key.pk)
    secret = issued.text.partition(".")[2]
    assert all(secret not in str(bytes(value) if isinstance(value, memoryview) else value) for value in row)
    assert secret not in repr(issued)


def test_last_use_is_recorded_at_most_once_a_minute() -> None:
    issued = services.issue_api_key(client=make_client())
    now = timezone.now()
    for seconds in (0, 30, 59, 61):
        selectors.forget_credentials()
        services._recorded_uses.clear()
        credential = selectors.find_api_key(issued.text, now=now)
        assert credential is not None
        services.record_key_use(credential=credential, now=now + timedelta(seconds=seconds))
        used = ApiKey.objects.get(pk=issued.key.pk).last_used_at
        assert used == now + timedelta(seconds=61 if seconds == 61 else 0)


def test_flood_of_invented_keys_does_not_push_a_good_one_out(
    client: HttpClient, django_assert_num_queries: DjangoAssertNumQueries, monkeypatch
) -> None:
    monkeypatch.setattr(selectors._misses, "_max_size", 10)
    key = make_api_key(make_client())
    client.get("/v1/who", headers={"X-API-Key": key})
    for _ in range(50):
        selectors.find_api_key(make_key_text("pepper").text, now=timezone.now())
    assert len(selectors._misses) == 10
    with django_assert_num_queries(0):
        client.get("/v1/who", headers={"X-API-Key": key})

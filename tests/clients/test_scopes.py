"""What a client may call."""

import pytest
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.test import Client as HttpClient

from tests.clients.factories import make_api_key, make_client

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.clients.urls")]


def test_missing_scope_is_403_that_names_it(client: HttpClient) -> None:
    key = make_api_key(make_client(scopes=["notifications:write"]))
    answer = client.get("/v1/who", headers={"X-API-Key": key})
    assert answer.status_code == 403
    assert answer.json()["type"] == "/problems/insufficient-scope"
    assert "notifications:read" in answer.json()["detail"]
    assert 'scope="notifications:read"' in answer["WWW-Authenticate"]


def test_head_needs_what_get_needs(client: HttpClient) -> None:
    key = make_api_key(make_client(scopes=["notifications:write"]))
    assert client.head("/v1/who", headers={"X-API-Key": key}).status_code == 403


def test_method_the_view_lacks_is_405_not_403(client: HttpClient) -> None:
    key = make_api_key(make_client(scopes=[]))
    answer = client.patch("/v1/who", headers={"X-API-Key": key})
    assert answer.status_code == 405
    assert answer.json()["type"] == "/problems/method-not-allowed"
    assert "POST" in answer["Allow"]


def test_view_that_declares_no_scope_answers_nobody(client: HttpClient) -> None:
    key = make_api_key(make_client())
    with pytest.raises(ImproperlyConfigured, match="UndeclaredView"):
        client.get("/v1/undeclared", headers={"X-API-Key": key})


def test_client_cannot_be_given_an_unknown_scope() -> None:
    with pytest.raises(ValidationError, match="not a valid choice"):
        make_client(scopes=["everything"])

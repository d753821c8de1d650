"""Clients and keys in Django admin."""

import re

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client as HttpClient
from django.urls import reverse
from django.utils import timezone

from apps.clients import selectors, services
from apps.clients.models import ApiKey, Client, JwtKey, RateTier
from tests.clients.factories import make_client

pytestmark = pytest.mark.django_db


def history(model: str) -> list[str]:
    return [entry.get_change_message() for entry in LogEntry.objects.filter(content_type__model=model)]


def test_client_is_made_with_ticked_scopes(admin_client: HttpClient) -> None:
    answer = admin_client.post(
        reverse("admin:clients_client_add"),
        {
            "name": "shop",
            "is_active": "on",
            "scopes": ["notifications:write", "preferences:read"],
            "tier": RateTier.objects.get(name="standard").pk,
            "weight": 2,
            **{
                f"{prefix}-{field}": 0
                for prefix in ("api_keys", "jwt_keys")
                for field in ("TOTAL_FORMS", "INITIAL_FORMS")
            },
        },
    )
    assert answer.status_code == 302
    assert Client.objects.get(name="shop").scopes == ["notifications:write", "preferences:read"]


def test_new_key_is_shown_once_and_logged_by_prefix(admin_client: HttpClient) -> None:
    owner = make_client()
    address = reverse("admin:clients_client_new_api_key", args=[owner.pk])
    assert address in admin_client.get(reverse("admin:clients_client_change", args=[owner.pk])).content.decode()
    assert admin_client.get(address).status_code == 200
    assert not ApiKey.objects.exists()

    answer = admin_client.post(address, {"expires_at_0": "", "expires_at_1": ""})
    key = ApiKey.objects.get()
    shown = re.search(rf'value="({key.prefix}\.[^"]+)"', answer.content.decode())
    assert shown is not None
    assert "no-store" in answer["Cache-Control"]
    assert selectors.find_api_key(shown[1], now=timezone.now()) is not None
    assert history("client") == [f"Made API key {key.prefix}."]
    secret = shown[1].partition(".")[2]
    for page in (
        reverse("admin:clients_client_change", args=[owner.pk]),
        reverse("admin:clients_apikey_changelist"),
        reverse("admin:clients_apikey_change", args=[key.pk]),
        reverse("admin:clients_client_history", args=[owner.pk]),
    ):
        content = admin_client.get(page).content.decode()
        assert secret not in content
        assert key.prefix in content


def test_wrong_expiry_makes_no_key(admin_client: HttpClient) -> None:
    address = reverse("admin:clients_client_new_api_key", args=[make_client().pk])
    answer = admin_client.post(address, {"expires_at_0": "soon", "expires_at_1": ""})
    assert answer.status_code == 200
    assert not ApiKey.objects.exists()


def test_key_is_revoked_and_the_history_says_so(admin_client: HttpClient) -> None:
    issued = services.issue_api_key(client=make_client())
    data = {"action": "revoke", "_selected_action": [issued.key.pk]}
    admin_client.post(reverse("admin:clients_apikey_changelist"), data)
    assert ApiKey.objects.get().revoked_at is not None
    assert history("apikey") == ["Revoked."]


def test_keys_are_neither_added_nor_deleted_by_hand(admin_client: HttpClient) -> None:
    issued = services.issue_api_key(client=make_client())
    assert admin_client.get(reverse("admin:clients_apikey_add")).status_code == 403
    assert admin_client.post(reverse("admin:clients_apikey_delete", args=[issued.key.pk])).status_code == 403


def test_hs256_secret_is_shown_once(admin_client: HttpClient) -> None:
    owner = make_client()
    data = {"client": owner.pk, "kid": "h1", "algorithm": "HS256", "public_key_pem": "", "jwks_file": "", "issuer": ""}
    answer = admin_client.post(reverse("admin:clients_jwtkey_add"), data)
    key = JwtKey.objects.get()
    secret = services.reveal_hs256_secret(key)
    assert f'value="{secret}"' in answer.content.decode()
    assert "no-store" in answer["Cache-Control"]
    page = admin_client.get(reverse("admin:clients_jwtkey_change", args=[key.pk])).content.decode()
    assert secret not in page
    assert "h1" in page


def test_unusable_public_key_is_refused_in_the_form(admin_client: HttpClient) -> None:
    data = {"client": make_client().pk, "kid": "k", "algorithm": "RS256", "public_key_pem": "x"}
    answer = admin_client.post(reverse("admin:clients_jwtkey_add"), data)
    assert "Not a public key in PEM form" in answer.content.decode()
    assert not JwtKey.objects.exists()


def test_jwt_key_is_revoked_and_the_history_says_so(admin_client: HttpClient) -> None:
    key = services.register_jwt_key(client=make_client(), kid="h1", algorithm="HS256").key
    admin_client.post(reverse("admin:clients_jwtkey_changelist"), {"action": "revoke", "_selected_action": [key.pk]})
    assert JwtKey.objects.get().revoked_at is not None
    assert history("jwtkey") == ["Revoked."]


def test_staff_without_the_right_make_no_key(client: HttpClient) -> None:
    staff = User.objects.create_user("staff", password="a password of some length", is_staff=True)
    client.force_login(staff)
    address = reverse("admin:clients_client_new_api_key", args=[make_client().pk])
    assert client.post(address, {}).status_code == 403
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize("model", ["client", "apikey", "jwtkey", "ratetier"])
def test_lists_open(admin_client: HttpClient, model: str) -> None:
    owner = make_client()
    services.issue_api_key(client=owner)
    services.register_jwt_key(client=owner, kid="h1", algorithm="HS256")
    assert admin_client.get(reverse(f"admin:clients_{model}_changelist"), {"q": "x"}).status_code in (200, 302)
    assert admin_client.get(reverse(f"admin:clients_{model}_changelist")).status_code == 200

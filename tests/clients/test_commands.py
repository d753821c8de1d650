"""The management commands: the secret alone on standard output, clear errors."""

import io
from datetime import datetime
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.core.management import CommandError, call_command
from django.utils import timezone

from apps.clients import selectors
from apps.clients.models import ApiKey, Client, JwtKey
from apps.clients.scopes import ALL_SCOPES
from tests.clients.factories import make_api_key, make_client

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    output = io.StringIO()
    call_command(*arguments, stdout=output, stderr=io.StringIO())
    return output.getvalue().strip()


def test_create_client_prints_a_key_that_works() -> None:
    key = run("create_client", "shop", "--scopes", "notifications:write, notifications:read", "--tier", "high")
    found = selectors.find_api_key(key, now=timezone.now())
    assert found is not None
    assert (found.client.name, found.client.tier.name) == ("shop", "high")
    assert found.client.scopes == ["notifications:write", "notifications:read"]


@pytest.mark.parametrize(
    "words",
    [
        ["notifications:write", "notifications:read"],
        ["notifications:write,notifications:read"],
        ["notifications:write,", "notifications:read"],
    ],
)
def test_scopes_are_words_or_have_commas_between_them(words: list[str]) -> None:
    run("create_client", "shop", "--scopes", *words, "--tier", "standard")
    assert Client.objects.get(name="shop").scopes == ["notifications:write", "notifications:read"]


def test_all_scopes_in_a_word() -> None:
    run("create_client", "shop", "--scopes", "all")
    assert Client.objects.get(name="shop").scopes == list(ALL_SCOPES)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["taken", "--scopes", "all"], "already exists"),
        (["two words", "--scopes", "all"], "without blanks"),
        (["shop", "--scopes", "notifications:write,fly"], "unknown fly"),
        (["shop", "--scopes", ","], "--scopes"),
        (["shop", "--scopes", "all", "--tier", "gold"], "high, standard, unlimited"),
        (["shop", "--scopes", "all", "--weight", "0"], "weight"),
    ],
)
def test_create_client_says_what_is_wrong_and_makes_nothing(arguments: list[str], word: str) -> None:
    make_client(name="taken")
    with pytest.raises(CommandError, match=word):
        run("create_client", *arguments)
    assert Client.objects.count() == 1


def test_further_key_leaves_the_first_alone() -> None:
    first = make_api_key(make_client(name="shop"))
    second = run("create_api_key", "shop", "--expires-at", "2099-01-31T00:00:00Z")
    for key in (first, second):
        assert selectors.find_api_key(key, now=timezone.now()) is not None
    assert ApiKey.objects.get(expires_at__isnull=False).expires_at == datetime.fromisoformat("2099-01-31T00:00:00Z")


@pytest.mark.parametrize("time", ["soon", "2099-01-31T00:00:00", "2099-13-31T00:00:00Z"])
def test_expiry_without_a_zone_or_sense_is_refused(time: str) -> None:
    make_client(name="shop")
    with pytest.raises(CommandError, match="with a zone"):
        run("create_api_key", "shop", "--expires-at", time)


def test_key_for_an_unknown_client_is_refused() -> None:
    with pytest.raises(CommandError, match="create_client"):
        run("create_api_key", "nobody")


def test_revoked_key_works_no_more_and_is_not_repeated() -> None:
    key = make_api_key(make_client())
    said = run("revoke_api_key", key)  # pasted whole
    selectors.forget_credentials()
    assert selectors.find_api_key(key, now=timezone.now()) is None
    assert key.partition(".")[2] not in said


def test_revoking_an_unknown_key_says_so() -> None:
    with pytest.raises(CommandError, match="there is no API key nk_x"):
        run("revoke_api_key", "nk_x")
    with pytest.raises(CommandError, match="there is no JWT key x"):
        run("revoke_jwt_key", "x")


def test_register_hs256_prints_the_secret_alone() -> None:
    make_client(name="shop")
    secret = run("register_jwt_key", "shop", "--algorithm", "HS256", "--kid", "h1")
    assert len(secret) == 43
    assert jwt.decode(jwt.encode({}, secret, "HS256"), secret, algorithms=["HS256"]) == {}


def test_register_public_key_prints_no_secret(tmp_path: Path) -> None:
    make_client(name="shop")
    pem = tmp_path / "key.pem"
    public_key = ed25519.Ed25519PrivateKey.generate().public_key()
    pem.write_bytes(public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert run("register_jwt_key", "shop", "--algorithm", "EdDSA", "--public-key", str(pem)) == ""
    assert run("revoke_jwt_key", JwtKey.objects.get().kid)
    assert JwtKey.objects.get().revoked_at is not None


def test_register_says_what_is_wrong(tmp_path: Path) -> None:
    make_client(name="shop")
    with pytest.raises(CommandError, match="cannot be read"):
        run("register_jwt_key", "shop", "--algorithm", "RS256", "--public-key", str(tmp_path / "missing"))
    with pytest.raises(CommandError, match="Give a PEM"):
        run("register_jwt_key", "shop", "--algorithm", "RS256")

"""JWTs through the whole stack: every algorithm, and the classic attacks on each part."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from django.core.exceptions import ValidationError
from django.http import HttpResponse
from django.test import Client as HttpClient
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from apps.clients import selectors, services
from apps.clients.models import Client
from tests.clients.factories import make_client

pytestmark = [pytest.mark.django_db, pytest.mark.urls("tests.clients.urls")]

PRIVATE_KEYS = {
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
OTHER_RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def public_pem(private_key: Any) -> str:
    return private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def jwk_of(private_key: Any, algorithm: str, **members: Any) -> dict[str, Any]:
    to_jwk = jwt.get_algorithm_by_name(algorithm).to_jwk
    return {**to_jwk(private_key.public_key(), as_dict=True), **members}


def claims(**changes: Any) -> dict[str, Any]:
    """A good token's claims but for ``changes``: None leaves one out, a timedelta counts from now."""
    everything = {"aud": "notify", "exp": timedelta(minutes=5), **changes}
    now = int(time.time())
    return {
        name: now + int(value.total_seconds()) if isinstance(value, timedelta) else value
        for name, value in everything.items()
        if value is not None
    }


def raw_token(header: Any, payload: Any, signature: bytes = b"x") -> str:
    parts = [json.dumps(header).encode(), json.dumps(payload).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


@pytest.fixture
def owner() -> Client:
    return make_client(name="billing")


@pytest.fixture
def call(client: HttpClient) -> Callable[[str], HttpResponse]:
    return lambda token: client.get("/v1/who", headers={"Authorization": f"Bearer {token}"})


@pytest.fixture
def rsa_kid(owner: Client) -> str:
    pem = public_pem(PRIVATE_KEYS["RS256"])
    return services.register_jwt_key(client=owner, kid="rsa-1", algorithm="RS256", public_key_pem=pem).key.kid


def sign_rsa(kid: str | None = "rsa-1", key: Any = PRIVATE_KEYS["RS256"], headers: Any = None, **changes: Any) -> str:
    payload = json.dumps(claims(**changes)).encode()  # as it is: jwt.encode would not sign some of what is tried here
    return jwt.PyJWS().encode(payload, key, "RS256", headers={**({"kid": kid} if kid else {}), **(headers or {})})


@pytest.mark.parametrize("algorithm", sorted(PRIVATE_KEYS))
def test_registered_public_key_verifies(call, owner: Client, algorithm: str) -> None:
    key = PRIVATE_KEYS[algorithm]
    services.register_jwt_key(client=owner, kid="k1", algorithm=algorithm, public_key_pem=public_pem(key))
    answer = call(jwt.encode(claims(iss="billing"), key, algorithm, headers={"kid": "k1"}))
    assert answer.status_code == 200
    assert answer.json()["client"] == "billing"


def test_hs256_secret_is_derived_shown_once_and_verifies(call, owner: Client) -> None:
    registered = services.register_jwt_key(client=owner, kid="h1", algorithm="HS256")
    assert len(registered.secret) == 43
    assert registered.secret not in repr(registered)
    assert registered.key.public_key_pem == registered.key.jwks_file == ""
    assert call(jwt.encode(claims(), registered.secret, "HS256", headers={"kid": "h1"})).status_code == 200


def test_hs256_secrets_of_two_keys_differ(call, owner: Client) -> None:
    one = services.register_jwt_key(client=owner, kid="h1", algorithm="HS256")
    services.register_jwt_key(client=make_client(), kid="h2", algorithm="HS256")
    assert call(jwt.encode(claims(), one.secret, "HS256", headers={"kid": "h2"})).status_code == 401


@pytest.mark.usefixtures("rsa_kid")
class TestClaims:
    @pytest.mark.parametrize(
        ("changes", "word"),
        [
            ({"exp": None}, "exp"),
            ({"aud": None}, "aud"),
            ({"aud": "another"}, "aud"),
            ({"aud": ["another"]}, "aud"),
            ({"exp": timedelta(seconds=-31)}, "expired"),
            ({"exp": "soon"}, "valid JWT"),
            ({"exp": float("inf")}, "JWT"),
            ({"exp": [1]}, "valid JWT"),
            ({"nbf": timedelta(seconds=120)}, "not valid yet"),
            ({"iat": timedelta(seconds=120)}, "not valid yet"),
            ({"iss": "someone-else"}, "kid and iss"),
            ({"iss": 7}, "iss"),
            ({"iss": "a\0b"}, "iss"),
            ({"iss": "x" * 300}, "iss"),
            ({"scope": 7}, "scope"),
        ],
    )
    def test_wrong_claim_is_401_that_names_it(self, call, changes: dict[str, Any], word: str) -> None:
        answer = call(sign_rsa(**changes))
        assert answer.status_code == 401
        assert word in answer.json()["detail"]

    @pytest.mark.parametrize(
        "changes",
        [
            {"exp": timedelta(seconds=-20)},
            {"nbf": timedelta(seconds=20)},
            {"aud": ["another", "notify"]},
            {"iss": "billing"},
        ],
    )
    def test_leeway_audience_list_and_own_issuer_are_accepted(self, call, changes: dict[str, Any]) -> None:
        assert call(sign_rsa(**changes)).status_code == 200

    @pytest.mark.parametrize("scope", ["notifications:read ops:shutdown", ["notifications:read", "ops:shutdown"]])
    def test_scope_narrows_and_never_widens(self, call, scope: Any) -> None:
        assert call(sign_rsa(scope=scope)).json()["scopes"] == ["notifications:read"]

    def test_narrowed_token_does_not_narrow_the_next(self, call) -> None:
        narrow = call(sign_rsa(scope="notifications:read")).json()["scopes"]
        assert len(call(sign_rsa()).json()["scopes"]) > len(narrow)

    def test_empty_scope_allows_nothing(self, call) -> None:
        assert call(sign_rsa(scope="")).status_code == 403


@pytest.mark.usefixtures("rsa_kid")
class TestAttacks:
    @pytest.mark.parametrize("algorithm", ["none", "None", "nOnE", "", None, 7])
    def test_unsigned_token_is_refused(self, call, algorithm: Any) -> None:
        assert call(raw_token({"alg": algorithm, "kid": "rsa-1"}, claims())).status_code == 401
        assert call(raw_token({"alg": algorithm, "kid": "rsa-1"}, claims(), b"")).status_code == 401

    def test_public_key_as_hmac_secret_is_refused(self, call) -> None:
        header, payload = {"alg": "HS256", "kid": "rsa-1", "typ": "JWT"}, claims()
        signing_input = raw_token(header, payload, b"").rpartition(".")[0]
        pem = public_pem(PRIVATE_KEYS["RS256"]).encode()
        forged = hmac.digest(pem, signing_input.encode(), hashlib.sha256)
        assert call(raw_token(header, payload, forged)).status_code == 401

    def test_algorithm_of_the_same_family_is_refused(self, call) -> None:
        token = jwt.encode(claims(), PRIVATE_KEYS["RS256"], "RS512", headers={"kid": "rsa-1"})
        assert "RS256" in call(token).json()["detail"]

    def test_key_carried_by_the_token_is_not_used(self, call) -> None:
        headers = {"jwk": jwk_of(OTHER_RSA, "RS256"), "jku": "https://example.com/keys", "x5u": "https://example.com"}
        assert call(sign_rsa(key=OTHER_RSA, headers=headers)).status_code == 401

    def test_critical_extension_is_refused(self, call) -> None:
        assert "critical" in call(sign_rsa(headers={"crit": ["exp"]})).json()["detail"]

    def test_changed_payload_is_refused(self, call) -> None:
        header, _, signature = sign_rsa(scope="").split(".")
        payload = raw_token({}, claims()).split(".")[1]
        assert "signature" in call(f"{header}.{payload}.{signature}").json()["detail"]

    def test_key_of_another_client_does_not_sign_for_this_one(self, call) -> None:
        services.register_jwt_key(
            client=make_client(name="mallory"), kid="m1", algorithm="RS256", public_key_pem=public_pem(OTHER_RSA)
        )
        assert call(sign_rsa(kid="rsa-1", key=OTHER_RSA)).status_code == 401
        assert call(sign_rsa(kid="m1", key=OTHER_RSA, iss="billing")).status_code == 401
        assert call(sign_rsa(kid="m1", key=OTHER_RSA)).json()["client"] == "mallory"

    @pytest.mark.parametrize("kid", ["unknown", "", "a\0b", "x" * 300, 7, None, {"$ne": 1}, "../../etc/passwd", "é"])
    def test_odd_kid_is_401(self, call, kid: Any) -> None:
        assert call(raw_token({"alg": "RS256", "kid": kid}, claims())).status_code == 401

    @pytest.mark.parametrize(
        "token",
        [
            "..",
            "a.b.c",
            "e30.e30.",
            "W10.e30.x",
            "e30.W10.x",
            "bnVsbA.bnVsbA.x",
            "=.=.=",
            "e30.e30.e30" + "0" * 9_000,
            base64.urlsafe_b64encode(b"[" * 5_000).decode() + ".e30.x",
            base64.urlsafe_b64encode(b'{"alg":' * 700).decode() + ".e30.x",
            "e30." + base64.urlsafe_b64encode(b'{"a":' * 900 + b"1" + b"}" * 900).decode().rstrip("=") + ".x",
            "\xff\xfe.\xff.\xff",
        ],
    )
    def test_misshapen_token_is_401(self, call, token: str) -> None:
        assert call(token).status_code == 401

    def test_refusal_repeats_nothing_out_of_the_token(self, call) -> None:
        answer = call(sign_rsa(kid="s3cret-kid", sub="someone@example.com"))
        assert b"s3cret-kid" not in answer.content
        assert b"someone" not in answer.content


def test_revoked_key_is_refused_once_the_cache_has_aged(call, rsa_kid: str) -> None:
    assert call(sign_rsa()).status_code == 200
    services.revoke_jwt_key(kid=rsa_kid, now=timezone.now())
    selectors.forget_credentials()
    assert call(sign_rsa()).status_code == 401


def test_known_key_costs_no_query_while_cached(
    call, rsa_kid: str, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    call(sign_rsa(iss="billing"))
    with django_assert_num_queries(0):
        call(sign_rsa(iss="billing"))


class TestJwksFile:
    ISSUER = "https://login.example.com/"

    @pytest.fixture
    def jwks(self, tmp_path: Path, owner: Client) -> Path:
        path = tmp_path / "jwks.json"
        self.write(path, jwk_of(PRIVATE_KEYS["RS256"], "RS256", kid="a"))
        services.register_jwt_key(
            client=owner, kid="login-jwks", algorithm="RS256", jwks_file=str(path), issuer=self.ISSUER
        )
        return path

    def write(self, path: Path, *keys: Any) -> None:
        path.write_text(json.dumps({"keys": keys}))

    def test_key_is_found_by_issuer_and_kid(self, call, jwks: Path) -> None:
        assert call(sign_rsa(kid="a", iss=self.ISSUER)).json()["client"] == "billing"

    def test_only_key_needs_no_kid(self, call, jwks: Path) -> None:
        assert call(sign_rsa(kid=None, iss=self.ISSUER)).status_code == 200

    def test_one_of_several_keys_needs_a_kid(self, call, jwks: Path) -> None:
        self.write(
            jwks,
            jwk_of(PRIVATE_KEYS["RS256"], "RS256", kid="a"),
            jwk_of(OTHER_RSA, "RS256", kid="b"),
        )
        assert call(sign_rsa(kid=None, iss=self.ISSUER)).status_code == 401
        assert call(sign_rsa(kid="b", key=OTHER_RSA, iss=self.ISSUER)).status_code == 200

    def test_file_is_read_again_when_it_changes(self, call, jwks: Path) -> None:
        assert call(sign_rsa(kid="a", iss=self.ISSUER)).status_code == 200
        self.write(jwks, jwk_of(OTHER_RSA, "RS256", kid="new-one"))
        assert call(sign_rsa(kid="a", iss=self.ISSUER)).status_code == 401
        assert call(sign_rsa(kid="new-one", key=OTHER_RSA, iss=self.ISSUER)).status_code == 200

    def test_half_written_file_keeps_the_keys_it_had(self, call, jwks: Path) -> None:
        assert call(sign_rsa(kid="a", iss=self.ISSUER)).status_code == 200
        jwks.write_text('{"keys": [')
        assert call(sign_rsa(kid="a", iss=self.ISSUER)).status_code == 200

    def test_missing_file_trusts_nobody(self, call, jwks: Path) -> None:
        assert call(sign_rsa(kid="a", iss=self.ISSUER)).status_code == 200
        jwks.unlink()
        assert call(sign_rsa(kid="a", iss=self.ISSUER)).status_code == 401

    def test_keys_for_other_uses_or_algorithms_are_left_out(self, call, jwks: Path) -> None:
        secret = base64.urlsafe_b64encode(b"k" * 32).decode().rstrip("=")
        self.write(
            jwks,
            jwk_of(PRIVATE_KEYS["RS256"], "RS256", kid="enc", use="enc"),
            jwk_of(PRIVATE_KEYS["RS256"], "RS256", kid="other", alg="RS512"),
            {"kty": "oct", "k": secret, "kid": "oct"},
            jwk_of(PRIVATE_KEYS["ES256"], "ES256", kid="ec"),
            "nonsense",
            {"kty": "RSA", "n": "!", "e": "AQAB", "kid": "broken"},
        )
        for kid in ("enc", "other"):
            assert call(sign_rsa(kid=kid, iss=self.ISSUER)).status_code == 401
        token = jwt.encode(claims(iss=self.ISSUER), b"k" * 32, "HS256", headers={"kid": "oct"})
        assert call(token).status_code == 401

    def test_same_kid_registered_by_another_client_is_not_in_the_way(self, call, jwks: Path) -> None:
        services.register_jwt_key(
            client=make_client(), kid="a", algorithm="RS256", public_key_pem=public_pem(OTHER_RSA)
        )
        assert call(sign_rsa(kid="a", iss=self.ISSUER)).json()["client"] == "billing"

    def test_second_file_for_an_issuer_is_refused(self, jwks: Path) -> None:
        with pytest.raises(ValidationError, match="Another JWKS file"):
            services.register_jwt_key(
                client=make_client(), kid="x", algorithm="RS256", jwks_file=str(jwks), issuer=self.ISSUER
            )


class TestRegistration:
    @pytest.mark.parametrize(
        ("algorithm", "pem", "word"),
        [
            ("RS256", "nonsense", "PEM"),
            (
                "RS256",
                PRIVATE_KEYS["RS256"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
                "private key",
            ),
            ("RS256", public_pem(PRIVATE_KEYS["ES256"]), "does not suit"),
            ("ES256", public_pem(ec.generate_private_key(ec.SECP384R1())), "P-256"),
            ("EdDSA", public_pem(PRIVATE_KEYS["RS256"]), "does not suit"),
            ("HS256", public_pem(PRIVATE_KEYS["RS256"]), "does not suit"),
            ("RS256", "", "Give a PEM"),
            ("RS512", public_pem(PRIVATE_KEYS["RS256"]), "RS512"),
        ],
        ids=range(8),  # not the keys: they differ in each worker of a parallel run
    )
    def test_unusable_key_is_a_clear_error(self, owner: Client, algorithm: str, pem: str, word: str) -> None:
        with pytest.raises(ValidationError, match=word):
            services.register_jwt_key(client=owner, kid="k", algorithm=algorithm, public_key_pem=pem)

    def test_short_rsa_key_is_refused(self, owner: Client) -> None:
        short = rsa.generate_private_key(public_exponent=65537, key_size=1024)
        with pytest.raises(ValidationError, match="2048 bits"):
            services.register_jwt_key(client=owner, kid="k", algorithm="RS256", public_key_pem=public_pem(short))

    @pytest.mark.parametrize("content", [None, "nonsense", "[]", '{"keys": []}', '{"keys": 7}'])
    def test_unusable_jwks_file_is_a_clear_error(self, owner: Client, tmp_path: Path, content: str | None) -> None:
        path = tmp_path / "jwks.json"
        if content is not None:
            path.write_text(content)
        with pytest.raises(ValidationError, match="jwks_file"):
            services.register_jwt_key(client=owner, kid="k", algorithm="RS256", jwks_file=str(path), issuer="i")

    def test_kid_is_never_used_again(self, owner: Client) -> None:
        services.register_jwt_key(client=owner, kid="h1", algorithm="HS256")
        services.revoke_jwt_key(kid="h1", now=timezone.now())
        with pytest.raises(ValidationError, match="already exists"):
            services.register_jwt_key(client=owner, kid="h1", algorithm="HS256")

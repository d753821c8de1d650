"""Reads: the credential behind a presented key, from the database or a process-local cache of a few seconds."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from django.conf import settings
from django.db.models import Q

from apps.clients.keys import PublicKey, is_api_key, load_public_key, read_prefix
from apps.clients.models import ApiKey, Client, JwtKey
from apps.clients.ttl_cache import TtlCache

CREDENTIAL_TTL_S = 4.0
"""How long a revoked key may still work in a process that has just read it. Promised: at most 5 s."""

_MAX_CREDENTIALS = 5_000
C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class ApiKeyCredential:
    """What is needed to check an API key without a query. Shared between threads: never change the client in it."""

    id: int
    client: Client
    digest: bytes
    expires_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class JwtCredential:
    """What is needed to check a JWT. ``public_key`` is None for HS256 (derived) and for a JWKS file (read there)."""

    client: Client
    kid: str
    algorithm: str
    issuer: str
    jwks_file: str
    public_key: PublicKey | None


# Misses are kept apart from hits, so that a flood of invented keys cannot push the good ones out.
_api_keys: TtlCache[ApiKeyCredential] = TtlCache(max_size=_MAX_CREDENTIALS, ttl_s=CREDENTIAL_TTL_S)
_jwt_keys: TtlCache[JwtCredential] = TtlCache(max_size=_MAX_CREDENTIALS, ttl_s=CREDENTIAL_TTL_S)
_misses: TtlCache[bool] = TtlCache(max_size=_MAX_CREDENTIALS, ttl_s=CREDENTIAL_TTL_S)


def find_api_key(text: str, *, now: datetime) -> ApiKeyCredential | None:
    """What the API key ``text`` stands for: a living key of an active client, read at most ``CREDENTIAL_TTL_S`` ago.

    None for anything else: misshapen, unknown, revoked, expired, or with the wrong secret.
    """
    prefix = read_prefix(text)
    credential = _find(_api_keys, prefix, lambda: _select_api_key(prefix)) if prefix else None
    if credential is None or not is_api_key(text, credential.digest, settings.API_KEY_PEPPER):
        return None
    return credential if credential.expires_at is None or credential.expires_at > now else None


def find_jwt_key(*, kid: str | None, issuer: str | None) -> JwtCredential | None:
    """The living key that may verify a token with this ``kid`` header and ``iss`` claim, as old as an API key's.

    A JWKS file registered for the issuer comes first (its kids are its own), then the key registered as ``kid``, if its
    issuer (else its client's name) is the token's or the token names none.
    """
    if issuer is not None:
        credential = _find(_jwt_keys, f"iss {issuer}", lambda: _select_jwt_key(~Q(jwks_file=""), Q(issuer=issuer)))
        if credential is not None:
            return credential
    if kid is not None:
        credential = _find(_jwt_keys, f"kid {kid}", lambda: _select_jwt_key(Q(jwks_file=""), Q(kid=kid)))
        if credential is not None and issuer in (None, credential.issuer):
            return credential
    return None


def _find(cache: TtlCache[C], key: str, select: Callable[[], C | None]) -> C | None:
    found = cache.get(key)
    if found is not None or _misses.get(key):
        return found
    read_at = cache.now()
    credential = select()
    if credential is None:
        _misses.put(key, True, read_at=read_at)
    else:
        cache.put(key, credential, read_at=read_at)
    return credential


def _select_api_key(prefix: str) -> ApiKeyCredential | None:
    key = (
        ApiKey.objects.select_related("client__tier")
        .filter(prefix=prefix, revoked_at__isnull=True, client__is_active=True)
        .first()
    )
    if key is None:
        return None
    return ApiKeyCredential(key.pk, key.client, bytes(key.digest), key.expires_at, key.last_used_at)


def _select_jwt_key(*conditions: Q) -> JwtCredential | None:
    key = (
        JwtKey.objects.select_related("client__tier")
        .filter(*conditions, revoked_at__isnull=True, client__is_active=True)
        .first()
    )
    if key is None:
        return None
    return JwtCredential(
        client=key.client,
        kid=key.kid,
        algorithm=key.algorithm,
        issuer=key.issuer or key.client.name,
        jwks_file=key.jwks_file,
        public_key=load_public_key(key.public_key_pem, key.algorithm) if key.public_key_pem else None,
    )


def forget_credentials() -> None:
    """Drop this process's cache."""
    for cache in (_api_keys, _jwt_keys, _misses):
        cache.clear()

"""Writes: clients and their keys. A secret leaves through the return value, once, and is not kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Q

from apps.clients.keys import Algorithm, derive_hs256_secret, make_api_key
from apps.clients.models import ApiKey, Client, JwtKey, RateTier
from apps.clients.selectors import ApiKeyCredential
from apps.clients.ttl_cache import TtlCache

USE_RECORDED_EVERY = timedelta(minutes=1)

_recorded_uses: TtlCache[bool] = TtlCache(max_size=5_000, ttl_s=USE_RECORDED_EVERY.total_seconds())


@dataclass(frozen=True, slots=True, repr=False)
class IssuedApiKey:
    """A new API key; ``text`` is what the client sends and cannot be shown again."""

    key: ApiKey
    text: str


@dataclass(frozen=True, slots=True, repr=False)
class RegisteredJwtKey:
    """A new JWT key; for HS256 ``secret`` is what the client signs with (its ASCII bytes), else empty."""

    key: JwtKey
    secret: str


@transaction.atomic
def create_client(*, name: str, scopes: Sequence[str], tier: str = "standard", weight: int = 1) -> Client:
    """A new active client. Raises ``ValidationError`` (name taken, unknown scope) or ``RateTier.DoesNotExist``."""
    client = Client(name=name, scopes=list(scopes), tier=RateTier.objects.get(name=tier), weight=weight)
    client.full_clean()
    client.save()
    return client


def issue_api_key(*, client: Client, expires_at: datetime | None = None) -> IssuedApiKey:
    """A new API key for ``client``; the ones it has stay."""
    made = make_api_key(settings.API_KEY_PEPPER)
    key = ApiKey.objects.create(client=client, prefix=made.prefix, digest=made.digest, expires_at=expires_at)
    return IssuedApiKey(key, made.text)


def revoke_api_key(*, prefix: str, now: datetime) -> ApiKey:
    """Revoke the key; it stops working everywhere within 5 s. Revoking twice keeps the first time.

    Raises ``ApiKey.DoesNotExist``.
    """
    ApiKey.objects.filter(prefix=prefix, revoked_at__isnull=True).update(revoked_at=now)
    return ApiKey.objects.select_related("client").get(prefix=prefix)


def register_jwt_key(
    *,
    client: Client,
    kid: str,
    algorithm: str,
    public_key_pem: str = "",
    jwks_file: str = "",
    issuer: str = "",
) -> RegisteredJwtKey:
    """Register what verifies the client's tokens: a PEM, a JWKS file with its issuer, or for HS256 neither.

    Raises ``ValidationError`` by field.
    """
    key = JwtKey(
        client=client,
        kid=kid,
        algorithm=algorithm,
        public_key_pem=public_key_pem,
        jwks_file=jwks_file,
        issuer=issuer,
    )
    key.full_clean()
    key.save()
    return RegisteredJwtKey(key, reveal_hs256_secret(key))


def reveal_hs256_secret(key: JwtKey) -> str:
    """The secret the client signs with, ``""`` for other algorithms. Show it to nobody but the key's owner, once."""
    return derive_hs256_secret(key.kid, settings.API_KEY_PEPPER) if key.algorithm == Algorithm.HS256 else ""


def revoke_jwt_key(*, kid: str, now: datetime) -> JwtKey:
    """Revoke the key; it stops working everywhere within 5 s. Raises ``JwtKey.DoesNotExist``.

    A kid is used once: an HS256 secret is derived from it, so the same kid would bring the revoked secret back.
    """
    JwtKey.objects.filter(kid=kid, revoked_at__isnull=True).update(revoked_at=now)
    return JwtKey.objects.select_related("client").get(kid=kid)


def record_key_use(*, credential: ApiKeyCredential, now: datetime) -> None:
    """Note when the key was last used, to the minute: one write a minute and process at most."""
    if _recorded_uses.get(str(credential.id)):
        return
    _recorded_uses.put(str(credential.id), True, read_at=_recorded_uses.now())
    stale = Q(last_used_at__isnull=True) | Q(last_used_at__lt=now - USE_RECORDED_EVERY)
    if credential.last_used_at is None or credential.last_used_at < now - USE_RECORDED_EVERY:
        ApiKey.objects.filter(stale, pk=credential.id).update(last_used_at=now)

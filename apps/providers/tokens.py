"""Access tokens: one per account for all processes, renewed early and by one of them at a time.

Kept in this process and, encrypted, in the cache's Redis. Without Redis each process asks for itself.
"""

import base64
import json
import secrets
import threading
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import requests
import structlog
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django_redis import get_redis_connection
from redis.exceptions import RedisError

from apps.providers import control_plane
from apps.providers.grants import AccessToken, Grant, GrantError

log = structlog.get_logger(__name__)

RENEW_BEFORE_S = 300.0  # or a quarter of a shorter life
LOCK_TTL_MS = 10_000
WAIT_FOR_OTHER_S = 3.0
WAIT_STEP_S = 0.05
NONCE_BYTES = 12
# Let go of the lock only if it is still ours: it may have run out and be somebody else's.
RELEASE_LOCK = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"


class TokenUnavailableError(Exception):
    """No access token can be had now. ``code`` says why, in a word."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True, slots=True)
class _Held:
    value: str
    renew_at: float  # Unix seconds, like ``expires_at``
    expires_at: float

    def is_good(self, now_s: float) -> bool:
        return self.expires_at > now_s

    def is_fresh(self, now_s: float) -> bool:
        return self.renew_at > now_s


_held: dict[tuple[str, str], _Held] = {}
_renewing: dict[str, threading.Lock] = {}
_guard = threading.Lock()


def get_token(alias: str, grant: Grant, now: datetime) -> str:
    """A token for account ``alias`` that is good at ``now``; raises ``TokenUnavailableError``.

    Towards the end of a token's life one caller renews it while the others still use it."""
    now_s = now.timestamp()
    held = _held.get((alias, grant.fingerprint))
    if held is not None and held.is_fresh(now_s):
        return held.value
    can_wait = held is None or not held.is_good(now_s)
    with _guard:
        lock = _renewing.setdefault(alias, threading.Lock())
    if not lock.acquire(blocking=can_wait):
        assert held is not None
        return held.value
    try:
        held = _held.get((alias, grant.fingerprint))
        if held is None or not held.is_fresh(now_s):
            held = _renew(alias, grant, now, held if held is not None and held.is_good(now_s) else None)
            _held[alias, grant.fingerprint] = held
        return held.value
    finally:
        lock.release()


def invalidate_token(alias: str, grant: Grant, token: str) -> None:
    """Forget ``token``, which the provider refused; a newer one of another process is kept."""
    held = _held.get((alias, grant.fingerprint))
    if held is not None and held.value == token:
        _held.pop((alias, grant.fingerprint), None)
    try:
        shared = _read_shared(alias, grant)
        if shared is not None and shared.value == token:
            _redis().delete(_key(alias))
    except RedisError:
        log.warning("token_cache_unavailable", provider=alias)


def _renew(alias: str, grant: Grant, now: datetime, usable: _Held | None) -> _Held:
    """A fresh token from Redis or the endpoint; ``usable`` is what to fall back on."""
    now_s = now.timestamp()
    owner = secrets.token_hex(8)
    try:
        shared = _read_shared(alias, grant)
        if shared is not None and shared.is_fresh(now_s):
            return shared
        usable = usable or _good(shared, now_s)
        is_ours = _redis().set(_lock_key(alias), owner, nx=True, px=LOCK_TTL_MS)
        if not is_ours and (other := usable or _wait_for_other(alias, grant, now_s)):
            return other
    except RedisError:
        log.warning("token_cache_unavailable", provider=alias)
    try:
        held = _fetch(alias, grant, now)
        _share(alias, grant, held, now_s)
    except TokenUnavailableError:
        if usable is None:
            raise
        return usable
    finally:
        _release_lock(alias, owner)
    return held


def _share(alias: str, grant: Grant, held: _Held, now_s: float) -> None:
    try:
        _write_shared(alias, grant, held, now_s)
    except RedisError:
        log.warning("token_cache_unavailable", provider=alias)


def _release_lock(alias: str, owner: str) -> None:
    try:
        _redis().eval(RELEASE_LOCK, 1, _lock_key(alias), owner)
    except RedisError:
        log.warning("token_cache_unavailable", provider=alias)


def _good(held: _Held | None, now_s: float) -> _Held | None:
    return held if held is not None and held.is_good(now_s) else None


def _wait_for_other(alias: str, grant: Grant, now_s: float) -> _Held | None:
    deadline = time.monotonic() + WAIT_FOR_OTHER_S
    while time.monotonic() < deadline:
        time.sleep(WAIT_STEP_S)
        if (shared := _good(_read_shared(alias, grant), now_s)) is not None:
            return shared
        if not _redis().exists(_lock_key(alias)):
            return None
    return None


def _fetch(alias: str, grant: Grant, now: datetime) -> _Held:
    try:
        asked = grant.build(now)
        token = asked if isinstance(asked, AccessToken) else grant.parse(control_plane.call(asked))
    except GrantError as error:
        log.error("token_refused", provider=alias, code=error.code)
        raise TokenUnavailableError(f"oauth_{error.code}") from None
    except requests.RequestException as error:
        log.error("token_endpoint_unreachable", provider=alias, error=type(error).__name__)
        raise TokenUnavailableError("oauth_unreachable") from None
    log.info("token_renewed", provider=alias, lifetime_s=token.lifetime_s)
    now_s = now.timestamp()
    renew_after_s = token.renew_after_s
    if renew_after_s is None:
        renew_after_s = token.lifetime_s - min(RENEW_BEFORE_S, token.lifetime_s / 4)
    return _Held(token.value, now_s + renew_after_s, now_s + token.lifetime_s)


def _redis() -> Any:
    return get_redis_connection("default")


def _key(alias: str) -> str:
    return f"oauth:{alias}"


def _lock_key(alias: str) -> str:
    return f"oauth:{alias}:lock"


def _cipher() -> AESGCM:
    derive = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=b"notify provider access tokens")
    return AESGCM(derive.derive(settings.SECRET_KEY.encode()))


def _context(alias: str, grant: Grant) -> bytes:
    # Other credentials under the same alias are another account: their token must not be used.
    return f"oauth|{alias}|{grant.fingerprint}".encode()


def _write_shared(alias: str, grant: Grant, held: _Held, now_s: float) -> None:
    nonce = secrets.token_bytes(NONCE_BYTES)
    plain = json.dumps({"value": held.value, "renew_at": held.renew_at, "expires_at": held.expires_at}).encode()
    blob = nonce + _cipher().encrypt(nonce, plain, _context(alias, grant))
    _redis().set(_key(alias), base64.b64encode(blob), px=max(1, int((held.expires_at - now_s) * 1000)))


def _read_shared(alias: str, grant: Grant) -> _Held | None:
    encoded = _redis().get(_key(alias))
    if encoded is None:
        return None
    try:
        blob = base64.b64decode(encoded, validate=True)
        plain = json.loads(_cipher().decrypt(blob[:NONCE_BYTES], blob[NONCE_BYTES:], _context(alias, grant)))
        return _Held(str(plain["value"]), float(plain["renew_at"]), float(plain["expires_at"]))
    except (InvalidTag, ValueError, KeyError, TypeError):
        return None  # written under another key or for other credentials

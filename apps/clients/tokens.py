"""Checking a JWT (RFC 7519) against the key registered for it, in the spirit of RFC 8725 (best current practices)."""

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jwt
import orjson

from apps.clients.jwks import find_key
from apps.clients.keys import Algorithm, PublicKey, derive_hs256_secret
from apps.clients.models import Client
from apps.clients.selectors import JwtCredential

LEEWAY_S = 30
MAX_TOKEN_LENGTH = 8_192
_MAX_NAME_LENGTH = 255


class InvalidTokenError(Exception):
    """The token is refused. The text says why, for its owner, and repeats nothing out of the token."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A verified token's client, and the scopes it narrows the client's to (None: it does not)."""

    client: Client
    scopes: frozenset[str] | None


def verify_token(
    token: str,
    *,
    find: Callable[[str | None, str | None], JwtCredential | None],
    audience: str,
    pepper: str,
) -> Grant:
    """Who signed ``token``; ``find(kid, iss)`` looks its key up. Raises ``InvalidTokenError``.

    The algorithm is the registered key's, so ``alg: none`` and a public key used as an HMAC secret get nowhere.
    ``aud`` and ``exp`` are required; ``exp``, ``nbf`` and ``iat`` have a leeway of 30 s. Extensions a token
    marks as critical (RFC 7515, 4.1.11) are refused: none is understood.
    """
    if len(token) > MAX_TOKEN_LENGTH:
        raise InvalidTokenError(f"The token is longer than {MAX_TOKEN_LENGTH} characters.")
    header, claims = (_read_part(part) for part in token.split(".")[:2])
    if "crit" in header:
        raise InvalidTokenError("The token marks header parameters as critical; none is supported.")
    kid, issuer = _read_name(header, "kid"), _read_name(claims, "iss")
    credential = find(kid, issuer)
    if credential is None:
        raise InvalidTokenError("No living key is registered for the token's kid and iss.")
    if header.get("alg") != credential.algorithm:
        raise InvalidTokenError(f"The token's key is registered for {credential.algorithm} and for no other algorithm.")
    verified = _decode(token, _find_verifier(credential, kid, pepper), credential.algorithm, audience)
    return Grant(credential.client, _read_scopes(verified))


def _read_part(part: str) -> dict[str, Any]:
    """A not yet trusted JSON object: only for finding the key."""
    try:
        value = orjson.loads(base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error):
        value = None
    if not isinstance(value, dict):
        raise InvalidTokenError("The token is not a JWT.")
    return value


def _read_name(part: dict[str, Any], name: str) -> str | None:
    value = part.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_NAME_LENGTH or not value.isprintable():
        raise InvalidTokenError(f"The token's {name} must be a text of 1 to {_MAX_NAME_LENGTH} printable characters.")
    return value


def _find_verifier(credential: JwtCredential, kid: str | None, pepper: str) -> PublicKey | str:
    if credential.algorithm == Algorithm.HS256:
        return derive_hs256_secret(credential.kid, pepper)
    key = credential.public_key or find_key(credential.jwks_file, kid, credential.algorithm)
    if key is None:
        raise InvalidTokenError("The issuer's JWKS file has no such key for the registered algorithm.")
    return key


def _decode(token: str, key: PublicKey | str, algorithm: str, audience: str) -> dict[str, Any]:
    try:
        return jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=audience,
            leeway=LEEWAY_S,
            options={"require": ["exp", "aud"]},
        )
    except jwt.ExpiredSignatureError:
        raise InvalidTokenError("The token has expired (exp).") from None
    except jwt.ImmatureSignatureError:
        raise InvalidTokenError("The token is not valid yet (nbf, iat).") from None
    except jwt.MissingRequiredClaimError as error:
        raise InvalidTokenError(f"The token lacks the claim {error.claim}.") from None
    except jwt.InvalidAudienceError:
        raise InvalidTokenError(f"The token's aud must be {audience}.") from None
    except jwt.InvalidSignatureError:
        raise InvalidTokenError("The token's signature does not verify.") from None
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        raise InvalidTokenError("The token is not a valid JWT.") from None


def _read_scopes(claims: dict[str, Any]) -> frozenset[str] | None:
    """The ``scope`` claim: words separated by blanks (RFC 8693, 4.2). A list is understood too."""
    scope = claims.get("scope")
    if scope is None:
        return None
    if isinstance(scope, str):
        return frozenset(scope.split())
    if isinstance(scope, list) and all(isinstance(word, str) for word in scope):
        return frozenset(scope)
    raise InvalidTokenError("The token's scope must be a text of scopes separated by blanks.")

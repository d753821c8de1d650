"""VAPID as a push service checks it (RFC 8292)."""

import re
import time

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from apps.providers.sandbox.credentials import encode_base64url

MAX_LIFETIME_S = 86_400
CLOCK_SKEW_S = 10
_HEADER = re.compile(r"vapid\s+(?P<first>[tk])=(?P<one>[\w.=-]+)\s*,\s*(?P<second>[tk])=(?P<two>[\w.=-]+)", re.I)
_SUBJECT = re.compile(r"mailto:[^\s<>]+@[^\s<>]+|https://[^\s<>]+")


class VapidChecker:
    """Accepts tokens by the one key that every subscription here is bound to."""

    def __init__(self, public_key: ec.EllipticCurvePublicKey, *, audience: str) -> None:
        point = public_key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        self._public_key = public_key
        self._encoded_key = encode_base64url(point)
        self._audience = audience
        self._valid_until: dict[str, float] = {}

    def find_problem(self, authorization: str | None) -> tuple[int, str] | None:
        """HTTP status and text for a header that is refused, ``None`` for a good one."""
        header = authorization or ""
        valid_until = self._valid_until.get(header)
        if valid_until is None:
            match = _HEADER.fullmatch(header)
            parts = (
                {} if match is None else {match["first"].lower(): match["one"], match["second"].lower(): match["two"]}
            )
            if parts.keys() != {"t", "k"}:
                return 401, "Authorization must be vapid t=…, k=…"
            if parts["k"].rstrip("=") != self._encoded_key:
                return 403, "The key is not the one that the subscription was made with"
            verdict = self._verify(parts["t"])
            if isinstance(verdict, str):
                return 401, verdict
            if len(self._valid_until) > 1_000:
                self._valid_until.clear()
            valid_until = self._valid_until[header] = verdict
        return None if time.time() < valid_until else (401, "The token has expired")

    def _verify(self, token: str) -> float | str:
        """Until when the token is good, in Unix seconds, or what is wrong with it."""
        try:
            claims = jwt.decode(
                token,
                self._public_key,
                algorithms=["ES256"],
                audience=self._audience,
                options={"require": ["aud", "exp"]},
            )
        except jwt.InvalidTokenError as error:
            return f"The token is not valid: {error}"
        if claims["exp"] - time.time() > MAX_LIFETIME_S + CLOCK_SKEW_S:
            return "The token lives for more than 24 hours"
        if not _SUBJECT.fullmatch(str(claims.get("sub", ""))):
            return "sub must be a mailto: or https: URL"
        return float(claims["exp"])

"""Google's OAuth token endpoint, service-account flow (RFC 7523 with Google's limits):
https://developers.google.com/identity/protocols/oauth2/service-account
"""

import hmac
import secrets
import time
from hashlib import sha256
from urllib.parse import parse_qs

import jwt

from apps.providers.sandbox.credentials import Credentials
from apps.providers.sandbox.exchange import Answer, Request, json_answer

GOOGLE_TOKEN_URI = "https://oauth2.googleapis.com/token"  # noqa: S105 (an address)
SCOPES = {"https://www.googleapis.com/auth/firebase.messaging", "https://www.googleapis.com/auth/cloud-platform"}
GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_LIFETIME_S = 3_600
CLOCK_SKEW_S = 10
_PREFIX = "Bearer ya29.sandbox."


class TokenEndpoint:
    """Grants access tokens and recognises them. A token is its expiry and an HMAC over it, so that tokens stay good
    when the sandbox restarts; one that has been checked is remembered."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._valid_until: dict[str, float] = {}

    def grant(self, request: Request) -> Answer:
        form = parse_qs(request.body.decode("latin-1"))
        if request.method != "POST" or form.get("grant_type") != [GRANT_TYPE]:
            return _oauth_error("unsupported_grant_type", "Invalid grant_type: must be the JWT bearer grant")
        try:
            claims = jwt.decode(
                form.get("assertion", [""])[0],
                self._credentials.fcm_public_key,
                algorithms=["RS256"],
                audience=[self._credentials.fcm_token_uri, GOOGLE_TOKEN_URI],
                issuer=self._credentials.client_email,
                leeway=CLOCK_SKEW_S,
                options={"require": ["exp", "iat", "iss", "aud"]},
            )
        except jwt.InvalidSignatureError:
            return _oauth_error("invalid_grant", "Invalid JWT Signature.")
        except jwt.InvalidTokenError as error:
            return _oauth_error("invalid_grant", f"Invalid JWT: {error}")
        if claims["exp"] - claims["iat"] > TOKEN_LIFETIME_S:
            text = "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe."
            return _oauth_error("invalid_grant", text)
        if SCOPES.isdisjoint(str(claims.get("scope", "")).split()):
            return _oauth_error("invalid_scope", "Invalid OAuth scope or ID token audience provided.")
        token = self._mint(int(time.time()) + TOKEN_LIFETIME_S)
        # Google says a second less than the hour, as clients see on the wire.
        return json_answer(200, {"access_token": token, "expires_in": TOKEN_LIFETIME_S - 1, "token_type": "Bearer"})

    def is_valid(self, authorization: str) -> bool:
        """Whether the ``Authorization`` header carries a token of ours that has not expired."""
        valid_until = self._valid_until.get(authorization)
        if valid_until is None:
            valid_until = self._verify(authorization)
            if valid_until:
                if len(self._valid_until) > 1_000:
                    self._valid_until.clear()
                self._valid_until[authorization] = valid_until
        return valid_until > time.time()

    def _mint(self, expires_at: int) -> str:
        payload = f"{expires_at:x}.{secrets.token_hex(4)}"
        return f"ya29.sandbox.{payload}.{self._sign(payload)}"

    def _verify(self, authorization: str) -> float:
        payload, _, signature = authorization.removeprefix(_PREFIX).rpartition(".")
        if not authorization.startswith(_PREFIX) or not hmac.compare_digest(
            signature.encode(), self._sign(payload).encode()
        ):
            return 0.0
        return float(int(payload.partition(".")[0], 16))

    def _sign(self, payload: str) -> str:
        return hmac.new(self._credentials.fcm_token_key, payload.encode(), sha256).hexdigest()


def _oauth_error(code: str, description: str) -> Answer:
    """RFC 6749, section 5.2."""
    return json_answer(400, {"error": code, "error_description": description})

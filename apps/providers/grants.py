"""How an adapter's access token is got: what to ask and how to read the answer. Sans-I/O; ``tokens`` does the calls."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol
from urllib.parse import urlencode

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from apps.providers import es256
from apps.providers.messages import ProviderRequest, ProviderResponse

# Whatever the endpoint that is asked: Google's own libraries put this constant there.
GOOGLE_AUDIENCE = "https://oauth2.googleapis.com/token"
FIREBASE_SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"  # RFC 7523, 2.1
ASSERTION_LIFETIME_S = 3_600  # https://developers.google.com/identity/protocols/oauth2/service-account: at most an hour
DEFAULT_TOKEN_LIFETIME_S = 3_600
# Apple takes a token whose ``iat`` is at most an hour old, and wants no new one within 20 minutes of the last:
# https://developer.apple.com/documentation/usernotifications/establishing-a-token-based-connection-to-apns
APNS_PERIOD_S = 2_700
APNS_OVERLAP_S = 300  # how long the last period's token still serves while another process makes the next
APNS_BACKDATED_S = 60  # our clock may be ahead of Apple's; no token is older than 51 minutes all the same


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A bearer token and for how many seconds it is good from when it was asked for. It is renewed ``renew_after_s``
    seconds from then; ``None`` leaves that to whoever keeps it."""

    value: str
    lifetime_s: float
    renew_after_s: float | None = None


class GrantError(Exception):
    """The token endpoint said no or something incomprehensible. ``code`` is its own word for it, or the HTTP status."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Grant(Protocol):
    """A way to an access token. ``fingerprint`` changes with the credentials and does not reveal them."""

    fingerprint: str

    def build(self, now: datetime) -> ProviderRequest | AccessToken:
        """The request to send for a token; or a token, where it can be made without asking. Raises ``GrantError``."""

    def parse(self, response: ProviderResponse) -> AccessToken:
        """The token of an answer; raises ``GrantError``."""


class ServiceAccountGrant:
    """Google's JWT-bearer grant for a service account (RFC 7523;
    https://developers.google.com/identity/protocols/oauth2/service-account)."""

    def __init__(self, account: Mapping[str, Any]) -> None:
        """``account`` is a parsed service-account file; see ``find_account_problems``."""
        self._email: str = account["client_email"]
        self._key_id: str = account.get("private_key_id", "")
        self._private_key: str = account["private_key"]
        self._token_uri: str = account["token_uri"]
        identity = "\n".join((self._email, self._key_id, self._private_key, self._token_uri))
        self.fingerprint = hashlib.sha256(identity.encode()).hexdigest()

    def build(self, now: datetime) -> ProviderRequest:
        issued = int(now.timestamp())
        claims = {
            "iss": self._email,
            "scope": FIREBASE_SCOPE,
            "aud": GOOGLE_AUDIENCE,
            "iat": issued,
            "exp": issued + ASSERTION_LIFETIME_S,
        }
        headers = {"kid": self._key_id} if self._key_id else None
        assertion = jwt.encode(claims, self._private_key, algorithm="RS256", headers=headers)
        return ProviderRequest(
            messages=(),
            url=self._token_uri,
            headers=(("Content-Type", "application/x-www-form-urlencoded"),),
            body=urlencode({"grant_type": JWT_BEARER, "assertion": assertion}).encode(),
        )

    def parse(self, response: ProviderResponse) -> AccessToken:
        try:
            answer = json.loads(response.body)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise GrantError(str(response.status))
        token, code, lifetime = answer.get("access_token"), answer.get("error"), answer.get("expires_in")
        if response.status == 200 and isinstance(token, str) and _is_token(token):
            if not isinstance(lifetime, int | float) or not 0 < lifetime < 1e7:
                lifetime = DEFAULT_TOKEN_LIFETIME_S
            return AccessToken(token, float(lifetime))
        is_word = isinstance(code, str) and code.isidentifier() and len(code) <= 40  # RFC 6749, 5.2
        raise GrantError(str(code) if is_word else str(response.status))


class ApnsGrant:
    """Apple's provider token: signed here, for a team, with a key of its developer account.

    ``iat`` is the start of a period of the clock and the signature is deterministic, so all processes show the same
    token for 45 minutes, with the cache or without it, and renewing it again and again changes nothing."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, *, key_id: str, team_id: str) -> None:
        self._key = key
        self._key_id = key_id
        self._team_id = team_id
        identity = f"{key_id}\n{team_id}\n".encode() + es256.public_point(key)
        self.fingerprint = hashlib.sha256(identity).hexdigest()

    def build(self, now: datetime) -> AccessToken:
        now_s = now.timestamp()
        began = int(now_s) // APNS_PERIOD_S * APNS_PERIOD_S
        claims = {"iss": self._team_id, "iat": began - APNS_BACKDATED_S}
        left_s = began + APNS_PERIOD_S - now_s
        return AccessToken(es256.sign(self._key, claims, key_id=self._key_id), left_s + APNS_OVERLAP_S, left_s)

    def parse(self, response: ProviderResponse) -> AccessToken:
        raise GrantError("not_asked")  # there is no endpoint


def _is_token(token: str) -> bool:
    return 0 < len(token) <= 8_192 and token.isascii() and token.isprintable()


def find_account_problems(text: str) -> tuple[dict[str, Any], list[str]]:
    """A service-account file's content as a mapping, and what is wrong with it (nothing, if it can be used)."""
    if not text:
        return {}, ["is missing; give the path of the console's file as service_account_file"]
    try:
        account = json.loads(text)
    except (ValueError, RecursionError):
        account = None
    if not isinstance(account, dict):
        return {}, ["is not a JSON object; use the file as the console hands it out"]
    missing = [
        field
        for field in ("project_id", "client_email", "private_key", "token_uri")
        if not (isinstance(account.get(field), str) and account[field])
    ]
    if missing:
        return {}, [f"lacks {', '.join(missing)}; use the file as the console hands it out"]
    problems = []
    if not account["token_uri"].startswith("https://"):
        problems.append("has a token_uri that is not https")
    try:
        jwt.encode({}, account["private_key"], algorithm="RS256")
    except (ValueError, TypeError, jwt.PyJWTError):
        problems.append("has a private_key that is no RSA key in PEM form")
    return account, problems

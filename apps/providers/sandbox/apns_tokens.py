"""Apple's provider tokens as APNs checks them:
https://developer.apple.com/documentation/usernotifications/establishing-a-token-based-connection-to-apns
"""

import time

import jwt

from apps.providers.sandbox.credentials import APNS_KEY_ID, APNS_TEAM_ID, Credentials

MAX_AGE_S = 3_600
MIN_UPDATE_INTERVAL_S = 1_200
SAME_UPDATE_S = 60  # clients that sign once a connection open several in a row, and Apple lets them
CLOCK_SKEW_S = 10


class ProviderTokens:
    """Accepts the team's tokens. A token issued at another time than those before is an update, and a second update
    within 20 minutes is one too many, so that senders which each sign their own are found out."""

    def __init__(self, credentials: Credentials) -> None:
        self._public_key = credentials.apns_public_key
        self._issued: dict[str, float] = {}
        self._updated_at: float | None = None

    def find_problem(self, authorization: str | None) -> str:
        """Why the header is refused, in Apple's word for it; ``""`` if it is good."""
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return "MissingProviderToken"
        now = time.time()
        issued = self._issued.get(token)
        if issued is None:
            issued = self._read_issued(token)
            if issued is None:
                return "InvalidProviderToken"
            if now - issued <= MAX_AGE_S and not self._admit(token, issued, now):
                return "TooManyProviderTokenUpdates"
        return "" if now - issued <= MAX_AGE_S else "ExpiredProviderToken"

    def forget(self) -> None:
        self._issued.clear()
        self._updated_at = None

    def _admit(self, token: str, issued: float, now: float) -> bool:
        if self._issued and all(abs(issued - known) > SAME_UPDATE_S for known in self._issued.values()):
            if self._updated_at is not None and now - self._updated_at < MIN_UPDATE_INTERVAL_S:
                return False
            self._updated_at = now
        self._issued = {known: at for known, at in self._issued.items() if now - at <= MAX_AGE_S} | {token: issued}
        return True

    def _read_issued(self, token: str) -> float | None:
        try:
            claims = jwt.decode(
                token,
                self._public_key,
                algorithms=["ES256"],
                issuer=APNS_TEAM_ID,
                leeway=CLOCK_SKEW_S,
                options={"require": ["iss", "iat"]},
            )
            is_our_key = jwt.get_unverified_header(token).get("kid") == APNS_KEY_ID
        except jwt.InvalidTokenError:
            return None
        return float(claims["iat"]) if is_our_key else None

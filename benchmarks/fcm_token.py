"""An access token for FCM, as google-auth gets one: a JWT signed with the service account's key (RFC 7523)."""

import time
from collections.abc import Mapping

import jwt
import requests

SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"


def fetch_access_token(account: Mapping[str, str], ca_file: str) -> str:
    """Good for an hour."""
    now = int(time.time())
    claims = {
        "iss": account["client_email"],
        "scope": SCOPE,
        "aud": account["token_uri"],
        "iat": now,
        "exp": now + 3600,
    }
    assertion = jwt.encode(claims, account["private_key"], algorithm="RS256")
    form = {"grant_type": GRANT_TYPE, "assertion": assertion}
    answer = requests.post(account["token_uri"], data=form, verify=ca_file, timeout=5)
    answer.raise_for_status()
    token: str = answer.json()["access_token"]
    return token

"""AWS Signature Version 4, the server's side: https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html"""

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, quote

from apps.providers.sandbox.exchange import Request

MAX_CLOCK_SKEW = timedelta(minutes=5)
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([A-Z0-9]+)/(\d{8})/([a-z0-9-]+)/([a-z0-9-]+)/aws4_request, ?"
    r"SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})"
)


@dataclass(frozen=True, slots=True)
class Account:
    key_id: str
    secret: str
    region: str
    service: str


def find_problem(request: Request, path: str, account: Account, now: datetime) -> tuple[str, str] | None:
    """The exception's name and its message, or ``None`` for a request that ``account`` signed. ``path`` is the whole
    path as the client wrote it."""
    authorization = request.header("authorization")
    if not authorization:
        return "MissingAuthenticationTokenException", "Missing Authentication Token"
    match = _AUTHORIZATION.fullmatch(authorization)
    stamp = request.header("x-amz-date") or ""
    if match is None or not stamp:
        return "IncompleteSignatureException", "Authorization header requires all of its parts and X-Amz-Date."
    key_id, day, region, service, names, signature = match.groups()
    if key_id != account.key_id:
        return "UnrecognizedClientException", "The security token included in the request is invalid."
    if (region, service) != (account.region, account.service) or not stamp.startswith(day):
        return "InvalidSignatureException", f"Credential should be scoped to region {account.region} and the date."
    if not _is_fresh(stamp, now):
        return "InvalidSignatureException", f"Signature not yet current or expired: {stamp}"
    signed = names.split(";")
    if (
        "host" not in signed
        or "x-amz-date" not in signed
        or not hmac.compare_digest(_sign(request, path, signed, account, stamp), signature)
    ):
        return (
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided. "
            "Check your AWS Secret Access Key and signing method.",
        )
    return None


def _is_fresh(stamp: str, now: datetime) -> bool:
    try:
        moment = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return False
    return abs(now - moment) <= MAX_CLOCK_SKEW


def _sign(request: Request, path: str, names: list[str], account: Account, stamp: str) -> str:
    canonical = "\n".join(
        (
            request.method,
            quote(path, safe="/~"),
            _canonical_query(request.query),
            *(f"{name}:{' '.join((_header(request, name) or '').split())}" for name in names),
            "",
            ";".join(names),
            hashlib.sha256(request.body).hexdigest(),
        )
    )
    scope = f"{stamp[:8]}/{account.region}/{account.service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{account.secret}".encode()
    for part in (stamp[:8], account.region, account.service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


def _header(request: Request, name: str) -> str | None:
    if name == "host":
        return request.header("host") or request.authority
    return request.header(name)


def _canonical_query(query: str) -> str:
    pairs = sorted((quote(name, safe="~"), quote(value, safe="~")) for name, value in parse_qsl(query, True))
    return "&".join(f"{name}={value}" for name, value in pairs)

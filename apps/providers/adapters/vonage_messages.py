"""Vonage Messages API, its SMS channel.

https://developer.vonage.com/en/api/messages
https://developer.vonage.com/en/api-errors/messages
https://developer.vonage.com/en/messages/concepts/signed-webhooks
"""

import base64
import binascii
import hashlib
import hmac
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

import jwt
import orjson
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from apps.channels import Channel
from apps.providers.adapters import answers
from apps.providers.adapters.keywords import find_keyword
from apps.providers.adapters.sms_segments import count_segments
from apps.providers.adapters.vonage import CLOCK_SKEW_S, SIGNATURE_TOLERANCE_S, find_problem, text_of
from apps.providers.errors import (
    ConfigurationError,
    ForgedReceipt,
    InvalidRecipient,
    MalformedReceipt,
    OutcomeUnknown,
    ProviderError,
    RateLimited,
    TransientError,
    Unauthorized,
    UnsupportedFeature,
)
from apps.providers.grants import AccessToken, Grant, GrantError
from apps.providers.messages import (
    BuildContext,
    InboundMessage,
    Message,
    ProviderRequest,
    ProviderResponse,
    Receipt,
    ReceiptKind,
    Result,
    TransportFailure,
    WebhookCall,
)

MIN_TTL_S, MAX_TTL_S = 20, 604_800
TOKEN_LIFETIME_S = 900  # what Vonage's own libraries ask for
_DIGITS = re.compile(r"[1-9][0-9]{6,14}")
_PROBLEM = re.compile(r"#([a-z0-9-]{1,64})$")

# https://developer.vonage.com/en/api-errors/messages: in the fragment of a problem's ``type``, or its ``title``.
_DEAD_NUMBER = {
    "1050": "number barred",
    "1170": "invalid number",
    "1190": "no longer active",
    "1240": "opted out",
}
_UNSUPPORTED = {"1090": "text too long"}
_THROTTLED = {"1000": "over the account's rate", "1241": "too many messages to this number"}
_TRANSIENT = {"1030": "internal error", "1100": "communication failed"}
_ACCOUNT = frozenset({"1060", "1070", "1080", "1110", "1140"})
_ACCOUNT_PROBLEMS = frozenset(
    {"low-balance", "unauthorized", "forbidden", "unprovisioned", "account-suspended", "invalid-api-key"}
)

_RECEIPT_KINDS = {
    "submitted": ReceiptKind.ACCEPTED,
    "delivered": ReceiptKind.DELIVERED,
    "read": ReceiptKind.DELIVERED,
    "rejected": ReceiptKind.FAILED,
    "undeliverable": ReceiptKind.FAILED,
}
_CODE_KINDS = {
    "1170": ReceiptKind.BOUNCED,
    "1190": ReceiptKind.BOUNCED,  # "you should remove this phone number from your database"
    "1240": ReceiptKind.UNSUBSCRIBED,  # "has already sent a STOP opt-out message"
}


class ApplicationGrant:
    """The token of a Vonage application: a JWT signed here (https://developer.vonage.com/en/getting-started/concepts/authentication)."""

    def __init__(self, application_id: str, private_key: rsa.RSAPrivateKey) -> None:
        self._application_id = application_id
        self._private_key = private_key
        public_key = private_key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.fingerprint = hashlib.sha256(application_id.encode() + public_key).hexdigest()

    def build(self, now: datetime) -> AccessToken:
        issued = int(now.timestamp())
        claims = {
            "application_id": self._application_id,
            "iat": issued,
            "exp": issued + TOKEN_LIFETIME_S,
            "jti": str(uuid.uuid4()),
        }
        return AccessToken(jwt.encode(claims, self._private_key, algorithm="RS256"), float(TOKEN_LIFETIME_S))

    def parse(self, response: ProviderResponse) -> AccessToken:
        raise GrantError("not_asked")  # there is no endpoint


class VonageMessagesAdapter:
    """SMS through Vonage's Messages API, one request a message. Title, data and collapse key have no place in an SMS; a
    message without a body sends its title.

    Options: ``base_url``, ``sender``, ``application_id`` and ``private_key`` (PEM) of an application with the Messages
    capability or, for Basic authentication, ``api_key`` and ``api_secret``; ``signature_secret`` of the account,
    without which every receipt counts as forged. With an ``api_key``, receipts must be this account's."""

    channel: ClassVar[Channel] = Channel.SMS

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        problems = answers.find_url_problem(options, "base_url")
        self._api_key, api_secret = str(options.get("api_key", "")), str(options.get("api_secret", ""))
        application_id, private_key = str(options.get("application_id", "")), str(options.get("private_key", ""))
        self._sender = str(options.get("sender", "")).removeprefix("+")
        self._signature_secret = str(options.get("signature_secret", "")).encode(errors="replace")
        key = _load_private_key(private_key)
        is_basic = not application_id and not private_key and bool(self._api_key and api_secret)
        if not is_basic and answers.as_delivery_id(application_id) is None:
            problems.append("application_id must be the UUID of an application with the Messages capability")
        if not is_basic and key is None:
            problems.append("private_key must be the application's RSA key in PEM form; give private_key_file")
        if is_basic and not answers.is_clean(self._api_key + api_secret):
            problems.append("api_key and api_secret must be as the dashboard shows them")
        if not self._sender or not answers.is_clean(self._sender):
            problems.append("sender is missing; give a number of the account or an alphanumeric sender id")
        if problems:
            raise ConfigurationError(alias, problems)
        self.alias = alias
        self._url = f"{options['base_url'].rstrip('/')}/v1/messages"
        self.grant: Grant | None = None if key is None else ApplicationGrant(application_id, key)
        self._basic = base64.b64encode(f"{self._api_key}:{api_secret}".encode()).decode()

    def build(self, messages: Sequence[Message], context: BuildContext) -> list[ProviderRequest]:
        authorization = f"Basic {self._basic}" if self.grant is None else f"Bearer {context.access_token}"
        headers = (("Authorization", authorization), ("Content-Type", "application/json"))
        requests = []
        for message in messages:
            problem = find_problem(self.alias, message)
            if problem is not None:
                requests.append(answers.reject(self.alias, message, problem))
                continue
            body: dict[str, Any] = {
                "channel": "sms",
                "message_type": "text",
                "to": message.address.removeprefix("+"),
                "from": self._sender,
                "text": text_of(message),
                "client_ref": message.delivery_id,
            }
            if message.ttl_s is not None:
                body["ttl"] = min(max(message.ttl_s, MIN_TTL_S), MAX_TTL_S)
            requests.append(ProviderRequest((message,), self._url, "POST", headers, orjson.dumps(body)))
        return requests

    def parse(self, request: ProviderRequest, response: ProviderResponse | TransportFailure) -> list[Result]:
        if isinstance(response, TransportFailure):
            error = answers.failure_error(self.alias, response)
            return answers.same_for_all(request, response, error=error)
        answer = answers.read_object(response.body)
        if response.status != 202:
            return answers.same_for_all(request, response, error=self._read_error(response, answer))
        message_id = answers.as_message_id(answer.get("message_uuid"))
        if message_id is None:
            unknown = OutcomeUnknown(self.alias, "no_message_uuid", "accepted without a message UUID")
            return answers.same_for_all(request, response, error=unknown)
        segments = count_segments(text_of(request.messages[0])).count
        return answers.same_for_all(request, response, message_id=message_id, segments=segments)

    def _read_error(self, response: ProviderResponse, answer: Mapping[str, Any]) -> ProviderError:
        problem = _read_problem(answer)
        code = answers.as_code(problem)
        if code in _DEAD_NUMBER:
            return InvalidRecipient(self.alias, code, _DEAD_NUMBER[code])
        if code in _UNSUPPORTED:
            return UnsupportedFeature(self.alias, code, _UNSUPPORTED[code])
        if code in _THROTTLED:
            return RateLimited(self.alias, code, _THROTTLED[code], answers.retry_after_s(response))
        if code in _TRANSIENT:
            return TransientError(self.alias, code, _TRANSIENT[code])
        if response.status == 401 and self.grant is not None:
            return Unauthorized(self.alias, code or "401", "the access token was refused")
        if response.status in (401, 403) or code in _ACCOUNT or problem in _ACCOUNT_PROBLEMS:
            return answers.credentials_error(self.alias, code or str(response.status))
        if response.status == 422 and _find_blamed(answer) == {"to"}:
            return InvalidRecipient(self.alias, code or "422", "the number was refused")
        return answers.status_error(self.alias, response, code)

    def verify_receipt(self, call: WebhookCall, now: datetime) -> None:
        """An HS256 JWT in ``Authorization`` whose ``payload_hash`` is the body's SHA-256 in hexadecimal digits. In an
        emergency Vonage sends calls unsigned; refused, they come again later."""
        if not self._signature_secret:
            raise ForgedReceipt("no signature_secret is configured")
        claims = _read_claims(call.headers.get("authorization", ""), self._signature_secret)
        payload_hash, issued = claims.get("payload_hash"), claims.get("iat")
        actual = hashlib.sha256(call.body).hexdigest()
        if not isinstance(payload_hash, str) or not hmac.compare_digest(
            actual.encode(), payload_hash.lower().encode(errors="replace")
        ):
            raise ForgedReceipt("the body does not have the payload_hash of the token")
        if self._api_key and claims.get("api_key") != self._api_key:
            raise ForgedReceipt("the token is of another account")
        if not isinstance(issued, int) or not -CLOCK_SKEW_S <= now.timestamp() - issued <= SIGNATURE_TOLERANCE_S:
            raise ForgedReceipt("the call is too old, or one of our clocks is wrong")

    def parse_receipts(self, call: WebhookCall, now: datetime) -> list[Receipt]:
        fields = answers.read_object(call.body)
        message_id, status = answers.as_message_id(fields.get("message_uuid")), fields.get("status")
        if message_id is not None and status is None and "message_type" in fields:
            return []  # a person's message: see parse_inbound
        if message_id is None or not isinstance(status, str):
            raise MalformedReceipt("expected message_uuid and status")
        if status not in _RECEIPT_KINDS:
            raise MalformedReceipt("an unknown status")
        kind, error = _RECEIPT_KINDS[status], fields.get("error")
        code = answers.as_code(_read_problem(error)) if isinstance(error, dict) else ""
        if kind is ReceiptKind.FAILED:
            kind = _CODE_KINDS.get(code, kind)
        occurred_at = answers.as_iso_moment(fields.get("timestamp"), now) or now
        delivery_id = answers.as_delivery_id(fields.get("client_ref"))
        return [Receipt(f"{message_id}:{status}", kind, occurred_at, delivery_id, message_id, code)]

    def parse_inbound(self, call: WebhookCall, now: datetime) -> list[InboundMessage]:
        fields = answers.read_object(call.body)
        if "status" in fields or fields.get("channel") != "sms" or "message_type" not in fields:
            return []
        message_id, sender, text = (fields.get(name) for name in ("message_uuid", "from", "text"))
        message_id = answers.as_message_id(message_id)
        if message_id is None or not isinstance(sender, str) or not _DIGITS.fullmatch(sender):
            raise MalformedReceipt("expected message_uuid and from")
        keyword = find_keyword(text) if isinstance(text, str) else ""
        occurred_at = answers.as_iso_moment(fields.get("timestamp"), now) or now
        return [InboundMessage(f"{message_id}:inbound", f"+{sender}", keyword, occurred_at)]


def _read_problem(answer: Mapping[str, Any]) -> str:
    """What a problem document (RFC 9457) is about: ``1120``, ``low-balance``."""
    kind, title = answer.get("type"), answer.get("title")
    if isinstance(kind, str) and (match := _PROBLEM.search(kind)):
        return match[1]
    return answers.as_code(title)


def _find_blamed(answer: Mapping[str, Any]) -> set[str]:
    """The parameters of ours that a 422 complains of."""
    blamed = answer.get("invalid_parameters")
    names = [each.get("name") for each in blamed if isinstance(each, dict)] if isinstance(blamed, list) else []
    return {name for name in names if isinstance(name, str)}


def _read_claims(authorization: str, secret: bytes) -> Mapping[str, Any]:
    """The claims of a bearer token that ``secret`` signed (RFC 7515, HS256 and nothing else)."""
    scheme, _, token = authorization.partition(" ")
    signed, _, signature = token.rpartition(".")
    header, _, payload = signed.partition(".")
    expected = hmac.digest(secret, signed.encode(errors="replace"), hashlib.sha256)
    if scheme.lower() != "bearer" or not hmac.compare_digest(_decode(signature), expected):
        raise ForgedReceipt("the token in Authorization is missing or wrongly signed")
    if answers.read_object(_decode(header)).get("alg") != "HS256":
        raise ForgedReceipt("the token is not of algorithm HS256")
    return answers.read_object(_decode(payload))


def _decode(part: str) -> bytes:
    try:
        return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""


def _load_private_key(text: str) -> rsa.RSAPrivateKey | None:
    try:
        key = serialization.load_pem_private_key(text.replace("\\n", "\n").encode(errors="replace"), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, rsa.RSAPrivateKey) else None

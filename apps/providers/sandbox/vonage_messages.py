"""Vonage Messages API, its SMS channel: https://developer.vonage.com/en/api/messages

Status and inbound webhooks carry an HS256 token: https://developer.vonage.com/en/messages/concepts/signed-webhooks.
Vonage publishes no test numbers: those here are ours.
"""

import base64
import hashlib
import hmac
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import jwt
import orjson

from apps.providers.sandbox import gsm, inbound
from apps.providers.sandbox.credentials import VONAGE_APPLICATION_ID, VONAGE_FROM, encode_base64url
from apps.providers.sandbox.exchange import Answer, Request, dropped, html_answer, json_answer
from apps.providers.sandbox.faults import Fault, InvalidRuleError, Mode, Rule
from apps.providers.sandbox.inbox import Shown
from apps.providers.sandbox.posting import Call, Poster, Receipt
from apps.providers.sandbox.state import Accepted, Sandbox

MAX_TEXT_CHARACTERS = 3_200
MAX_REFERENCE_LENGTH = 100
MAX_TOKEN_LIFETIME_S = 86_400
PAGE = "https://developer.vonage.com/api-errors"

# https://developer.vonage.com/en/api-errors and …/api-errors/messages: code -> HTTP status, title.
ERRORS = {
    "1000": (429, "Throttled - You have exceeded the submission capacity allowed on this account."),
    "1020": (422, "Invalid params - The value of one or more parameters is invalid."),
    "1030": (500, "Internal error - There was an error processing your request in the Platform."),
    "low-balance": (402, "Low balance"),
    "unauthorized": (401, "Unauthorized"),
    "forbidden": (403, "Forbidden"),
    "not-found": (404, "Not Found"),
}
DEFAULT_CODES = {401: "unauthorized", 402: "low-balance", 403: "forbidden", 422: "1020", 429: "1000", 500: "1030"}
# Accepted, then rejected with this code.
ENDINGS = {
    "1040": "Invalid message",
    "1180": "Absent Subscriber Temporary",
    "1190": "Absent Subscriber Permanent",
    "1240": "Illegal Number",
    "1330": "Unknown",
}
INVALID_NUMBER = "15005550001"
UNDELIVERABLE = {"15005550004": "1240", "15005559903": "1180", "15005559905": "1190"}

_NUMBER = re.compile(r"[1-9]\d{6,14}")
_SENDER = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9 ]{3,11}")


class VonageMessagesProvider:
    """``v1/messages``."""

    name = "vonage_messages"
    channel = "sms"

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._credentials = credentials = sandbox.credentials
        basic = base64.b64encode(f"{credentials.vonage_api_key}:{credentials.vonage_api_secret}".encode())
        self._basic = b"Basic " + basic
        self._webhook_url = f"{credentials.webhook_base}/v1/webhooks/vonage_messages"
        self.poster = Poster(build=self._build_call)
        inbound.offer(sandbox, self.name, self.receive)

    def handle(self, request: Request) -> Answer:
        if not self._is_authorized(request.header("authorization") or ""):
            return self._refuse("unauthorized")
        if request.path != "v1/messages" or request.method != "POST":
            return self._refuse("not-found")
        try:
            message = orjson.loads(request.body)
        except orjson.JSONDecodeError:
            message = None
        problems = _find_problems(message) if isinstance(message, dict) else {"body": "must be a JSON object"}
        if problems:
            return self._refuse("1020", problems)
        fault = self._sandbox.faults[self.name].decide((f"+{message['to']}",))
        if fault.is_refused:
            return self._fail(fault)
        message_id = self._accept(message, len(request.body))
        if fault.mode is Mode.DROP:
            return self._sandbox.drop(self, dropped(fault.delay_s))
        return json_answer(202, {"message_uuid": message_id}).after(fault.delay_s)

    def show(self, source: Mapping[str, Any]) -> Shown:
        return Shown(sender=source["from"], body=source["text"], extra={"segments": gsm.count_segments(source["text"])})

    def check_rule(self, rule: Rule) -> None:
        if rule.code is not None and rule.code not in ERRORS:
            raise InvalidRuleError(f"code: known are {', '.join(ERRORS)}")

    def receive(self, sender: str, text: str) -> None:
        payload = {
            "channel": "sms",
            "message_uuid": str(uuid.uuid4()),
            "to": VONAGE_FROM,
            "from": sender.removeprefix("+"),
            "message_type": "text",
            "text": text,
            "sms": {"num_messages": str(gsm.count_segments(text)), "keyword": (text.split() or [""])[0].upper()},
            "usage": {"price": "0.0333", "currency": "EUR"},
        }
        self._sandbox.receipts.schedule(self.name, [Receipt(payload=payload, url=self._webhook_url)])

    def _is_authorized(self, authorization: str) -> bool:
        if authorization.startswith("Basic "):
            return hmac.compare_digest(authorization.encode(), self._basic)
        try:
            claims = jwt.decode(
                authorization.removeprefix("Bearer "),
                self._credentials.vonage_public_key,
                algorithms=["RS256"],
                options={"require": ["iat", "exp", "jti", "application_id"]},
                leeway=60,
            )
        except jwt.PyJWTError:
            return False
        lifetime_s = claims["exp"] - claims["iat"]
        return bool(claims["application_id"] == VONAGE_APPLICATION_ID and lifetime_s <= MAX_TOKEN_LIFETIME_S)

    def _accept(self, message: Mapping[str, Any], size: int) -> str:
        message_id = str(uuid.uuid4())
        code = UNDELIVERABLE.get(message["to"])
        if code is None and self._sandbox.receipts.draws_failure(self.name):
            code = "1330"
        common = {
            "message_uuid": message_id,
            "to": message["to"],
            "from": message["from"],
            "channel": "sms",
            "client_ref": message.get("client_ref", ""),
            "usage": {"currency": "EUR", "price": "0.0333"},
            "destination": {"network_code": "12345"},
            "sms": {"count_total": str(gsm.count_segments(message["text"]))},
        }
        last: dict[str, Any] = {"status": "delivered"}
        if code is not None:
            last = {"status": "rejected", "error": _problem(code, ENDINGS[code])}
        url = message.get("webhook_url") or self._webhook_url
        receipts = [Receipt(payload={**common, **ending}, url=url) for ending in ({"status": "submitted"}, last)]
        reference = str(message.get("client_ref", ""))
        accepted = Accepted(reference, message_id, f"+{message['to']}", size, dict(message))
        self._sandbox.accept(self, accepted, receipts)
        return message_id

    def _build_call(self, receipts: Sequence[Receipt], is_forged: bool) -> Call:
        receipt, now = receipts[0], datetime.now(UTC)
        moment = datetime.fromtimestamp(receipt.occurred_at, UTC).isoformat(timespec="milliseconds")
        body = orjson.dumps({**receipt.payload, "timestamp": moment.replace("+00:00", "Z")})
        claims = {
            "iat": int(now.timestamp()),
            "jti": str(uuid.uuid4()),
            "iss": "Vonage",
            "payload_hash": hashlib.sha256(body).hexdigest(),
            "api_key": self._credentials.vonage_api_key,
            "application_id": VONAGE_APPLICATION_ID,
        }
        secret = "not-the-signature-secret" if is_forged else self._credentials.vonage_signature_secret
        headers = (("Authorization", f"Bearer {sign(claims, secret)}"), ("Content-Type", "application/json"))
        return Call(receipt.url, headers, body)

    def _fail(self, fault: Fault) -> Answer:
        if fault.mode is Mode.OUTAGE:
            return self._sandbox.drop(self, dropped(fault.delay_s))
        status = fault.status or (429 if fault.mode is Mode.THROTTLE else 503)
        code = fault.code or DEFAULT_CODES.get(status)
        if code is None:  # a load balancer's page
            answer = html_answer(status, f"Error {status}")
            return self._sandbox.reject(self, str(status), answer).after(fault.delay_s)
        problems = {"to": "is not a number"} if code == "1020" else None
        return self._refuse(code, problems, fault.retry_after_s).after(fault.delay_s)

    def _refuse(
        self, code: str, problems: Mapping[str, str] | None = None, retry_after_s: float | None = None
    ) -> Answer:
        status, title = ERRORS[code]
        content = _problem(code, title)
        if problems:
            content["invalid_parameters"] = [{"name": name, "reason": text} for name, text in problems.items()]
        headers = () if retry_after_s is None else (("retry-after", str(round(retry_after_s))),)
        return self._sandbox.reject(self, code, json_answer(status, content, headers))


def sign(claims: Mapping[str, Any], secret: str) -> str:
    """A JWT of algorithm HS256, made by hand: the secret may be shorter than libraries like."""
    parts = ({"alg": "HS256", "typ": "JWT"}, claims)
    signed = ".".join(encode_base64url(orjson.dumps(part)) for part in parts)
    return f"{signed}.{encode_base64url(hmac.digest(secret.encode(), signed.encode(), 'sha256'))}"


def _problem(code: str, title: str) -> dict[str, Any]:
    page = f"{PAGE}/messages#{code}" if code.isdigit() else f"{PAGE}#{code}"
    heading, _, detail = title.partition(" - ")
    return {"type": page, "title": heading, "detail": detail or title, "instance": uuid.uuid4().hex}


def _find_problems(message: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with a message, by parameter."""
    problems = {}
    if message.get("channel") != "sms":
        problems["channel"] = "this account has the channel sms alone"
    if message.get("message_type") != "text":
        problems["message_type"] = "must be text"
    recipient, sender, text = (message.get(name) for name in ("to", "from", "text"))
    if not isinstance(recipient, str) or not _NUMBER.fullmatch(recipient) or recipient == INVALID_NUMBER:
        problems["to"] = "must be a number in E.164 format without a leading +"
    if not isinstance(sender, str) or not (sender == VONAGE_FROM or _SENDER.fullmatch(sender)):
        problems["from"] = "must be a number of the account or an alphanumeric sender id"
    if not isinstance(text, str) or not 0 < len(text) <= MAX_TEXT_CHARACTERS:
        problems["text"] = f"must be a text of up to {MAX_TEXT_CHARACTERS} characters"
    reference, ttl = message.get("client_ref", ""), message.get("ttl", 20)
    if not isinstance(reference, str) or len(reference) > MAX_REFERENCE_LENGTH:
        problems["client_ref"] = f"must be a text of up to {MAX_REFERENCE_LENGTH} characters"
    if not isinstance(ttl, int) or isinstance(ttl, bool) or not 20 <= ttl <= 604_800:
        problems["ttl"] = "must be from 20 to 604800 seconds"
    return problems


def create(sandbox: Sandbox) -> VonageMessagesProvider:
    return VonageMessagesProvider(sandbox)

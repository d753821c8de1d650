"""Telnyx Messaging: https://developers.telnyx.com/api-reference/messages/send-a-message

Webhooks are signed with Ed25519 as on https://developers.telnyx.com/docs/messaging/messages/receiving-webhooks. Telnyx
publishes no test numbers: those here are ours.
"""

import base64
import hmac
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from apps.providers.sandbox import gsm
from apps.providers.sandbox.credentials import TELNYX_FROM
from apps.providers.sandbox.exchange import Answer, Request, dropped, html_answer, json_answer
from apps.providers.sandbox.faults import Fault, InvalidRuleError, Mode, Rule
from apps.providers.sandbox.inbox import Shown
from apps.providers.sandbox.posting import Call, Poster, Receipt
from apps.providers.sandbox.state import Accepted, Sandbox

MAX_PARTS = 10

# https://developers.telnyx.com/docs/messaging/messages/error-codes: code -> HTTP status, title.
ERRORS = {
    "10005": (404, "Resource not found"),
    "10007": (500, "Unexpected error"),
    "10009": (401, "Authentication failed"),
    "10011": (429, "Too many requests"),
    "10015": (400, "Bad Request"),
    "40300": (409, "Blocked due to STOP message"),
    "40302": (400, "Message too large"),
    "40305": (400, "Invalid 'from' address"),
    "40310": (400, "Invalid 'to' address"),
    "40316": (400, "No content provided"),
    "40318": (429, "Message queue full"),
}
DEFAULT_CODES = {401: "10009", 404: "10005", 429: "10011", 500: "10007"}
REFUSED = {"+15005550001": "40310", "+15005550004": "40300"}
# Accepted, then failed with this code.
UNDELIVERABLE = {"+15005559903": "40008", "+15005559905": "40012", "+15005559906": "40001"}
_E164 = re.compile(r"\+[1-9]\d{6,14}")


class TelnyxProvider:
    """``v2/messages``."""

    name = "telnyx"
    channel = "sms"

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._authorization = f"Bearer {sandbox.credentials.telnyx_api_key}".encode()
        self.poster = Poster(build=self._build_call)

    def handle(self, request: Request) -> Answer:
        if not hmac.compare_digest((request.header("authorization") or "").encode(), self._authorization):
            return self._refuse("10009")
        if request.path != "v2/messages" or request.method != "POST":
            return self._refuse("10005")
        try:
            message = orjson.loads(request.body)
        except orjson.JSONDecodeError:
            message = None
        code = _find_error(message) if isinstance(message, dict) else "10015"
        if code is not None:
            return self._refuse(code)
        fault = self._sandbox.faults[self.name].decide((message["to"],))
        if fault.is_refused:
            return self._fail(fault)
        resource = self._accept(message, len(request.body))
        if fault.mode is Mode.DROP:
            return self._sandbox.drop(self, dropped(fault.delay_s))
        return json_answer(200, {"data": resource}).after(fault.delay_s)

    def show(self, source: Mapping[str, Any]) -> Shown:
        return Shown(sender=source["from"], body=source["text"], extra={"segments": gsm.count_segments(source["text"])})

    def check_rule(self, rule: Rule) -> None:
        if rule.code is not None and rule.code not in ERRORS:
            raise InvalidRuleError(f"code: known are {', '.join(ERRORS)}")

    def _accept(self, message: Mapping[str, Any], size: int) -> dict[str, Any]:
        message_id, tags = str(uuid.uuid4()), message.get("tags") or []
        failure = UNDELIVERABLE.get(message["to"])
        if failure is None and self._sandbox.receipts.draws_failure(self.name):
            failure = "40008"
        url = message.get("webhook_url") or ""
        last = "delivered" if failure is None else "delivery_failed"
        receipts = [
            Receipt(payload=(event, _describe(message, message_id, status, code)), url=url)
            for event, status, code in (("message.sent", "sent", None), ("message.finalized", last, failure))
        ]
        accepted = Accepted(str(tags[0]) if tags else "", message_id, message["to"], size, message)
        self._sandbox.accept(self, accepted, receipts if url else ())
        return _describe(message, message_id, "queued", None)

    def _build_call(self, receipts: Sequence[Receipt], is_forged: bool) -> Call:
        receipt = receipts[0]
        event_type, payload = receipt.payload
        event = {
            "record_type": "event",
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{payload['id']}:{payload['to'][0]['status']}")),
            "event_type": event_type,
            "occurred_at": datetime.fromtimestamp(receipt.occurred_at, UTC).isoformat(timespec="milliseconds"),
            "payload": payload,
        }
        body, timestamp = orjson.dumps({"data": event}), str(int(time.time()))
        key = Ed25519PrivateKey.generate() if is_forged else self._sandbox.credentials.telnyx_signing_key
        signature = base64.b64encode(key.sign(timestamp.encode() + b"|" + body)).decode()
        headers = (
            ("Content-Type", "application/json"),
            ("Telnyx-Timestamp", timestamp),
            ("Telnyx-Signature-Ed25519", signature),
        )
        return Call(receipt.url, headers, body)

    def _fail(self, fault: Fault) -> Answer:
        if fault.mode is Mode.OUTAGE:
            return self._sandbox.drop(self, dropped(fault.delay_s))
        status = fault.status or (429 if fault.mode is Mode.THROTTLE else 503)
        code = fault.code or DEFAULT_CODES.get(status)
        if code is None:  # a load balancer's page: Telnyx's own errors have codes
            return self._sandbox.reject(self, str(status), html_answer(status, f"Error {status}")).after(fault.delay_s)
        return self._refuse(code, fault.retry_after_s).after(fault.delay_s)

    def _refuse(self, code: str, retry_after_s: float | None = None) -> Answer:
        status, title = ERRORS[code]
        content = {"errors": [{"code": code, "title": title, "detail": title}]}
        headers = () if retry_after_s is None else (("retry-after", str(round(retry_after_s))),)
        return self._sandbox.reject(self, code, json_answer(status, content, headers))


def _describe(message: Mapping[str, Any], message_id: str, status: str, code: str | None) -> dict[str, Any]:
    return {
        "record_type": "message",
        "direction": "outbound",
        "id": message_id,
        "type": "SMS",
        "from": {"phone_number": message["from"]},
        "to": [{"phone_number": message["to"], "status": status}],
        "text": message["text"],
        "tags": message.get("tags") or [],
        "webhook_url": message.get("webhook_url"),
        "parts": gsm.count_segments(message["text"]),
        "errors": [] if code is None else [{"code": code, "title": "Delivery failed"}],
    }


def _find_error(message: Mapping[str, Any]) -> str | None:
    """The code of the first thing wrong with a message, or ``None``."""
    recipient, text, tags = message.get("to"), message.get("text"), message.get("tags") or []
    if not isinstance(recipient, str) or not _E164.fullmatch(recipient):
        return "40310"
    if message.get("from") != TELNYX_FROM:
        return "40305"
    if not isinstance(text, str) or not text:
        return "40316"
    if gsm.count_segments(text) > MAX_PARTS:
        return "40302"
    if not isinstance(tags, list) or not isinstance(message.get("webhook_url") or "", str):
        return "10015"
    return REFUSED.get(recipient)


def create(sandbox: Sandbox) -> TelnyxProvider:
    return TelnyxProvider(sandbox)

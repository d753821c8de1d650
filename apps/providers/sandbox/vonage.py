"""Vonage SMS API: https://developer.vonage.com/en/api/sms

HTTP says 200 whatever happens; every part of a text has a status of its own. Receipts are POSTed as JSON, signed with
an HMAC-SHA256 as on https://developer.vonage.com/en/getting-started/concepts/signing-messages. Vonage publishes no test
numbers: those here are ours.
"""

import base64
import hashlib
import hmac
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import orjson

from apps.providers.sandbox import gsm, inbound
from apps.providers.sandbox.credentials import VONAGE_FROM
from apps.providers.sandbox.exchange import Answer, Request, as_mapping, dropped, html_answer, json_answer
from apps.providers.sandbox.faults import Fault, InvalidRuleError, Mode, Rule
from apps.providers.sandbox.inbox import Shown
from apps.providers.sandbox.posting import Call, Poster, Receipt
from apps.providers.sandbox.state import Accepted, Sandbox

MAX_TEXT_CHARACTERS = 3_200
MAX_CALLBACK_LENGTH = 100
MAX_REFERENCE_LENGTH = 100
SIGNATURE_TOLERANCE_S = 300

# https://developer.vonage.com/en/messaging/sms/guides/troubleshooting-sms
ERRORS = {
    "1": "Throughput Rate Exceeded - please wait and retry",
    "2": "Missing parameters",
    "3": "Invalid parameters",
    "4": "Bad Credentials",
    "5": "Internal Error",
    "6": "Unroutable message - rejected",
    "7": "Number barred",
    "8": "Partner account barred",
    "9": "Quota Exceeded - rejected",
    "10": "Too many existing binds",
    "11": "Account not enabled for HTTP",
    "12": "Message too long",
    "14": "Invalid Signature",
    "15": "Illegal Sender Address - rejected",
    "22": "Invalid Network Code",
    "23": "Invalid Callback Url",
    "29": "Non White-listed Destination - rejected",
    "32": "Signature And API Secret Disallowed",
    "33": "Number De-activated",
}
RECIPIENT_ERRORS = {"15005550001": "3", "15005550003": "29", "15005550004": "7", "15005550009": "33"}
LAST_PART_FAILS = "15005550010"
# Accepted, then failed with this code: unreachable handset, number no longer active, barred, opted out.
# https://developer.vonage.com/en/messaging/sms/guides/delivery-receipts
UNDELIVERABLE = {"15005559903": "2", "15005559905": "3", "15005559906": "4", "15005559909": "9"}
UNKNOWN_ERROR = "1"

_NUMBER = re.compile(r"\d{7,15}")
_ALPHANUMERIC_SENDER = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9 ]{3,11}")


class VonageProvider:
    """``sms/json``."""

    name = "vonage"
    channel = "sms"

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._key = sandbox.credentials.vonage_api_key
        self._secret = sandbox.credentials.vonage_api_secret
        self._signature_secret = sandbox.credentials.vonage_signature_secret.encode()
        self._webhook_url = f"{sandbox.credentials.webhook_base}/v1/webhooks/vonage"
        self.poster = Poster(build=self._build_call)
        inbound.offer(sandbox, self.name, self.receive)

    def handle(self, request: Request) -> Answer:
        if request.path != "sms/json" or request.method not in {"GET", "POST"}:
            return self._sandbox.reject(self, "404", html_answer(404, "Not Found"))
        fields = _read_fields(request)
        code = self._check_credentials(request, fields) or _find_error(fields)
        if code is not None:
            return self._refuse(code)
        fault = self._sandbox.faults[self.name].decide((f"+{fields['to']}",))
        if fault.is_refused:
            return self._fail(fault)
        parts = self._accept(fields, len(request.body))
        if fault.mode is Mode.DROP:
            return self._sandbox.drop(self, dropped(fault.delay_s))
        return json_answer(200, {"message-count": str(len(parts)), "messages": parts}).after(fault.delay_s)

    def show(self, source: Mapping[str, Any]) -> Shown:
        return Shown(sender=source["from"], body=source["text"], extra={"segments": source["segments"]})

    def check_rule(self, rule: Rule) -> None:
        if rule.code is not None and rule.code not in ERRORS:
            raise InvalidRuleError(f"code: known are {', '.join(ERRORS)}")

    def receive(self, sender: str, text: str) -> None:
        """https://developer.vonage.com/en/messaging/sms/guides/inbound-sms"""
        payload = {
            "api-key": self._key,
            "msisdn": sender.removeprefix("+"),
            "to": VONAGE_FROM,
            "messageId": _new_id(),
            "text": text,
            "type": "text" if gsm.is_basic(text) else "unicode",
            "keyword": (text.split() or [""])[0].upper(),
        }
        self._sandbox.receipts.schedule(self.name, [Receipt(payload=payload, url=self._webhook_url)])

    def _check_credentials(self, request: Request, fields: Mapping[str, str]) -> str | None:
        basic = base64.b64encode(f"{self._key}:{self._secret}".encode()).decode()
        if request.header("authorization"):
            return None if _is_same(request.header("authorization") or "", f"Basic {basic}") else "4"
        if fields.get("api_key") != self._key:
            return "4" if fields.get("api_key") else "2"
        if "sig" not in fields:
            return None if _is_same(fields.get("api_secret", ""), self._secret) else "4"
        if "api_secret" in fields:
            return "32"
        timestamp = fields.get("timestamp", "")
        is_fresh = timestamp.isdigit() and abs(time.time() - int(timestamp)) <= SIGNATURE_TOLERANCE_S
        signed = {name: value for name, value in fields.items() if name != "sig"}
        is_signed = _is_same(fields["sig"].lower(), sign(signed, self._signature_secret))
        return None if is_fresh and is_signed else "14"

    def _accept(self, fields: Mapping[str, str], size: int) -> list[dict[str, str]]:
        text = fields["text"] if fields.get("type") == "unicode" else gsm.to_basic(fields["text"])
        segments = gsm.count_segments(text)
        parts = [
            {
                "to": fields["to"],
                "message-id": _new_id(),
                "status": "0",
                "remaining-balance": "15.53590000",
                "message-price": "0.03330000",
                "network": "12345",
                **({"client-ref": fields["client-ref"]} if "client-ref" in fields else {}),
            }
            for _ in range(segments)
        ]
        if fields["to"] == LAST_PART_FAILS:
            parts[-1] = {"status": "5", "error-text": ERRORS["5"]}
        accepted = Accepted(
            delivery_id=fields.get("client-ref", ""),
            message_id=parts[0].get("message-id", ""),
            address=f"+{fields['to']}",
            size=size,
            source={"from": fields["from"], "text": text, "segments": segments},
        )
        self._sandbox.accept(self, accepted, self._make_receipts(fields, parts))
        return parts

    def _make_receipts(self, fields: Mapping[str, str], parts: Sequence[Mapping[str, str]]) -> list[Receipt]:
        if fields.get("status-report-req", "true").lower() in {"false", "0"}:
            return []
        code = UNDELIVERABLE.get(fields["to"], "0")
        if code == "0" and self._sandbox.receipts.draws_failure(self.name):
            code = UNKNOWN_ERROR
        common = {
            "msisdn": fields["to"],
            "to": fields["from"],
            "network-code": "12345",
            "price": "0.03330000",
            "api-key": self._key,
            **({"client-ref": fields["client-ref"]} if "client-ref" in fields else {}),
        }
        url = fields.get("callback") or self._webhook_url
        return [
            Receipt(payload={**common, "messageId": part["message-id"], "status": status, "err-code": err}, url=url)
            for status, err in (("accepted", "0"), ("delivered" if code == "0" else "failed", code))
            for part in parts
            if part["status"] == "0"
        ]

    def _build_call(self, receipts: Sequence[Receipt], is_forged: bool) -> Call:
        now = datetime.now(UTC)
        fields = {
            **receipts[0].payload,
            "message-timestamp": now.strftime("%Y-%m-%d %H:%M:%S"),
            "timestamp": str(int(now.timestamp())),
            "nonce": str(uuid.uuid4()),
        }
        if "status" in fields:
            fields["scts"] = now.strftime("%y%m%d%H%M")
        secret = b"not-the-signature-secret" if is_forged else self._signature_secret
        body = orjson.dumps({**fields, "sig": sign(fields, secret).upper()})
        return Call(receipts[0].url, (("Content-Type", "application/json"),), body)

    def _fail(self, fault: Fault) -> Answer:
        if fault.mode is Mode.OUTAGE:
            return self._sandbox.drop(self, dropped(fault.delay_s))
        if fault.status is not None and fault.code is None:
            headers = () if fault.retry_after_s is None else (("retry-after", str(round(fault.retry_after_s))),)
            answer = html_answer(fault.status, f"Error {fault.status}")
            answer = Answer(answer.status, answer.headers + headers, answer.body)
            return self._sandbox.reject(self, str(fault.status), answer).after(fault.delay_s)
        code = fault.code or ("1" if fault.mode is Mode.THROTTLE else "5")
        return self._refuse(code, fault.retry_after_s).after(fault.delay_s)

    def _refuse(self, code: str, retry_after_s: float | None = None) -> Answer:
        content = {"message-count": "1", "messages": [{"status": code, "error-text": ERRORS[code]}]}
        headers = () if retry_after_s is None else (("retry-after", str(round(retry_after_s))),)
        return self._sandbox.reject(self, code, json_answer(200, content, headers))


def sign(fields: Mapping[str, str], secret: bytes) -> str:
    """The parameters by name as ``&name=value``, with ``&`` and ``=`` in values written as ``_``; in lower case."""
    text = "".join(f"&{name}={re.sub('[&=]', '_', value)}" for name, value in sorted(fields.items()))
    return hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()


def _is_same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())


def _read_fields(request: Request) -> dict[str, str]:
    fields = dict(parse_qsl(request.query, keep_blank_values=True))
    if (request.header("content-type") or "").lower().startswith("application/json"):
        try:
            content = as_mapping(orjson.loads(request.body))
        except orjson.JSONDecodeError:
            content = {}
        fields |= {name: str(value) for name, value in content.items() if value is not None}
    else:
        fields |= dict(parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True))
    return fields


def _find_error(fields: Mapping[str, str]) -> str | None:
    """The status of the first thing wrong with a message, or ``None``."""
    recipient, sender, text = (fields.get(name, "") for name in ("to", "from", "text"))
    if not (recipient and sender and text):
        return "2"
    if not _NUMBER.fullmatch(recipient) or len(fields.get("client-ref", "")) > MAX_REFERENCE_LENGTH:
        return "3"
    if recipient in RECIPIENT_ERRORS:
        return RECIPIENT_ERRORS[recipient]
    if sender.removeprefix("+") != VONAGE_FROM and not _ALPHANUMERIC_SENDER.fullmatch(sender):
        return "15"
    return "12" if len(text) > MAX_TEXT_CHARACTERS else _check_options(fields)


def _check_options(fields: Mapping[str, str]) -> str | None:
    ttl = fields.get("ttl", "20000")
    if not (ttl.isascii() and ttl.isdigit() and 20_000 <= int(ttl) <= 604_800_000):
        return "3"
    if fields.get("type", "text") not in {"text", "unicode"}:
        return "3"
    callback = fields.get("callback")
    if callback is not None and not (len(callback) <= MAX_CALLBACK_LENGTH and _is_usable_url(callback)):
        return "23"
    return None


def _is_usable_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return is_usable and url.isascii() and not parts.query


def _new_id() -> str:
    return uuid.uuid4().hex[:16].upper()


def create(sandbox: Sandbox) -> VonageProvider:
    return VonageProvider(sandbox)

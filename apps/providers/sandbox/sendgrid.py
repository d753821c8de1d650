"""SendGrid v3 Mail Send: https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send

Events are posted in batches, signed as on
https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features.
Addresses whose local part is one of ``ADDRESS_CONVENTIONS`` end in that way.
"""

import base64
import hmac
import time
import uuid
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from apps.providers.sandbox import sendgrid_mail
from apps.providers.sandbox.exchange import Answer, Request, as_mapping, dropped, html_answer, json_answer
from apps.providers.sandbox.faults import Fault, InvalidRuleError, Mode, Rule
from apps.providers.sandbox.inbox import Shown
from apps.providers.sandbox.posting import Call, Poster, Receipt
from apps.providers.sandbox.sendgrid_mail import MailError
from apps.providers.sandbox.state import Accepted, Sandbox

MAX_BODY_BYTES = 30 * 1024 * 1024
EVENTS_PER_CALL = 500
HELP = "http://sendgrid.com/docs/API_Reference/Web_API_v3/Mail/errors.html"

# https://www.twilio.com/docs/sendgrid/api-reference/how-to-use-the-sendgrid-v3-api/responses
TEXTS = {
    400: "Bad Request",
    401: "The provided authorization grant is invalid, expired, or revoked",
    403: "access forbidden",
    404: "The resource you tried to locate could not be found or does not exist.",
    405: "method not allowed",
    413: "The JSON payload you have included in your request is too large.",
    415: "Unsupported media type",
    429: "too many requests",
    500: "An error occurred on a SendGrid server.",
    503: "The SendGrid v3 Web API is not available.",
}

# Local part -> the events of such a message, in order, with what SendGrid adds to each.
_PROCESSED: tuple[str, dict[str, str]] = ("processed", {})
_DELIVERED = ("delivered", {"response": "250 OK"})
ADDRESS_CONVENTIONS: dict[str, tuple[tuple[str, dict[str, str]], ...]] = {
    "bounce": (
        _PROCESSED,
        ("bounce", {"type": "bounce", "status": "5.1.1", "reason": "550 5.1.1 The email account does not exist."}),
    ),
    "blocked": (
        _PROCESSED,
        ("bounce", {"type": "blocked", "status": "4.7.1", "reason": "421 4.7.1 Temporarily blocked for reputation."}),
    ),
    "dropped": (("dropped", {"reason": "Bounced Address"}),),
    "deferred": (_PROCESSED, ("deferred", {"response": "451 4.3.0 Try again later", "attempt": "1"}), _DELIVERED),
    "spam": (_PROCESSED, _DELIVERED, ("spamreport", {})),
    "unsubscribe": (_PROCESSED, _DELIVERED, ("unsubscribe", {})),
}
ORDINARY = (_PROCESSED, _DELIVERED)


class SendGridProvider:
    """``v3/mail/send``."""

    name = "sendgrid"
    channel = "email"

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._authorization = f"Bearer {sandbox.credentials.sendgrid_api_key}"
        self._webhook_key = sandbox.credentials.sendgrid_webhook_key
        self._webhook_url = f"{sandbox.credentials.webhook_base}/v1/webhooks/sendgrid"
        self.poster = Poster(build=self._build_events, batch_size=EVENTS_PER_CALL)

    def handle(self, request: Request) -> Answer:
        if not hmac.compare_digest((request.header("authorization") or "").encode(), self._authorization.encode()):
            return self._reject(401)
        if request.path != "v3/mail/send":
            return self._reject(404)
        if request.method != "POST":
            return self._reject(405)
        if not (request.header("content-type") or "").lower().startswith("application/json"):
            return self._reject(415)
        body = _inflate(request.body) if request.header("content-encoding") == "gzip" else request.body
        if body is None:
            return self._reject(400)
        if len(body) > MAX_BODY_BYTES:
            return self._reject(413)
        try:
            mail = orjson.loads(body)
        except orjson.JSONDecodeError:
            return self._reject(400)
        return self._send(mail, len(request.body))

    def show(self, source: tuple[Mapping[str, Any], sendgrid_mail.Recipient]) -> Shown:
        return sendgrid_mail.render(*source)

    def check_rule(self, rule: Rule) -> None:
        if rule.code is not None:
            raise InvalidRuleError("code: SendGrid's errors have no codes; use status")

    def _send(self, mail: Any, size: int) -> Answer:
        error = sendgrid_mail.find_error(mail)
        if error is not None:
            return self._reject(400, error)
        recipients = sendgrid_mail.recipients_of(mail)
        fault = self._sandbox.faults[self.name].decide([recipient.address for recipient in recipients])
        if fault.is_refused:
            return self._fail(fault, recipients)
        if as_mapping(mail.get("mail_settings", {}).get("sandbox_mode")).get("enable") is True:
            return Answer(200, delay_s=fault.delay_s)
        message_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        for recipient in recipients:
            self._accept(mail, recipient, message_id, size)
        if fault.mode is Mode.DROP:
            return self._sandbox.drop(self, dropped(fault.delay_s))
        return Answer(202, (("x-message-id", message_id),), delay_s=fault.delay_s)

    def _accept(self, mail: Mapping[str, Any], recipient: sendgrid_mail.Recipient, message_id: str, size: int) -> None:
        events = ADDRESS_CONVENTIONS.get(recipient.address.partition("@")[0].lower(), ORDINARY)
        if events is ORDINARY and self._sandbox.receipts.draws_failure(self.name):
            events = ADDRESS_CONVENTIONS["bounce"]
        common = {
            **recipient.custom_args,
            "email": recipient.address,
            "smtp-id": f"<{message_id}@geopod-ismtpd-sandbox>",
            "sg_message_id": f"{message_id}.recvd-sandbox-0",
        }
        receipts = [
            Receipt(payload={**common, "event": event, "sg_event_id": uuid.uuid4().hex, **extra}, url=self._webhook_url)
            for event, extra in events
        ]
        accepted = Accepted(
            delivery_id=str(recipient.custom_args.get("delivery_id", "")),
            message_id=message_id,
            address=recipient.address,
            size=size,
            source=(mail, recipient),
        )
        self._sandbox.accept(self, accepted, receipts)

    def _build_events(self, receipts: Sequence[Receipt], is_forged: bool) -> Call:
        events = [{**receipt.payload, "timestamp": int(receipt.occurred_at)} for receipt in receipts]
        body = orjson.dumps(events)
        timestamp = str(int(time.time()))
        signed = f"{timestamp}0" if is_forged else timestamp
        signature = self._webhook_key.sign(signed.encode() + body, ec.ECDSA(hashes.SHA256()))
        headers = (
            ("Content-Type", "application/json;charset=utf-8"),
            ("X-Twilio-Email-Event-Webhook-Signature", base64.b64encode(signature).decode()),
            ("X-Twilio-Email-Event-Webhook-Timestamp", timestamp),
        )
        return Call(receipts[0].url, headers, body)

    def _fail(self, fault: Fault, recipients: Sequence[sendgrid_mail.Recipient]) -> Answer:
        if fault.mode is Mode.OUTAGE:
            return self._sandbox.drop(self, dropped(fault.delay_s))
        status = fault.status or (429 if fault.mode is Mode.THROTTLE else 503)
        if status not in TEXTS:  # a load balancer's page
            answer = html_answer(status, f"Error {status}")
            return self._sandbox.reject(self, str(status), answer).after(fault.delay_s)
        if status == 400:
            field = recipients[fault.index].field
            error = MailError("Does not contain a valid address.", field, "message.personalizations.to")
            return self._reject(400, error).after(fault.delay_s)
        return self._reject(status, headers=_limit_headers(status, fault.retry_after_s)).after(fault.delay_s)

    def _reject(self, status: int, error: MailError | None = None, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
        content: dict[str, str | None] = {"message": TEXTS[status], "field": None, "help": None}
        if error is not None:
            content = {"message": error.text, "field": error.field, "help": f"{HELP}#{error.anchor}"}
        return self._sandbox.reject(self, str(status), json_answer(status, {"errors": [content]}, headers))


def _limit_headers(status: int, retry_after_s: float | None) -> tuple[tuple[str, str], ...]:
    """https://www.twilio.com/docs/sendgrid/api-reference/how-to-use-the-sendgrid-v3-api/rate-limits"""
    if status == 429:
        reset = int(time.time() + (retry_after_s or 1.0))
        return (("x-ratelimit-limit", "600"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", str(reset)))
    return () if retry_after_s is None else (("retry-after", str(round(retry_after_s))),)


def _inflate(body: bytes) -> bytes | None:
    """The content of a gzip body, cut off just above the size limit; ``None`` if it is no gzip."""
    inflater = zlib.decompressobj(wbits=31)
    try:
        content = inflater.decompress(body, MAX_BODY_BYTES + 1)
    except zlib.error:
        return None
    return content if inflater.eof or len(content) > MAX_BODY_BYTES else None


def create(sandbox: Sandbox) -> SendGridProvider:
    return SendGridProvider(sandbox)

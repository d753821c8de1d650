"""Twilio SendGrid, mail send v3 and signed event webhook.

https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send
https://www.twilio.com/docs/sendgrid/api-reference/mail-send/errors
"""

import base64
import binascii
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

import orjson
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from apps.channels import Channel
from apps.providers.adapters import answers, emails
from apps.providers.errors import (
    BatchRejected,
    ConfigurationError,
    ForgedReceipt,
    InvalidRecipient,
    MalformedReceipt,
    PermanentError,
    ProviderError,
    RateLimited,
    UnsupportedFeature,
)
from apps.providers.grants import Grant
from apps.providers.messages import (
    BuildContext,
    Message,
    ProviderRequest,
    ProviderResponse,
    Receipt,
    ReceiptKind,
    Result,
    TransportFailure,
    WebhookCall,
)

MAX_PERSONALIZATIONS = 1_000
MAX_TEXT_BYTES = 30_000_000 // 4  # of a request's 30 MB: JSON may write a byte as several
SIGNATURE_TOLERANCE_S = 300  # ours: SendGrid names none
MAX_EVENTS = 10_000
_PERSONALIZATION = re.compile(r"personalizations\.(\d{1,4})(?:\.|$)")

# https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event. What is not here (processed, deferred,
# open, click, group_resubscribe, account events) decides nothing about a delivery.
_RECEIPT_KINDS = {
    "delivered": ReceiptKind.DELIVERED,
    "bounce": ReceiptKind.BOUNCED,
    "dropped": ReceiptKind.FAILED,
    "spamreport": ReceiptKind.COMPLAINED,
    "unsubscribe": ReceiptKind.UNSUBSCRIBED,
    "group_unsubscribe": ReceiptKind.UNSUBSCRIBED,
}
# A drop is SendGrid's own list at work; the reason tells which.
_DROP_KINDS = {
    "bounced address": ReceiptKind.BOUNCED,
    "invalid": ReceiptKind.BOUNCED,
    "spam reporting address": ReceiptKind.COMPLAINED,
    "unsubscribed address": ReceiptKind.UNSUBSCRIBED,
    "recipient list over package quota": ReceiptKind.FAILED,
}


class SendGridAdapter:
    """E-mail through SendGrid: messages with the same words go out in one request of up to 1,000 recipients. Data, time
    to live and collapse key have no place in an e-mail.

    Options: ``base_url``, ``api_key``, ``from_email``, ``from_name``, and ``webhook_public_key`` as the console shows
    it (base64 of the DER key, or PEM); without it every receipt counts as forged."""

    channel: ClassVar[Channel] = Channel.EMAIL
    grant: Grant | None = None

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        problems = answers.find_url_problem(options, "base_url")
        api_key, from_email = str(options.get("api_key", "")), str(options.get("from_email", ""))
        public_key = str(options.get("webhook_public_key", ""))
        if not api_key or not answers.is_clean(api_key):
            problems.append("api_key is missing; make one with the right to send mail")
        if not emails.EMAIL.fullmatch(from_email):
            problems.append("from_email must be the e-mail address of a verified sender")
        self._public_key = _load_public_key(public_key)
        if public_key and self._public_key is None:
            problems.append("webhook_public_key must be the P-256 verification key of the signed event webhook")
        if problems:
            raise ConfigurationError(alias, problems)
        self.alias = alias
        self._url = f"{options['base_url'].rstrip('/')}/v3/mail/send"
        self._headers = (("Authorization", f"Bearer {api_key}"), ("Content-Type", "application/json"))
        self._sender = {"email": from_email}
        if options.get("from_name"):
            self._sender["name"] = str(options["from_name"])

    def build(self, messages: Sequence[Message], context: BuildContext) -> list[ProviderRequest]:
        requests = []
        by_content: dict[tuple[str | None, ...], list[Message]] = defaultdict(list)
        for message in messages:
            problem = emails.find_problem(self.alias, message, MAX_TEXT_BYTES)
            if problem is not None:
                requests.append(answers.reject(self.alias, message, problem))
            else:
                by_content[message.title, message.body, message.html, message.from_name].append(message)
        for same in by_content.values():
            requests.extend(self._request(batch) for batch in _batches(same))
        return requests

    def _request(self, messages: Sequence[Message]) -> ProviderRequest:
        first = messages[0]
        content = [{"type": "text/plain", "value": first.body}] if first.body else []
        if first.html:
            content.append({"type": "text/html", "value": first.html})  # the plain text must come first
        body = {
            "personalizations": [_personalize(message) for message in messages],
            "from": {**self._sender, "name": first.from_name} if first.from_name else self._sender,
            "subject": first.title,
            "content": content,
        }
        return ProviderRequest(tuple(messages), self._url, "POST", self._headers, orjson.dumps(body))

    def parse(self, request: ProviderRequest, response: ProviderResponse | TransportFailure) -> list[Result]:
        if isinstance(response, TransportFailure):
            error = answers.failure_error(self.alias, response)
            return answers.same_for_all(request, response, error=error)
        if response.status == 202:  # 200 would be the account's sandbox mode, in which nothing is sent
            message_id = answers.as_message_id(response.headers.get("x-message-id"))
            return answers.same_for_all(request, response, message_id=message_id)
        if response.status == 400:
            return self._read_bad_request(request, response)
        return answers.same_for_all(request, response, error=self._read_error(request, response))

    def _read_bad_request(self, request: ProviderRequest, response: ProviderResponse) -> list[Result]:
        """One bad address must not cost the others: the guilty are told from those to send again."""
        found = answers.read_object(response.body).get("errors")
        fields = [error.get("field") for error in found if isinstance(error, dict)] if isinstance(found, list) else []
        named = [field for field in fields if isinstance(field, str) and field]
        guilty = {int(match[1]): match.string for field in named if (match := _PERSONALIZATION.match(field))}
        guilty = {position: field for position, field in guilty.items() if position < len(request.messages)}
        if not guilty and named and not any(field.startswith("personalizations") for field in named):
            # The sender, the subject, the content: the same for all of them.
            field = answers.as_field(named[0])
            refused = PermanentError(self.alias, "400", f"refused for its {field}" if field else "")
            return answers.same_for_all(request, response, error=refused)
        if len(request.messages) == 1:
            error: ProviderError = PermanentError(self.alias, "400")
            if guilty:
                error = self._guilty_error(guilty[0])
            return answers.same_for_all(request, response, error=error)
        again = BatchRejected(self.alias, "400", "refused in company", retry_after_s=0.0)
        return [
            Result(
                message.delivery_id,
                error=self._guilty_error(guilty[position]) if position in guilty else again,
                latency_s=response.latency_s,
            )
            for position, message in enumerate(request.messages)
        ]

    def _guilty_error(self, field: str) -> ProviderError:
        if re.match(r"personalizations\.\d+\.to\b", field):
            return InvalidRecipient(self.alias, "400", "the address was refused")
        return PermanentError(self.alias, "400", "its personalization was refused")

    def _read_error(self, request: ProviderRequest, response: ProviderResponse) -> ProviderError:
        if response.status in (401, 403):
            return answers.credentials_error(self.alias, str(response.status))
        if response.status == 413:
            if len(request.messages) > 1:
                return BatchRejected(self.alias, "413", "refused in company", retry_after_s=0.0)
            return UnsupportedFeature(self.alias, "413", "the e-mail is too large")
        if response.status == 429:
            return RateLimited(self.alias, "429", retry_after_s=_reset_s(response))
        return answers.status_error(self.alias, response)

    def verify_receipt(self, call: WebhookCall, now: datetime) -> None:
        """https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features"""
        if self._public_key is None:
            raise ForgedReceipt("no verification key is configured")
        timestamp = call.headers.get("x-twilio-email-event-webhook-timestamp", "")
        if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
            raise ForgedReceipt("the timestamp header is missing or no number")
        try:
            signature = base64.b64decode(call.headers.get("x-twilio-email-event-webhook-signature", ""), validate=True)
            self._public_key.verify(signature, timestamp.encode() + call.body, ec.ECDSA(hashes.SHA256()))
        except (binascii.Error, ValueError, InvalidSignature):
            raise ForgedReceipt("the signature header is missing or wrong") from None
        if abs(now.timestamp() - int(timestamp)) > SIGNATURE_TOLERANCE_S:
            raise ForgedReceipt("the call is too old, or one of our clocks is wrong")

    def parse_receipts(self, call: WebhookCall, now: datetime) -> list[Receipt]:
        events = answers.read_json(call.body)
        if not isinstance(events, list) or len(events) > MAX_EVENTS:
            raise MalformedReceipt("expected a JSON array of events")
        if not all(isinstance(event, dict) and isinstance(event.get("event"), str) for event in events):
            raise MalformedReceipt("expected every event to be an object with an event name")
        return [_read_event(event, now) for event in events if event["event"] in _RECEIPT_KINDS]


def _personalize(message: Message) -> dict[str, Any]:
    own: dict[str, Any] = {"to": [{"email": message.address}], "custom_args": {"delivery_id": message.delivery_id}}
    if headers := emails.unsubscribe_headers(message):
        own["headers"] = headers
    return own


def _batches(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """Up to 1,000 messages each, and no address twice: SendGrid would refuse or merge them."""
    waiting = list(messages)
    while waiting:
        batch: dict[str, Message] = {}
        later = []
        for message in waiting:
            key = message.address.casefold()
            if key in batch or len(batch) == MAX_PERSONALIZATIONS:
                later.append(message)
            else:
                batch[key] = message
        yield list(batch.values())
        waiting = later


def _read_event(event: Mapping[str, Any], now: datetime) -> Receipt:
    kind = _RECEIPT_KINDS[event["event"]]
    reason = event.get("reason")
    if event["event"] == "dropped" and isinstance(reason, str):
        kind = _DROP_KINDS.get(reason.casefold(), kind)
    if event["event"] == "bounce" and event.get("type") == "blocked":
        kind = ReceiptKind.FAILED  # turned away this time; the address exists
    event_id = answers.as_message_id(event.get("sg_event_id"))
    if event_id is None:
        event_id = hashlib.sha256(json.dumps(event, sort_keys=True).encode()).hexdigest()
    status, message_id = event.get("status"), event.get("sg_message_id")
    is_status = isinstance(status, str) and emails.ENHANCED_STATUS.fullmatch(status)
    return Receipt(
        event_id=event_id,
        kind=kind,
        occurred_at=answers.as_moment(event.get("timestamp"), now) or now,
        delivery_id=answers.as_delivery_id(event.get("delivery_id")),
        # X-Message-Id is the part before the first dot.
        provider_message_id=answers.as_message_id(message_id.split(".")[0]) if isinstance(message_id, str) else None,
        code=str(status) if is_status else event["event"],
    )


def _reset_s(response: ProviderResponse) -> float | None:
    """Seconds until the limit is reset: ``Retry-After``, or ``X-RateLimit-Reset`` (Unix time) by the server's clock."""
    after_s = answers.retry_after_s(response)
    reset, now_s = response.headers.get("x-ratelimit-reset", ""), answers.server_time_s(response)
    if after_s is None and now_s is not None and reset.isascii() and reset.isdigit() and len(reset) <= 12:
        after_s = min(max(int(reset) - now_s, 0.0), answers.MAX_RETRY_AFTER_S)
    return after_s


def _load_public_key(text: str) -> ec.EllipticCurvePublicKey | None:
    if not text:
        return None
    try:
        if "BEGIN PUBLIC KEY" in text:
            key = serialization.load_pem_public_key(text.replace("\\n", "\n").encode())
        else:
            key = serialization.load_der_public_key(base64.b64decode(text, validate=True))
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1) else None

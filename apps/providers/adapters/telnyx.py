"""Telnyx Messaging: https://developers.telnyx.com/api-reference/messages/send-a-message and, for the codes,
https://developers.telnyx.com/docs/messaging/messages/error-codes"""

import base64
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from apps.channels import Channel
from apps.providers import errors, messages
from apps.providers.adapters import answers, sms
from apps.providers.adapters.sms_segments import count_segments
from apps.providers.grants import Grant
from apps.providers.messages import BuildContext, Message, ProviderRequest, Receipt, ReceiptKind, Result, WebhookCall

MAX_CHARACTERS = 1_530  # ten parts of 153
SIGNATURE_TOLERANCE_S = 300  # what Telnyx's own libraries allow
_DEAD_NUMBER = {"40001": "a landline", "40012": "invalid number", "40300": "opted out", "40310": "invalid number"}
_THROTTLED = {"10011", "40011", "40318"}
_ACCOUNT = {"10009", "10010", "20100", "40305", "40311", "40312", "40313", "40314"}
_KINDS = {
    "sent": ReceiptKind.ACCEPTED,
    "delivery_unconfirmed": ReceiptKind.ACCEPTED,
    "delivered": ReceiptKind.DELIVERED,
    "sending_failed": ReceiptKind.FAILED,
    "delivery_failed": ReceiptKind.FAILED,
    "expired": ReceiptKind.FAILED,
}
_CODE_KINDS = {"40001": ReceiptKind.BOUNCED, "40012": ReceiptKind.BOUNCED, "40300": ReceiptKind.UNSUBSCRIBED}


class TelnyxAdapter:
    """SMS through Telnyx, one request a message. Title, data, time to live and collapse key have no place in it.

    Options: ``base_url``, ``api_key``, ``sender`` (a number, or an alphanumeric id with a ``messaging_profile_id``),
    and ``public_key`` (base64, as the portal shows it), without which every receipt counts as forged."""

    channel: ClassVar[Channel] = Channel.SMS
    grant: Grant | None = None

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        problems = answers.find_url_problem(options, "base_url")
        for name, mend in (("api_key", "make one in the portal"), ("sender", "give a number of the account")):
            if not options.get(name) or not answers.is_clean(str(options[name])):
                problems.append(f"{name} is missing; {mend}")
        try:
            raw = base64.b64decode(str(options.get("public_key", "")), validate=True)
            self._public_key = Ed25519PublicKey.from_public_bytes(raw) if raw else None
        except ValueError:
            problems.append("public_key must be 32 bytes in base64, as the portal shows it")
        if problems:
            raise errors.ConfigurationError(alias, problems)
        self.alias = alias
        self._url = f"{options['base_url'].rstrip('/')}/v2/messages"
        self._headers = (("Authorization", f"Bearer {options['api_key']}"), ("Content-Type", "application/json"))
        names = {"from": options["sender"], "messaging_profile_id": options.get("messaging_profile_id")}
        self._sender = {name: str(value) for name, value in names.items() if value}

    def build(self, messages: Sequence[Message], context: BuildContext) -> list[ProviderRequest]:
        return [self._request(message) for message in messages]

    def _request(self, message: Message) -> ProviderRequest:
        if (problem := sms.find_problem(self.alias, message, MAX_CHARACTERS)) is not None:
            return answers.reject(self.alias, message, problem)
        body = {**self._sender, "to": message.address, "text": sms.text_of(message), "tags": [message.delivery_id]}
        if message.callback_url:
            body["webhook_url"] = message.callback_url
        return ProviderRequest((message,), self._url, "POST", self._headers, orjson.dumps(body))

    def parse(
        self, request: ProviderRequest, response: messages.ProviderResponse | messages.TransportFailure
    ) -> list[Result]:
        if isinstance(response, messages.TransportFailure):
            return answers.same_for_all(request, response, error=answers.failure_error(self.alias, response))
        answer = answers.read_json(response.body)
        if response.status not in (200, 201, 202):
            code = answers.as_code(answers.dig(answer, "errors", 0, "code"))
            return answers.same_for_all(request, response, error=self._read_error(response, code))
        message_id = answers.as_message_id(answers.dig(answer, "data", "id"))
        error = None if message_id else errors.OutcomeUnknown(self.alias, "no_id", "accepted without an id")
        segments = count_segments(sms.text_of(request.messages[0])).count
        return answers.same_for_all(request, response, error=error, message_id=message_id, segments=segments)

    def _read_error(self, response: messages.ProviderResponse, code: str) -> errors.ProviderError:
        if code in _DEAD_NUMBER:
            return errors.InvalidRecipient(self.alias, code, _DEAD_NUMBER[code])
        if code in _THROTTLED:
            return errors.RateLimited(self.alias, code, retry_after_s=answers.retry_after_s(response))
        if response.status in (401, 403) or code in _ACCOUNT:
            return answers.credentials_error(self.alias, code or str(response.status))
        return answers.status_error(self.alias, response, code)

    def verify_receipt(self, call: WebhookCall, now: datetime) -> None:
        """https://developers.telnyx.com/docs/messaging/messages/receiving-webhooks: Ed25519 over time, bar and body."""
        timestamp, signature = (call.headers.get(f"telnyx-{name}", "") for name in ("timestamp", "signature-ed25519"))
        if self._public_key is None or not answers.is_fresh(timestamp, now, SIGNATURE_TOLERANCE_S):
            raise errors.ForgedReceipt("no public_key is configured, or the call is too old")
        try:
            self._public_key.verify(base64.b64decode(signature, validate=True), timestamp.encode() + b"|" + call.body)
        except (ValueError, InvalidSignature):
            raise errors.ForgedReceipt("the signature is missing or wrong") from None

    def parse_receipts(self, call: WebhookCall, now: datetime) -> list[Receipt]:
        event = answers.dig(answers.read_json(call.body), "data")
        message_id, event_id = (answers.as_message_id(answers.dig(event, *at)) for at in (("payload", "id"), ("id",)))
        if message_id is None or event_id is None:
            raise errors.MalformedReceipt("expected an event with an id and a message")
        kind = _KINDS.get(str(answers.dig(event, "payload", "to", 0, "status")))
        if kind is None or answers.dig(event, "event_type") not in ("message.sent", "message.finalized"):
            return []  # an inbound message, or a status that decides nothing
        code = answers.as_code(answers.dig(event, "payload", "errors", 0, "code"))
        delivery_id = answers.as_delivery_id(answers.dig(event, "payload", "tags", 0))
        occurred_at = answers.as_iso_moment(answers.dig(event, "occurred_at"), now) or now
        return [Receipt(event_id, _CODE_KINDS.get(code, kind), occurred_at, delivery_id, message_id, code)]

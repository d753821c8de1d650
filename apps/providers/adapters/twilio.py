"""Twilio Programmable Messaging.

https://www.twilio.com/docs/messaging/api/message-resource
https://www.twilio.com/docs/api/errors
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit, urlunsplit

from apps.channels import Channel
from apps.providers.adapters import answers
from apps.providers.adapters.keywords import find_keyword
from apps.providers.adapters.sms_segments import count_segments
from apps.providers.errors import (
    ConfigurationError,
    ForgedReceipt,
    InvalidRecipient,
    MalformedReceipt,
    OutcomeUnknown,
    PermanentError,
    ProviderError,
    RateLimited,
    UnsupportedFeature,
)
from apps.providers.grants import Grant
from apps.providers.messages import (
    BuildContext,
    InboundMessage,
    Keyword,
    Message,
    ProviderRequest,
    ProviderResponse,
    Receipt,
    ReceiptKind,
    Result,
    TransportFailure,
    WebhookCall,
)

MAX_BODY_CHARACTERS = 1_600  # https://www.twilio.com/docs/api/errors/21617
MAX_VALIDITY_S = 36_000
_ACCOUNT_SID = re.compile(r"AC[0-9a-fA-F]{32}")
_SERVICE_SID = re.compile(r"MG[0-9a-fA-F]{32}")
_E164 = re.compile(r"\+[1-9][0-9]{1,14}")  # ITU-T E.164, 6.2.1
_HASHES = {"HMAC_SHA1": hashlib.sha1, "HMAC_SHA256": hashlib.sha256}

# https://www.twilio.com/docs/api/errors/<code>. In July 2024 Twilio split several of these; a code that is not here
# goes by its HTTP status.
_DEAD_NUMBER = {
    "21211": "invalid number",
    "21265": "a short code",
    "21610": "opted out",
    "21614": "not a mobile number",
    "21635": "a landline",
}
_PERMANENT = {
    "21212": "invalid sender",
    "21266": "sender and recipient are the same",
    "21408": "sending to this region is not enabled",
    "21602": "no text",
    "21603": "no sender",
    "21604": "no recipient",
    "21606": "the sender cannot send to this destination",
    "21608": "a trial account sends to verified numbers only",
    "21609": "invalid status callback",
    "21612": "the sender cannot reach this recipient",
    "21659": "the sender does not belong to the account",
}
_UNSUPPORTED = {"21605": "text too long", "21617": "text too long"}
_THROTTLED = {
    "14107": "too fast for the sender",
    "20429": "too many requests",
    "21611": "the sender's queue is full",
}
_ACCOUNT = {"20003", "20005", "20006", "20008", "20404", "21701", "21703", "30002"}

# https://www.twilio.com/docs/messaging/guides/outbound-message-status-in-status-callbacks. The others of the 13 values
# (accepted, scheduled, queued, sending, and receiving, received of inbound messages) say nothing about the end.
_RECEIPT_KINDS = {
    "sent": ReceiptKind.ACCEPTED,
    "partially_delivered": ReceiptKind.ACCEPTED,
    "delivered": ReceiptKind.DELIVERED,
    "read": ReceiptKind.DELIVERED,
    "undelivered": ReceiptKind.FAILED,
    "failed": ReceiptKind.FAILED,
    "canceled": ReceiptKind.FAILED,
}
_SILENT_STATUSES = frozenset({"accepted", "scheduled", "queued", "sending", "receiving", "received"})
_CODE_KINDS = {
    "21610": ReceiptKind.UNSUBSCRIBED,
    "21211": ReceiptKind.BOUNCED,
    "21614": ReceiptKind.BOUNCED,
    "30005": ReceiptKind.BOUNCED,  # unknown destination
    "30006": ReceiptKind.BOUNCED,  # landline or unreachable carrier
}

# What a messaging service's Advanced Opt-Out made of a text, in whatever language:
# https://www.twilio.com/docs/messaging/tutorials/advanced-opt-out
_OPT_OUT_TYPES: dict[str, Keyword] = {"STOP": "stop", "START": "start", "HELP": "help"}


class TwilioAdapter:
    """SMS through Twilio, one request a message. Title, data and collapse key have no place in an SMS; a message
    without a body sends its title.

    Options: ``base_url``, ``account_sid``, ``auth_token``, ``sender`` (a number, an alphanumeric id, or a messaging
    service's ``MG…``) and ``webhook_keys``, the secrets by id of the shared keys that webhooks are signed with; calls
    signed with none of them are signed with the ``auth_token``."""

    channel: ClassVar[Channel] = Channel.SMS
    grant: Grant | None = None

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        problems = answers.find_url_problem(options, "base_url")
        account_sid, auth_token = str(options.get("account_sid", "")), str(options.get("auth_token", ""))
        self._sender = str(options.get("sender", ""))
        if not _ACCOUNT_SID.fullmatch(account_sid):
            problems.append("account_sid must be AC and 32 hexadecimal digits, as the console shows it")
        if not auth_token or not answers.is_clean(auth_token):
            problems.append("auth_token is missing; the console shows it next to the account SID")
        if not self._sender or not answers.is_clean(self._sender):
            problems.append("sender is missing; give a number of the account or a messaging service's MG… SID")
        if problems:
            raise ConfigurationError(alias, problems)
        self.alias = alias
        self._auth_token = auth_token.encode()
        self._webhook_keys = {
            str(key): str(secret).encode()
            for key, secret in (options.get("webhook_keys") or {}).items()
            if key and secret
        }
        self._url = f"{options['base_url'].rstrip('/')}/2010-04-01/Accounts/{account_sid}/Messages.json"
        credentials = base64.b64encode(f"{account_sid}:{auth_token}".encode()).decode()
        self._headers = (
            ("Authorization", f"Basic {credentials}"),
            ("Content-Type", "application/x-www-form-urlencoded"),
        )
        self._sender_field = "MessagingServiceSid" if _SERVICE_SID.fullmatch(self._sender) else "From"

    def build(self, messages: Sequence[Message], context: BuildContext) -> list[ProviderRequest]:
        requests = []
        for message in messages:
            problem = self._find_problem(message)
            if problem is not None:
                requests.append(answers.reject(self.alias, message, problem))
                continue
            fields = {"To": message.address, self._sender_field: self._sender, "Body": _text_of(message)}
            if message.callback_url:
                fields["StatusCallback"] = message.callback_url
            if message.ttl_s is not None:
                fields["ValidityPeriod"] = str(min(max(message.ttl_s, 1), MAX_VALIDITY_S))
            requests.append(ProviderRequest((message,), self._url, "POST", self._headers, urlencode(fields).encode()))
        return requests

    def _find_problem(self, message: Message) -> ProviderError | None:
        text, callback_url = _text_of(message), message.callback_url or ""
        if not _E164.fullmatch(message.address):
            return InvalidRecipient(self.alias, "not_e164", "not an E.164 number")
        if not answers.is_sendable_text(text):
            return PermanentError(self.alias, "malformed_text", "the text is not valid Unicode")
        if not text:
            return PermanentError(self.alias, "no_text", "an SMS needs a text")
        if len(text) > MAX_BODY_CHARACTERS:
            return UnsupportedFeature(self.alias, "text_too_long", f"over {MAX_BODY_CHARACTERS} characters")
        if not answers.is_clean(callback_url) or len(callback_url) > answers.MAX_URL_LENGTH:
            return PermanentError(self.alias, "malformed_callback", "the callback is no URL, or too long a one")
        return None

    def parse(self, request: ProviderRequest, response: ProviderResponse | TransportFailure) -> list[Result]:
        if isinstance(response, TransportFailure):
            error = answers.failure_error(self.alias, response)
            return answers.same_for_all(request, response, error=error)
        answer = answers.read_object(response.body)
        if response.status not in (200, 201):
            code = answers.as_code(answer.get("code"))
            return answers.same_for_all(request, response, error=self._read_error(response, code))
        sid = answers.as_message_id(answer.get("sid"))
        if sid is None:
            unknown = OutcomeUnknown(self.alias, "no_sid", "accepted without a message SID")
            return answers.same_for_all(request, response, error=unknown)
        if answer.get("status") in ("failed", "undelivered", "canceled"):
            code = answers.as_code(answer.get("error_code"))
            failed = self._known_error(response, code) or PermanentError(self.alias, code or "failed")
            return answers.same_for_all(request, response, error=failed, message_id=sid)
        segments = count_segments(_text_of(request.messages[0])).count
        return answers.same_for_all(request, response, message_id=sid, segments=segments)

    def _read_error(self, response: ProviderResponse, code: str) -> ProviderError:
        known = self._known_error(response, code)
        if known is None and response.status in (401, 403):
            known = answers.credentials_error(self.alias, code or str(response.status))
        return known or answers.status_error(self.alias, response, code)

    def _known_error(self, response: ProviderResponse, code: str) -> ProviderError | None:
        if code in _DEAD_NUMBER:
            return InvalidRecipient(self.alias, code, _DEAD_NUMBER[code])
        if code in _PERMANENT:
            return PermanentError(self.alias, code, _PERMANENT[code])
        if code in _UNSUPPORTED:
            return UnsupportedFeature(self.alias, code, _UNSUPPORTED[code])
        if code in _THROTTLED:
            return RateLimited(self.alias, code, _THROTTLED[code], answers.retry_after_s(response))
        if code in _ACCOUNT:
            return answers.credentials_error(self.alias, code)
        return None

    def verify_receipt(self, call: WebhookCall, now: datetime) -> None:
        """https://www.twilio.com/docs/usage/webhooks/webhooks-security"""
        given = call.headers.get("x-twilio-signature", "")
        secret, algorithm = self._find_secret(call.headers.get("x-twilio-webhooks-signature-settings", ""))
        body_hash = parse_qs(urlsplit(call.url).query).get("bodySHA256")
        if body_hash is not None:
            # A body that is not a form is signed through its hash in the URL.
            actual = hashlib.sha256(call.body).hexdigest()
            if len(body_hash) != 1 or not hmac.compare_digest(actual.encode(), body_hash[0].lower().encode()):
                raise ForgedReceipt("the body does not have the hash in the URL")
            suffix = b""
        else:
            pairs = "".join(name + value for name, value in _sorted_pairs(call.body))
            suffix = pairs.encode(errors="surrogateescape")
        # Twilio's own validators accept the URL with and without its scheme's port, as its servers vary in it.
        is_signed = False
        for url in _url_spellings(call.url):
            digest = hmac.digest(secret, url.encode(errors="replace") + suffix, algorithm)
            is_signed |= hmac.compare_digest(base64.b64encode(digest), given.encode(errors="replace"))
        if not is_signed:
            raise ForgedReceipt("X-Twilio-Signature is missing or wrong")

    def _find_secret(self, settings: str) -> tuple[bytes, Any]:
        """The secret and the hash that a call says it is signed with (``key=<id>,algorithm=HMAC_SHA256``, as Twilio's
        own libraries read it); without a word of it the auth token and SHA-1."""
        if not settings:
            return self._auth_token, hashlib.sha1
        named = dict(part.strip().partition("=")[::2] for part in settings.split(","))
        secret = self._webhook_keys.get(named.get("key", ""))
        algorithm = _HASHES.get(named.get("algorithm", "HMAC_SHA1").upper())
        if secret is None or algorithm is None:
            raise ForgedReceipt("signed with a key that is not among webhook_keys, or by an unknown algorithm")
        return secret, algorithm

    def parse_receipts(self, call: WebhookCall, now: datetime) -> list[Receipt]:
        fields = _read_fields(call)
        sid = answers.as_message_id(fields.get("MessageSid") or fields.get("SmsSid"))
        status = fields.get("MessageStatus") or fields.get("SmsStatus")
        if sid is None or status is None:
            raise MalformedReceipt("expected MessageSid and MessageStatus")
        if status in _SILENT_STATUSES:
            return []
        if status not in _RECEIPT_KINDS:
            raise MalformedReceipt("an unknown MessageStatus")
        kind, code = _RECEIPT_KINDS[status], answers.as_code(fields.get("ErrorCode", ""))
        if kind is ReceiptKind.FAILED:
            kind = _CODE_KINDS.get(code, kind)
        ids = parse_qs(urlsplit(call.url).query).get("delivery_id", [])
        delivery_id = answers.as_delivery_id(ids[0]) if len(ids) == 1 else None
        return [Receipt(f"{sid}:{status}", kind, now, delivery_id, sid, code)]

    def parse_inbound(self, call: WebhookCall, now: datetime) -> list[InboundMessage]:
        """https://www.twilio.com/docs/messaging/guides/webhook-request"""
        fields = _read_fields(call)
        if (fields.get("MessageStatus") or fields.get("SmsStatus")) != "received":
            return []
        sid, sender = answers.as_message_id(fields.get("MessageSid") or fields.get("SmsSid")), fields.get("From", "")
        if sid is None or not _E164.fullmatch(sender):
            # A short code or another channel's address (whatsapp:+…) is nobody we have sent an SMS to.
            return []
        keyword = _OPT_OUT_TYPES.get(fields.get("OptOutType", "")) or find_keyword(fields.get("Body", ""))
        return [InboundMessage(f"{sid}:received", sender, keyword, now)]


def _text_of(message: Message) -> str:
    return message.body or message.title


def _sorted_pairs(body: bytes) -> list[tuple[str, str]]:
    """The form's parameters by name, a repeated one by its distinct values."""
    text = body.decode(errors="surrogateescape")
    try:
        return sorted(set(parse_qsl(text, keep_blank_values=True, errors="surrogateescape", max_num_fields=200)))
    except ValueError:
        raise ForgedReceipt("the body is no form") from None


def _read_fields(call: WebhookCall) -> Mapping[str, str]:
    if call.headers.get("content-type", "").startswith("application/json"):
        return {name: str(value) for name, value in answers.read_object(call.body).items() if value is not None}
    try:
        return dict(parse_qsl(call.body.decode(), max_num_fields=200))
    except ValueError:
        raise MalformedReceipt("the body is no form") from None


def _url_spellings(url: str) -> list[str]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return [url]
    host = f"[{host}]" if ":" in host else host
    default = 443 if parts.scheme == "https" else 80
    with_port, without = parts._replace(netloc=f"{host}:{port or default}"), parts._replace(netloc=host)
    return list(dict.fromkeys((url, urlunsplit(with_port), urlunsplit(without))))

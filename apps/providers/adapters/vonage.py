"""Vonage SMS API.

https://developer.vonage.com/en/api/sms
https://developer.vonage.com/en/messaging/sms/guides/troubleshooting-sms
https://developer.vonage.com/en/messaging/sms/guides/delivery-receipts
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

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
    TransientError,
    UnsupportedFeature,
)
from apps.providers.grants import Grant
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

MAX_TEXT_CHARACTERS = 3_200
MIN_TTL_MS, MAX_TTL_MS = 20_000, 604_800_000
MAX_CALLBACK_LENGTH = 100  # a longer one is status 23
# Vonage calls again for 24 hours when it is not answered 2xx, and does not say that it signs anew.
SIGNATURE_TOLERANCE_S = 25 * 3_600
CLOCK_SKEW_S = 300
NUMBER = re.compile(r"\+[1-9][0-9]{6,14}")
_DIGITS = re.compile(r"[1-9][0-9]{6,14}")

_DEAD_NUMBER = {"7": "number barred", "33": "number de-activated"}
_PERMANENT = {
    "2": "missing parameters",
    "3": "invalid parameters",
    "6": "the number's prefix or the message is not recognised",
    "15": "the sender may not be used for this destination",
    "22": "invalid network code",
    "23": "invalid callback",
    "29": "an account in demo mode sends to its listed numbers only",
}
_UNSUPPORTED = {"12": "text too long"}
_THROTTLED = {"1": "over the account's rate", "10": "too many connections"}
_TRANSIENT = {"5": "internal error", "13": "communication failed"}
# Credentials, suspension, credit, provisioning, signature: mended for the account, not for the message.
_ACCOUNT = {"4", "8", "9", "11", "14", "32"}

_RECEIPT_KINDS = {
    "accepted": ReceiptKind.ACCEPTED,
    "buffered": ReceiptKind.ACCEPTED,
    "delivered": ReceiptKind.DELIVERED,
    "expired": ReceiptKind.FAILED,
    "failed": ReceiptKind.FAILED,
    "rejected": ReceiptKind.FAILED,
}
_SILENT_STATUSES = frozenset({"unknown"})  # an undocumented word of the carrier's
_CODE_KINDS = {
    "3": ReceiptKind.BOUNCED,  # "number is no longer active and should be removed from your database"
    "4": ReceiptKind.BOUNCED,  # barred by the user at the network, and to be removed likewise
    "9": ReceiptKind.UNSUBSCRIBED,  # "user has requested not to receive messages from a specific service"
}
_HMAC_METHODS = {"md5": hashlib.md5, "sha1": hashlib.sha1, "sha256": hashlib.sha256, "sha512": hashlib.sha512}
MD5_HASH = "md5hash"  # what an account starts with: no HMAC, the secret after the text


class VonageAdapter:
    """SMS through Vonage's SMS API, one request a message. Title, data and collapse key have no place in an SMS; a
    message without a body sends its title.

    Options: ``base_url``, ``api_key``, ``api_secret``, ``sender`` (a number or an alphanumeric id),
    ``signature_secret`` and ``signature_method`` (as chosen in the dashboard: ``md5hash``, or the HMACs ``md5``,
    ``sha1``, ``sha256``, ``sha512``) of receipts, which Vonage signs on request and must POST; without the secret every
    receipt counts as forged."""

    channel: ClassVar[Channel] = Channel.SMS
    grant: Grant | None = None

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        problems = answers.find_url_problem(options, "base_url")
        api_key, api_secret = str(options.get("api_key", "")), str(options.get("api_secret", ""))
        self._sender = str(options.get("sender", "")).removeprefix("+")
        self._signature_secret = str(options.get("signature_secret", "")).encode(errors="replace")
        self._signature_method = str(options.get("signature_method") or "sha256")
        if not api_key.isalnum() or not answers.is_clean(api_key):
            problems.append("api_key is missing; the dashboard shows it")
        if not api_secret or not answers.is_clean(api_secret):
            problems.append("api_secret is missing; the dashboard shows it next to the key")
        if not self._sender or not answers.is_clean(self._sender):
            problems.append("sender is missing; give a number of the account or an alphanumeric sender id")
        if self._signature_method not in (MD5_HASH, *_HMAC_METHODS):
            problems.append(f"signature_method must be one of {', '.join((MD5_HASH, *_HMAC_METHODS))}")
        if problems:
            raise ConfigurationError(alias, problems)
        self.alias = alias
        self._url = f"{options['base_url'].rstrip('/')}/sms/json"
        credentials = base64.b64encode(f"{api_key}:{api_secret}".encode()).decode()
        self._headers = (
            ("Authorization", f"Basic {credentials}"),
            ("Content-Type", "application/x-www-form-urlencoded"),
        )

    def build(self, messages: Sequence[Message], context: BuildContext) -> list[ProviderRequest]:
        requests = []
        for message in messages:
            problem = find_problem(self.alias, message)
            if problem is not None:
                requests.append(answers.reject(self.alias, message, problem))
                continue
            text = text_of(message)
            fields = {
                "to": message.address.removeprefix("+"),
                "from": self._sender,
                "text": text,
                "client-ref": message.delivery_id,
            }
            if count_segments(text).is_unicode:
                fields["type"] = "unicode"
            if message.ttl_s is not None:
                fields["ttl"] = str(min(max(message.ttl_s * 1_000, MIN_TTL_MS), MAX_TTL_MS))
            if callback := _short_callback(message.callback_url):
                fields["callback"] = callback
            requests.append(ProviderRequest((message,), self._url, "POST", self._headers, urlencode(fields).encode()))
        return requests

    def parse(self, request: ProviderRequest, response: ProviderResponse | TransportFailure) -> list[Result]:
        if isinstance(response, TransportFailure):
            error = answers.failure_error(self.alias, response)
            return answers.same_for_all(request, response, error=error)
        if response.status in (401, 403):
            error = answers.credentials_error(self.alias, str(response.status))
            return answers.same_for_all(request, response, error=error)
        if response.status != 200:
            return answers.same_for_all(request, response, error=answers.status_error(self.alias, response))
        parts = answers.read_object(response.body).get("messages")
        parts = [part if isinstance(part, dict) else {} for part in parts] if isinstance(parts, list) else []
        segments = count_segments(text_of(request.messages[0])).count
        message_id = answers.as_message_id(parts[0].get("message-id")) if parts else None
        error_or_none = self._read_parts(response, [answers.as_code(part.get("status")) for part in parts])
        if error_or_none is None and message_id is None:
            error_or_none = OutcomeUnknown(self.alias, "no_message_id", "accepted without a message id")
        return answers.same_for_all(request, response, error=error_or_none, message_id=message_id, segments=segments)

    def _read_parts(self, response: ProviderResponse, codes: Sequence[str]) -> ProviderError | None:
        """HTTP says 200 whatever happens; each part of the text has a status of its own."""
        if not codes or "" in codes:
            return OutcomeUnknown(self.alias, "no_status", "an answer without a status for every part")
        failed = [code for code in codes if code != "0"]
        if not failed:
            return None
        if len(failed) < len(codes):
            # Not to be sent again as if nothing had left: some parts may be on the person's telephone.
            return OutcomeUnknown(self.alias, failed[0], "only some parts of the text were accepted")
        return self._read_error(response, failed[0])

    def _read_error(self, response: ProviderResponse, code: str) -> ProviderError:
        if code in _DEAD_NUMBER:
            return InvalidRecipient(self.alias, code, _DEAD_NUMBER[code])
        if code in _UNSUPPORTED:
            return UnsupportedFeature(self.alias, code, _UNSUPPORTED[code])
        if code in _THROTTLED:
            return RateLimited(self.alias, code, _THROTTLED[code], answers.retry_after_s(response))
        if code in _TRANSIENT:
            return TransientError(self.alias, code, _TRANSIENT[code])
        if code in _ACCOUNT:
            return answers.credentials_error(self.alias, code)
        return PermanentError(self.alias, code, _PERMANENT.get(code, ""))

    def verify_receipt(self, call: WebhookCall, now: datetime) -> None:
        """https://developer.vonage.com/en/getting-started/concepts/signing-messages: every parameter but ``sig`` by
        name as ``&name=value``, with ``&`` and ``=`` in a value written as ``_``."""
        if not self._signature_secret:
            raise ForgedReceipt("no signature_secret is configured")
        fields = _read_fields(call)
        given, timestamp = fields.pop("sig", ""), fields.get("timestamp", "")
        if any("&" in name or "=" in name for name in fields):
            raise ForgedReceipt("a parameter's name would be read as several")  # names are signed as they are
        text = "".join(f"&{name}={_mask(fields[name])}" for name in sorted(fields)).encode(errors="surrogateescape")
        if self._signature_method == MD5_HASH:
            digest = hashlib.md5(text + self._signature_secret, usedforsecurity=False).hexdigest()
        else:
            digest = hmac.new(self._signature_secret, text, _HMAC_METHODS[self._signature_method]).hexdigest()
        if not hmac.compare_digest(digest.encode(), given.lower().encode(errors="replace")):
            raise ForgedReceipt("sig is missing or wrong")
        if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
            raise ForgedReceipt("the timestamp is missing or no number")
        if not -CLOCK_SKEW_S <= now.timestamp() - int(timestamp) <= SIGNATURE_TOLERANCE_S:
            raise ForgedReceipt("the call is too old, or one of our clocks is wrong")

    def parse_receipts(self, call: WebhookCall, now: datetime) -> list[Receipt]:
        fields = _read_fields(call)
        message_id, status = answers.as_message_id(fields.get("messageId")), fields.get("status")
        if message_id is not None and status is None and "text" in fields:
            return []  # a person's message: see parse_inbound
        if message_id is None or status is None:
            raise MalformedReceipt("expected messageId and status")
        if status in _SILENT_STATUSES:
            return []
        if status not in _RECEIPT_KINDS:
            raise MalformedReceipt("an unknown status")
        kind, code = _RECEIPT_KINDS[status], answers.as_code(fields.get("err-code", ""))
        code = "" if code == "0" else code
        if kind is ReceiptKind.FAILED:
            kind = _CODE_KINDS.get(code, kind)
        occurred_at = answers.as_iso_moment(fields.get("message-timestamp"), now) or now
        delivery_id = answers.as_delivery_id(fields.get("client-ref"))
        # Every part of a long text has a message id, and receipts, of its own; all name the same delivery.
        return [Receipt(f"{message_id}:{status}", kind, occurred_at, delivery_id, message_id, code)]

    def parse_inbound(self, call: WebhookCall, now: datetime) -> list[InboundMessage]:
        """https://developer.vonage.com/en/messaging/sms/guides/inbound-sms. A long message comes in parts, none of
        which is a keyword."""
        fields = _read_fields(call)
        if "status" in fields or "text" not in fields:
            return []
        message_id, sender = answers.as_message_id(fields.get("messageId")), fields.get("msisdn", "")
        if message_id is None or not _DIGITS.fullmatch(sender):
            raise MalformedReceipt("expected messageId and msisdn")
        keyword = "" if fields.get("concat") == "true" else find_keyword(fields["text"])
        occurred_at = answers.as_iso_moment(fields.get("message-timestamp"), now) or now
        return [InboundMessage(f"{message_id}:inbound", f"+{sender}", keyword, occurred_at)]


def find_problem(alias: str, message: Message) -> ProviderError | None:
    """Why ``message`` cannot be sent as an SMS by either of Vonage's APIs."""
    text = text_of(message)
    if not NUMBER.fullmatch(message.address):
        return InvalidRecipient(alias, "not_e164", "not an E.164 number")
    if not answers.is_sendable_text(text):
        return PermanentError(alias, "malformed_text", "the text is not valid Unicode")
    if not text:
        return PermanentError(alias, "no_text", "an SMS needs a text")
    if len(text) > MAX_TEXT_CHARACTERS:
        return UnsupportedFeature(alias, "text_too_long", f"over {MAX_TEXT_CHARACTERS} characters")
    return None


def text_of(message: Message) -> str:
    """What an SMS says."""
    return message.body or message.title


def _short_callback(url: str | None) -> str | None:
    """The callback without its query, which Vonage does not allow beside a POSTed body (``client-ref`` names the
    delivery); ``None`` if Vonage would not take it: the address set in the dashboard serves then."""
    if not url or not answers.is_clean(url) or " " in url:
        return None
    try:
        bare = urlunsplit(urlsplit(url)._replace(query="", fragment=""))
    except ValueError:
        return None
    return bare if bare.startswith(("https://", "http://")) and len(bare) <= MAX_CALLBACK_LENGTH else None


def _mask(value: str) -> str:
    return value.replace("&", "_").replace("=", "_")


def _read_fields(call: WebhookCall) -> dict[str, str]:
    """The parameters of a form or a JSON object; empty for anything else."""
    if call.headers.get("content-type", "").startswith("application/json"):
        fields = answers.read_object(call.body)
        return {name: str(value) for name, value in fields.items() if isinstance(value, str | int)}
    try:
        text = call.body.decode(errors="surrogateescape")
        return dict(parse_qsl(text, keep_blank_values=True, errors="surrogateescape", max_num_fields=200))
    except ValueError:
        return {}

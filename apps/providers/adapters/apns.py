"""Apple Push Notification service, token-based, over HTTP/2.

https://developer.apple.com/documentation/usernotifications/sending-notification-requests-to-apns
https://developer.apple.com/documentation/usernotifications/handling-notification-responses-from-apns
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

import orjson

from apps.channels import Channel
from apps.providers import es256
from apps.providers.adapters import acknowledgements, answers, push_content
from apps.providers.adapters.collapsing import apns_collapse_id
from apps.providers.errors import (
    ConfigurationError,
    InvalidRecipient,
    OutcomeUnknown,
    ProviderError,
    RateLimited,
    RecipientRateLimited,
    TransientError,
    Unauthorized,
    UnsupportedFeature,
)
from apps.providers.grants import ApnsGrant, Grant
from apps.providers.messages import (
    BuildContext,
    Message,
    ProviderRequest,
    ProviderResponse,
    Receipt,
    Result,
    TransportFailure,
    WebhookCall,
)

MAX_PAYLOAD_BYTES = 4_096
MAX_TTL_S = 2_592_000  # APNs stores a notification for 30 days at most
# Without a Retry-After. Apple's limit is an update in 20 minutes, and ours come every 45: another user of the key is at
# fault, and nobody knows for how long.
TOKEN_UPDATES_PAUSE_S = 60.0
_DEVICE_TOKEN = re.compile(r"(?:[0-9A-Fa-f]{2}){8,100}")  # Apple: at most 100 bytes, and no length to rely upon
_TEN_CHARACTERS = re.compile(r"[A-Z0-9]{10}")
_TOPIC = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,254}")
_REASON = re.compile(r"[A-Z][A-Za-z]{2,47}")
_DEAD = frozenset({"BadDeviceToken", "DeviceTokenNotForTopic", "ExpiredToken", "Unregistered"})
_STALE_TOKEN = frozenset({"ExpiredProviderToken", "InvalidProviderToken"})
# What Apple says when the key, the team or the topic we are configured with is wrong: no message is at fault.
_ACCOUNT = frozenset(
    {
        "BadCertificate", "BadCertificateEnvironment", "BadEnvironmentKeyIdInToken", "BadPath", "BadTopic", "Forbidden",
        "MissingProviderToken", "MissingTopic", "TopicDisallowed", "UnrelatedKeyIdInToken",
    }
)  # fmt: skip


class ApnsAdapter:
    """Push to Apple devices. Receipts are the app's own acknowledgements: APNs has none.

    Options: ``base_url``, ``key`` (the ``.p8`` file's text), ``key_id``, ``team_id``, ``topic`` (the app's bundle id),
    ``ack_key``."""

    channel: ClassVar[Channel] = Channel.PUSH

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        problems = answers.find_url_problem(options, "base_url")
        try:
            key = es256.load_private_key(options.get("key", ""))
        except ValueError as error:
            problems.append(f"key {error}; give the path of the .p8 file of the developer account as key_file")
        for name, shape, example in (
            ("key_id", _TEN_CHARACTERS, "the 10 characters shown next to the key"),
            ("team_id", _TEN_CHARACTERS, "the 10 characters of the membership page"),
            ("topic", _TOPIC, "the app's bundle id, such as com.example.app"),
        ):
            if not shape.fullmatch(str(options.get(name, ""))):
                problems.append(f"{name} must be {example}")
        if problems:
            raise ConfigurationError(alias, problems)
        self.alias = alias
        self.grant: Grant | None = ApnsGrant(key, key_id=options["key_id"], team_id=options["team_id"])
        self._url = f"{options['base_url'].rstrip('/')}/3/device/"
        self._topic: str = options["topic"]
        self._ack_key: str = options.get("ack_key", "")

    def build(self, messages: Sequence[Message], context: BuildContext) -> list[ProviderRequest]:
        # One request each: HTTP/2 streams are Apple's batch.
        requests = []
        for message in messages:
            problem = self._find_problem(message)
            if problem is not None:
                requests.append(answers.reject(self.alias, message, problem))
                continue
            body, is_silent = _payload(message)
            if len(body) > MAX_PAYLOAD_BYTES:
                too_large = UnsupportedFeature(self.alias, "payload_too_large", f"over {MAX_PAYLOAD_BYTES} bytes")
                requests.append(answers.reject(self.alias, message, too_large))
                continue
            headers = (
                ("authorization", f"bearer {context.access_token}"),
                ("content-type", "application/json"),
                ("apns-topic", self._topic),
                *_delivery_headers(message, context.now, is_silent=is_silent),
            )
            requests.append(ProviderRequest((message,), self._url + message.address, "POST", headers, body))
        return requests

    def _find_problem(self, message: Message) -> ProviderError | None:
        address = message.address
        if not answers.is_clean(address) or not 0 < len(address) <= answers.MAX_ADDRESS_LENGTH or " " in address:
            return InvalidRecipient(self.alias, "malformed_token", "not a device token")
        if not _DEVICE_TOKEN.fullmatch(address):
            # More likely a route that leads here by mistake than a dead device: it must not be switched off.
            return UnsupportedFeature(self.alias, "foreign_token", "not a token of APNs but of another push service")
        if "aps" in message.data:
            return UnsupportedFeature(self.alias, "reserved_data_key", "APNs keeps the data key aps to itself")
        return push_content.find_problem(self.alias, message)

    def parse(self, request: ProviderRequest, response: ProviderResponse | TransportFailure) -> list[Result]:
        if isinstance(response, TransportFailure):
            error = answers.failure_error(self.alias, response)
            return answers.same_for_all(request, response, error=error)
        if response.status != 200:
            return answers.same_for_all(request, response, error=self._read_error(response))
        apns_id = answers.as_message_id(response.headers.get("apns-id"))
        if apns_id is None:
            unknown = OutcomeUnknown(self.alias, "no_apns_id", "accepted without an apns-id")
            return answers.same_for_all(request, response, error=unknown)
        return answers.same_for_all(request, response, message_id=apns_id)

    def _read_error(self, response: ProviderResponse) -> ProviderError:
        answer = answers.read_object(response.body)
        reason = answer.get("reason")
        reason = reason if isinstance(reason, str) and _REASON.fullmatch(reason) else ""
        status, code = response.status, reason or str(response.status)
        pause_s = answers.retry_after_s(response)
        if status in (400, 410) and reason in _DEAD:
            return InvalidRecipient(self.alias, code, dead_since_ms=_as_timestamp_ms(answer.get("timestamp")))
        if status == 403 and reason in _STALE_TOKEN:
            return Unauthorized(self.alias, code, "the provider token was refused; check key, key_id and team_id")
        if status == 429 and reason == "TooManyProviderTokenUpdates":
            pause_s = TOKEN_UPDATES_PAUSE_S if pause_s is None else pause_s
            return RateLimited(self.alias, code, "something else signs with the same key", retry_after_s=pause_s)
        if status == 429 and reason == "TooManyRequests":
            return RecipientRateLimited(self.alias, code, "too many for one device", retry_after_s=pause_s)
        if status in (401, 403) or (400 <= status < 500 and reason in _ACCOUNT):
            return answers.credentials_error(self.alias, code)
        if status == 413:
            return UnsupportedFeature(self.alias, code, f"over {MAX_PAYLOAD_BYTES} bytes")
        if reason == "IdleTimeout":
            return TransientError(self.alias, code, retry_after_s=pause_s)
        return answers.status_error(self.alias, response, code)

    def verify_receipt(self, call: WebhookCall, now: datetime) -> None:
        acknowledgements.verify(call, self._ack_key)

    def parse_receipts(self, call: WebhookCall, now: datetime) -> list[Receipt]:
        return acknowledgements.parse(call, now)


def _payload(message: Message) -> tuple[bytes, bool]:
    """The notification as JSON, and whether it shows, rings and counts nothing: a background notification.
    https://developer.apple.com/documentation/usernotifications/generating-a-remote-notification"""
    aps: dict[str, Any] = {}
    alert = {name: text for name, text in (("title", message.title), ("body", message.body)) if text}
    if alert:
        aps["alert"] = alert
    if message.badge is not None:
        aps["badge"] = message.badge
    if message.sound:
        aps["sound"] = message.sound
    is_silent = not aps
    if is_silent:
        aps["content-available"] = 1
    elif alert and message.ack:
        aps["mutable-content"] = 1  # lets the app's service extension run, which is what can acknowledge an alert
    return orjson.dumps({"aps": aps, **acknowledgements.data_of(message)}), is_silent


def _delivery_headers(message: Message, now: datetime, *, is_silent: bool) -> list[tuple[str, str]]:
    headers = [
        ("apns-push-type", "background" if is_silent else "alert"),
        ("apns-priority", "10" if message.is_high and not is_silent else "5"),  # 10 is an error for a background one
        ("apns-id", message.delivery_id),
    ]
    if message.ttl_s is not None:
        ttl_s = min(max(message.ttl_s, 0), MAX_TTL_S)
        headers.append(("apns-expiration", str(int(now.timestamp()) + ttl_s) if ttl_s else "0"))
    if message.collapse_key:
        headers.append(("apns-collapse-id", apns_collapse_id(message.collapse_key)))
    return headers


def _as_timestamp_ms(value: object) -> int | None:
    """Since when the token is dead: Unix milliseconds of this millennium, or ``None``."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**13 else None

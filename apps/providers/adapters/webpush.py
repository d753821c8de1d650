"""Web Push: RFC 8030 (the call), RFC 8291 (the encryption), RFC 8292 (VAPID).

A device's token is the JSON of ``PushSubscription.toJSON()``. The service worker gets
``{"title", "body", "data"}`` and, where given, ``badge`` and ``sound``; ``data`` carries what it needs to acknowledge.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, ClassVar

import orjson

from apps.channels import Channel
from apps.providers import es256
from apps.providers.adapters import acknowledgements, answers, push_content
from apps.providers.adapters.aes128gcm import MAX_PLAINTEXT_BYTES, encrypt
from apps.providers.adapters.collapsing import webpush_topic
from apps.providers.adapters.push_subscriptions import (
    AllowedServices,
    MalformedSubscription,
    Subscription,
    read_subscription,
)
from apps.providers.errors import (
    ConfigurationError,
    InvalidRecipient,
    ProviderError,
    RecipientRateLimited,
    UnsupportedFeature,
)
from apps.providers.grants import Grant
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

MAX_TTL_S = 2_419_200  # four weeks, what the services keep a message for at most
VAPID_PERIOD_S = 43_200
VAPID_LIFETIME_S = 82_800  # from the period's start: expires 11 to 23 hours from now; RFC 8292, 2 allows 24
MAX_MESSAGE_ID_LENGTH = 64
_SUBJECT = re.compile(r"mailto:[^\s@<>]+@[^\s@<>]+\.[^\s@<>]+|https://[^\s<>]+")


class WebPushAdapter:
    """Push to browsers. Receipts are the service worker's own acknowledgements.

    Options: ``vapid_private_key`` (PEM or 32 bytes as base64url), ``subject`` (``mailto:`` or ``https:`` URL where a
    push service can reach us), ``allowed_hosts`` (see ``AllowedServices``), ``ack_key``."""

    channel: ClassVar[Channel] = Channel.PUSH

    def __init__(self, alias: str, options: Mapping[str, Any]) -> None:
        problems = []
        try:
            self._key = es256.load_private_key(options.get("vapid_private_key", ""))
        except ValueError as error:
            problems.append(f"vapid_private_key {error}; give the key whose public half the site subscribes with")
        if not _SUBJECT.fullmatch(options.get("subject", "")):
            problems.append("subject must be a mailto: or https: URL, such as mailto:operations@example.com")
        hosts = options.get("allowed_hosts", ())
        try:
            self._services = AllowedServices(hosts)
        except ValueError as error:
            problems.append(f"allowed_hosts: {error}")
        if not hosts:
            problems.append("allowed_hosts must name the push services that may be called")
        if problems:
            raise ConfigurationError(alias, problems)
        self.alias = alias
        self.grant: Grant | None = None
        self._subject: str = options["subject"]
        self._public_key = es256.encode_base64url(es256.public_point(self._key))
        self._ack_key: str = options.get("ack_key", "")
        # The same arguments make the same token: kept only because signing takes longer than looking up.
        self._authorize = lru_cache(maxsize=256)(self._sign_vapid)

    def build(self, messages: Sequence[Message], context: BuildContext) -> list[ProviderRequest]:
        # One request each: a subscription is a URL and a key of its own.
        period = int(context.now.timestamp()) // VAPID_PERIOD_S
        requests = []
        for message in messages:
            request = self._build_one(message, period)
            if isinstance(request, ProviderError):
                request = answers.reject(self.alias, message, request)
            requests.append(request)
        return requests

    def _build_one(self, message: Message, period: int) -> ProviderRequest | ProviderError:
        found = self._find_subscription(message.address)
        if isinstance(found, ProviderError):
            return found
        problem = push_content.find_problem(self.alias, message)
        if problem is not None:
            return problem
        payload = _payload(message)
        if len(payload) > MAX_PLAINTEXT_BYTES:
            return UnsupportedFeature(self.alias, "payload_too_large", f"over {MAX_PLAINTEXT_BYTES} bytes")
        try:
            body = encrypt(payload, receiver=found.receiver, secret=found.secret)
        except ValueError:
            return InvalidRecipient(self.alias, "malformed_subscription", "p256dh is no point of P-256")
        headers = (
            ("Authorization", self._authorize(found.origin, period)),
            ("Content-Type", "application/octet-stream"),
            ("Content-Encoding", "aes128gcm"),
            *_delivery_headers(message),
        )
        return ProviderRequest((message,), found.endpoint, "POST", headers, body)

    def _find_subscription(self, address: str) -> Subscription | ProviderError:
        if not (0 < len(address) <= answers.MAX_ADDRESS_LENGTH and answers.is_clean(address)):
            return InvalidRecipient(self.alias, "malformed_subscription", "not a subscription")
        if not address.startswith("{"):
            # More likely a route that leads here by mistake than a dead device: it must not be switched off.
            return UnsupportedFeature(self.alias, "foreign_token", "not a subscription, but another service's token")
        try:
            subscription = read_subscription(address)
        except MalformedSubscription as error:
            return InvalidRecipient(self.alias, "malformed_subscription", str(error))
        if not self._services.allow(subscription):
            return UnsupportedFeature(self.alias, "host_not_allowed", "the push service is not in allowed_hosts")
        return subscription

    def _sign_vapid(self, origin: str, period: int) -> str:
        claims = {"aud": origin, "exp": period * VAPID_PERIOD_S + VAPID_LIFETIME_S, "sub": self._subject}
        return f"vapid t={es256.sign(self._key, claims)}, k={self._public_key}"

    def parse(self, request: ProviderRequest, response: ProviderResponse | TransportFailure) -> list[Result]:
        if isinstance(response, TransportFailure):
            error = answers.failure_error(self.alias, response)
            return answers.same_for_all(request, response, error=error)
        location = response.headers.get("location", "")
        # 201, or 202 where a receipt was asked for (RFC 8030, 5); a 200 counts if it names the message like these.
        if response.status in (201, 202) or (response.status == 200 and location):
            # The whole URL would let its holder delete the message: its end is enough to know it by.
            name = location.rpartition("/")[2][:MAX_MESSAGE_ID_LENGTH]
            return answers.same_for_all(request, response, message_id=answers.as_message_id(name))
        return answers.same_for_all(request, response, error=self._read_error(response))

    def _read_error(self, response: ProviderResponse) -> ProviderError:
        status = response.status
        if status in (404, 410):  # RFC 8030, 7.3
            return InvalidRecipient(self.alias, str(status), "the subscription has ended")
        if status in (401, 403):
            return answers.credentials_error(self.alias, str(status))
        if status == 413:
            return UnsupportedFeature(self.alias, "413", f"over {MAX_PLAINTEXT_BYTES} bytes")
        # RFC 8030, 8.4 has 429, and Microsoft's service says 406 for it:
        # https://learn.microsoft.com/windows/apps/windows-app-sdk/notifications/push-notifications/troubleshooting
        # It is the one push service's, often for the one subscription, and must not stop the other services.
        if status in (406, 429):
            return RecipientRateLimited(self.alias, str(status), retry_after_s=answers.retry_after_s(response))
        return answers.status_error(self.alias, response)

    def verify_receipt(self, call: WebhookCall, now: datetime) -> None:
        acknowledgements.verify(call, self._ack_key)

    def parse_receipts(self, call: WebhookCall, now: datetime) -> list[Receipt]:
        return acknowledgements.parse(call, now)


def _payload(message: Message) -> bytes:
    content: dict[str, Any] = {
        "title": message.title,
        "body": message.body,
        "data": acknowledgements.data_of(message),
    }
    if message.badge is not None:
        content["badge"] = message.badge
    if message.sound:
        content["sound"] = message.sound
    return orjson.dumps(content)


def _delivery_headers(message: Message) -> list[tuple[str, str]]:
    """How long to keep it, how soon to wake the device, what it replaces (RFC 8030, 5.2 to 5.4)."""
    ttl_s = MAX_TTL_S if message.ttl_s is None else min(max(message.ttl_s, 0), MAX_TTL_S)
    headers = [("TTL", str(ttl_s)), ("Urgency", "high" if message.is_high else "normal")]
    if message.collapse_key:
        headers.append(("Topic", webpush_topic(message.collapse_key)))
    return headers

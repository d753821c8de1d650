"""What providers tell us later, from raw webhook call to verified receipts and inbound messages."""

from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TypeGuard

import structlog
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from msgspec.structs import replace

from apps.providers.acks import compute_ack
from apps.providers.base import Adapter, InboundAdapter, SubscribedAdapter
from apps.providers.errors import ForgedReceipt, VerificationUnavailable
from apps.providers.messages import InboundMessage, Receipt, WebhookCall
from apps.providers.registry import get_provider
from apps.providers.subscriptions import confirm, load_certificate

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Heard:
    """What one verified call says: events of deliveries, and what people wrote to us. Both may be empty."""

    receipts: list[Receipt]
    inbound: list[InboundMessage]


def hear(alias: str, call: WebhookCall, now: datetime) -> Heard:
    """What a call of provider ``alias`` says; a provider that asks whether its calls are welcome is told yes.

    Raises ``KeyError`` (no such provider), ``ForgedReceipt``, ``MalformedReceipt`` and ``VerificationUnavailable`` (the
    provider shall call again). A provider without working credentials can prove nothing: its calls count as forged."""
    provider = get_provider(alias)
    try:
        adapter = provider.adapter
    except ImproperlyConfigured as error:
        log.error("provider_not_configured", provider=alias, problem=str(error))
        raise ForgedReceipt("this provider is not configured") from None
    call = _with_certificate(adapter, call)
    adapter.verify_receipt(call, now)
    if _is_subscribed(adapter) and (url := adapter.find_confirmation_url(call)) is not None:
        confirm(alias, url)
    inbound = adapter.parse_inbound(call, now) if _brings_inbound(adapter) else []
    return Heard(adapter.parse_receipts(call, now), inbound)


def verify_and_parse(alias: str, call: WebhookCall, now: datetime) -> list[Receipt]:
    """The receipts in a call of provider ``alias``, none for events that say nothing about a delivery. Raises what
    ``hear`` raises."""
    return hear(alias, call, now).receipts


# ``isinstance`` of a protocol looks at each of its methods every time: a twentieth of what a webhook costs.
_bringing_inbound = lru_cache(lambda kind: issubclass(kind, InboundAdapter))
_subscribed = lru_cache(lambda kind: issubclass(kind, SubscribedAdapter))


def _brings_inbound(adapter: Adapter) -> TypeGuard[InboundAdapter]:
    return _bringing_inbound(type(adapter))


def _is_subscribed(adapter: Adapter) -> TypeGuard[SubscribedAdapter]:
    return _subscribed(type(adapter))


def _with_certificate(adapter: Adapter, call: WebhookCall) -> WebhookCall:
    if not _is_subscribed(adapter):
        return call
    url = adapter.find_certificate_url(call)
    if url is None:
        return call
    certificate = load_certificate(url)
    if certificate is None:
        raise VerificationUnavailable("the certificate that the call is signed with cannot be fetched now")
    return replace(call, certificates={url: certificate})


def ack_token(delivery_id: str) -> str:
    """What the device that gets push ``delivery_id`` sends back to prove it (``settings.PUSH_ACK_KEY``)."""
    return compute_ack(settings.PUSH_ACK_KEY, delivery_id)

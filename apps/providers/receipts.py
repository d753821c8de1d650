"""What providers tell us later, from raw webhook call to verified receipts."""

from datetime import datetime

import structlog
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from apps.providers.acks import compute_ack
from apps.providers.errors import ForgedReceipt
from apps.providers.messages import Receipt, WebhookCall
from apps.providers.registry import get_provider

log = structlog.get_logger(__name__)


def verify_and_parse(alias: str, call: WebhookCall, now: datetime) -> list[Receipt]:
    """The receipts in a call of provider ``alias``; none for events that say nothing about a delivery.

    Raises ``KeyError`` (no such provider), ``ForgedReceipt`` and ``MalformedReceipt``. A provider without working
    credentials can prove nothing: its calls count as forged."""
    provider = get_provider(alias)
    try:
        adapter = provider.adapter
    except ImproperlyConfigured as error:
        log.error("provider_not_configured", provider=alias, problem=str(error))
        raise ForgedReceipt("this provider is not configured") from None
    adapter.verify_receipt(call, now)
    return adapter.parse_receipts(call, now)


def ack_token(delivery_id: str) -> str:
    """What the device that gets push ``delivery_id`` sends back to prove it (``settings.PUSH_ACK_KEY``)."""
    return compute_ack(settings.PUSH_ACK_KEY, delivery_id)

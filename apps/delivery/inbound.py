"""What people write back by SMS: STOP suppresses their number, START lifts that again, before the provider's call is
answered. Each message counts once, so a STOP that is delivered again does not undo a later START."""

from collections.abc import Sequence

import structlog
from django.db import connection, transaction

from apps.channels import Channel
from apps.preferences import cipher
from apps.preferences.services import STOP, lift_stop, suppress_blind_index
from apps.providers.messages import InboundMessage, Keyword, ReceiptKind
from apps.providers.registry import Provider

_KINDS: dict[Keyword, ReceiptKind] = {"stop": ReceiptKind.STOPPED, "start": ReceiptKind.STARTED}
log = structlog.get_logger("notify.delivery.inbound")


def take_inbound(provider: Provider, messages: Sequence[InboundMessage]) -> int:
    """Obeys the keywords among ``messages``; returns how many were new."""
    return sum(_obey(provider, message) for message in messages)


def _obey(provider: Provider, message: InboundMessage) -> bool:
    kind = _KINDS.get(message.keyword)
    if kind is None:
        log.info("inbound_message", provider=provider.alias, keyword=message.keyword)
        return False
    address_bi = cipher.blind_index("phone", message.address)
    with transaction.atomic():
        if not _store(provider, message, kind):
            return False
        if kind is ReceiptKind.STOPPED:
            changed = suppress_blind_index(
                channel=Channel.SMS,
                address_bi=address_bi,
                source=provider.alias,
                reason=STOP,
                evidence=message.event_id,
            )
        else:
            changed = lift_stop(address_bi=address_bi, evidence=message.event_id)
    log.info("inbound_message", provider=provider.alias, keyword=message.keyword, changed=changed)
    return True


def _store(provider: Provider, message: InboundMessage, kind: ReceiptKind) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO receipt_event "
            "(occurred_at, received_at, applied_at, provider, kind, is_matched, event_id, code) "
            "VALUES (%s, now(), now(), %s, %s, true, %s, '') ON CONFLICT (provider, event_id) DO NOTHING",
            [message.occurred_at, provider.id, int(kind), message.event_id[:256]],
        )
        return bool(cursor.rowcount)

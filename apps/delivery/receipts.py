"""Receipts: stored first, answered at once, applied by a task. Status only moves forward (``outcomes.py``)."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import structlog
from django.db import connection, transaction

from apps import metrics
from apps.channels import Channel, Lane
from apps.delivery.doorbell import ring_receipts
from apps.delivery.ids import notification_id_of, time_of
from apps.delivery.inbound import take_inbound
from apps.delivery.outcomes import Moved, apply_receipts
from apps.delivery.selectors import select_notifications
from apps.delivery.statuses import Status
from apps.delivery.wording import provider_alias
from apps.preferences.services import suppress_address
from apps.providers.messages import Receipt, ReceiptKind, WebhookCall
from apps.providers.receipts import hear
from apps.providers.registry import get_provider, provider_by_id

BATCH_SIZE = 1_000
_SUPPRESSING = (ReceiptKind.BOUNCED, ReceiptKind.COMPLAINED, ReceiptKind.UNSUBSCRIBED)
log = structlog.get_logger("notify.delivery.receipts")

_STORE = """
INSERT INTO receipt_event (delivery_id, occurred_at, received_at, provider, kind, is_matched, event_id,
                           provider_message_id, code)
SELECT e.delivery_id, e.occurred_at, now(), %(provider)s, e.kind, false, e.event_id, e.message_id, e.code
FROM unnest(%(delivery_ids)s::uuid[], %(times)s::timestamptz[], %(kinds)s::smallint[], %(event_ids)s::text[],
            %(message_ids)s::text[], %(codes)s::text[])
     AS e(delivery_id, occurred_at, kind, event_id, message_id, code)
ON CONFLICT (provider, event_id) DO NOTHING
"""
_PEEK = """
SELECT id, delivery_id, occurred_at, provider, kind, code FROM receipt_event
WHERE applied_at IS NULL ORDER BY id LIMIT %s
"""
_TAKE = """
WITH taken AS MATERIALIZED (
    SELECT id FROM receipt_event WHERE id = ANY(%s) AND applied_at IS NULL ORDER BY id FOR UPDATE SKIP LOCKED
)
UPDATE receipt_event e SET applied_at = now() FROM taken WHERE e.id = taken.id
RETURNING e.id
"""


class _Event(NamedTuple):
    id: int
    delivery_id: UUID | None
    occurred_at: datetime
    provider: int
    kind: int
    code: str


def take_webhook(alias: str, call: WebhookCall, *, now: datetime) -> int:
    """Verifies a provider's call, stores its events and rings; returns how many were new. Raises ``ForgedReceipt``,
    ``MalformedReceipt`` or ``KeyError`` (no such provider), and stores nothing then."""
    provider = get_provider(alias)
    heard = hear(alias, call, now)
    take_inbound(provider, heard.inbound)
    receipts = heard.receipts
    stored = _store(provider.id, receipts)
    if stored:
        ring_receipts()
    log.info(
        "receipt_stored",
        provider=alias,
        events=len(receipts),
        new=stored,
        delivery_ids=[receipt.delivery_id for receipt in receipts[:10]],
        kinds=sorted({receipt.kind.name.lower() for receipt in receipts}),
    )
    return stored


def _store(provider_id: int, receipts: Sequence[Receipt]) -> int:
    if not receipts:
        return 0
    unique = {receipt.event_id: receipt for receipt in receipts}.values()
    with connection.cursor() as cursor:
        cursor.execute(
            _STORE,
            {
                "provider": provider_id,
                "delivery_ids": [_uuid(receipt.delivery_id) for receipt in unique],
                "times": [receipt.occurred_at for receipt in unique],
                "kinds": [int(receipt.kind) for receipt in unique],
                "event_ids": [receipt.event_id[:256] for receipt in unique],
                "message_ids": [receipt.provider_message_id for receipt in unique],
                "codes": [receipt.code[:64] for receipt in unique],
            },
        )
        return int(cursor.rowcount)


def _uuid(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        return None


def apply_pending() -> int:
    """Applies everything in the inbox, batch by batch; returns how many events. Safe to run several times at once."""
    applied = 0
    while True:
        count = _apply_batch()
        applied += count
        if count == 0:
            return applied


def _apply_batch() -> int:
    with connection.cursor() as cursor:
        cursor.execute(_PEEK, [BATCH_SIZE])
        events = [_Event(*row) for row in cursor.fetchall()]
    if not events:
        return 0
    # Before the events count as applied: should this worker die in between, the next one suppresses again.
    _suppress(events)
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute(_TAKE, [[event.id for event in events]])
            taken = {row[0] for row in cursor.fetchall()}
        events = [event for event in events if event.id in taken]
        moved = _apply(events)
        moved_ids = {row.id for row in moved}
        matched = [event.id for event in events if event.delivery_id in moved_ids]
        with connection.cursor() as cursor:
            cursor.execute("UPDATE receipt_event SET is_matched = true WHERE id = ANY(%s)", [matched])
    _report(events, moved)
    return len(events)


def _apply(events: Sequence[_Event]) -> list[Moved]:
    by_kind: dict[ReceiptKind, list[tuple[UUID, datetime, str]]] = defaultdict(list)
    for event in events:
        if event.delivery_id is not None:
            by_kind[ReceiptKind(event.kind)].append((event.delivery_id, event.occurred_at, event.code))
    return [row for kind in sorted(by_kind) for row in apply_receipts(kind, by_kind[kind])]


def _suppress(events: Sequence[_Event]) -> None:
    """Hard bounces and complaints retire the address at once, for every later notification."""
    fatal = [event for event in events if event.kind in _SUPPRESSING and event.delivery_id is not None]
    ids = {notification_id_of(event.delivery_id) for event in fatal if event.delivery_id}
    notifications = select_notifications(ids)
    for event in fatal:
        assert event.delivery_id is not None
        notification = notifications.get(notification_id_of(event.delivery_id))
        if notification is None:
            continue
        provider = provider_by_id(event.provider)
        kind = ReceiptKind(event.kind).name.lower()
        suppress_address(
            channel=provider.channel,
            user_id=notification.user_id,
            source=provider.alias,
            reason=f"{kind} {event.code}".strip(),
            used_at=time_of(event.delivery_id),
        )


def _report(events: Sequence[_Event], moved: Sequence[Moved]) -> None:
    counts: dict[tuple[str, str, str, str], int] = defaultdict(int)
    latencies: dict[str, list[float]] = defaultdict(list)
    for row in moved:
        channel = Channel(row.channel).label
        counts[Status(row.status).label, channel, Lane(row.lane).label, provider_alias(row.provider) or ""] += 1
        if row.delivered_at is not None:
            latencies[channel].append((row.delivered_at - time_of(row.id)).total_seconds())
    for labels, count in counts.items():
        metrics.deliveries(*labels, count)
    for channel, seconds in latencies.items():
        metrics.accept_to_delivered(channel, seconds)
    known = select_notifications({notification_id_of(event.delivery_id) for event in events if event.delivery_id})
    log.info(
        "receipts_applied",
        events=len(events),
        moved=len(moved),
        trace_ids=sorted({row.trace_id for row in known.values()})[:200],
        delivery_ids=[str(row.id) for row in moved[:10]],
    )


def forget_applied(*, retention_days: int) -> int:
    """Deletes applied receipts older than ``retention_days``; returns how many."""
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM receipt_event WHERE applied_at IS NOT NULL "
            "AND received_at < now() - make_interval(days => %s)",
            [retention_days],
        )
        return int(cursor.rowcount)

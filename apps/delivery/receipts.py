"""Receipts: stored first, answered at once, applied by a task. Status only moves forward (``outcomes.py``)."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import structlog
from django.db import connection, transaction
from django.db.utils import InterfaceError, OperationalError

from apps import metrics
from apps.channels import Channel, Lane
from apps.delivery.doorbell import ring_receipts
from apps.delivery.ids import notification_id_of, time_of
from apps.delivery.inbound import take_inbound
from apps.delivery.outcomes import WAITING_KINDS, Moved, ReceiptFact, apply_receipts, select_under_way
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
SELECT id, delivery_id, occurred_at, provider, kind, code, provider_message_id FROM receipt_event
WHERE applied_at IS NULL AND id > %s ORDER BY id LIMIT %s
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
    provider_message_id: str | None


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
    """Applies what lies in the inbox, batch by batch; returns how many events. Safe to run several times at once."""
    applied = 0
    last = 0
    while events := _peek(after=last):
        last = events[-1].id
        applied += _apply_batch(_without_parked(events))
    return applied


def _peek(*, after: int) -> list[_Event]:
    with connection.cursor() as cursor:
        cursor.execute(_PEEK, [after, BATCH_SIZE])
        return [_Event(*row) for row in cursor.fetchall()]


def _without_parked(events: Sequence[_Event]) -> list[_Event]:
    """Leaves out what must wait for the record of a call that is under way; the sweep rings for it again."""
    waiting = {event.delivery_id for event in events if event.kind in WAITING_KINDS and event.delivery_id}
    under_way = select_under_way(waiting)
    return [event for event in events if not (event.kind in WAITING_KINDS and event.delivery_id in under_way)]


def _apply_batch(events: Sequence[_Event]) -> int:
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
    if events:
        _report(events, moved)
    return len(events)


def _apply(events: Sequence[_Event]) -> list[Moved]:
    by_kind: dict[int, list[ReceiptFact]] = defaultdict(list)
    for event in events:
        if event.delivery_id is not None:
            fact = ReceiptFact(event.delivery_id, event.occurred_at, event.code, event.provider_message_id)
            by_kind[event.kind].append(fact)
    known = [kind for kind in ReceiptKind if kind in by_kind]
    return [row for kind in known for row in apply_receipts(kind, by_kind[kind])]


def _suppress(events: Sequence[_Event]) -> None:
    """Hard bounces and complaints retire the address at once, for every later notification."""
    fatal = [(event, event.delivery_id) for event in events if event.kind in _SUPPRESSING and event.delivery_id]
    notifications = select_notifications({notification_id_of(delivery_id) for _, delivery_id in fatal})
    for event, delivery_id in fatal:
        notification = notifications.get(notification_id_of(delivery_id))
        if notification is not None:
            _suppress_one(event, delivery_id, notification.user_id)


def _suppress_one(event: _Event, delivery_id: UUID, user_id: str) -> None:
    kind = ReceiptKind(event.kind).name.lower()
    try:
        provider = provider_by_id(event.provider)
        if provider.channel is Channel.PUSH:
            return
        suppress_address(
            channel=provider.channel,
            user_id=user_id,
            source=provider.alias,
            reason=f"{kind} {event.code}".strip(),
            used_at=time_of(delivery_id),
        )
    except (OperationalError, InterfaceError):
        raise  # the database is away: the whole batch is tried again
    except Exception:
        # One bad event, of a provider no longer in the settings for instance, must not hold up all the others.
        log.exception("receipt_not_obeyed", event_id=event.id, provider=event.provider, kind=kind)


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

"""Receipts: stored first, answered at once, applied by a task. Status only moves forward (``outcomes.py``)."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import structlog
from django.db import connection, transaction
from django.db.utils import InterfaceError, OperationalError

from apps import metrics
from apps.channels import Channel, Lane
from apps.delivery.doorbell import ring_receipts
from apps.delivery.grouping import Grouping, alone_after_failure
from apps.delivery.ids import address_number_of, is_of_broadcast, notification_id_of, time_of
from apps.delivery.inbound import take_inbound
from apps.delivery.outcomes import WAITING_KINDS, Moved, ReceiptFact, apply_receipts, select_under_way
from apps.delivery.preparation import load_sources
from apps.delivery.selectors import select_notifications
from apps.delivery.statuses import Status
from apps.delivery.wording import provider_alias
from apps.pg_prepared import run_prepared
from apps.preferences.selectors import select_versions_by_id
from apps.preferences.services import suppress_address
from apps.providers.messages import Receipt, ReceiptKind, WebhookCall
from apps.providers.receipts import hear
from apps.providers.registry import get_provider, provider_by_id

BATCH_SIZE = 1_000
UNWRITTEN_PATIENCE_S = 600.0  # how long a receipt waits for the row that it is about
_SUPPRESSING = (ReceiptKind.BOUNCED, ReceiptKind.COMPLAINED, ReceiptKind.UNSUBSCRIBED)
log = structlog.get_logger("notify.delivery.receipts")
_encode = msgspec.json.Encoder().encode

# In one order, so that two of these never wait for each other in a circle.
_STORE = """
INSERT INTO receipt_event (delivery_id, occurred_at, received_at, provider, kind, is_matched, event_id,
                           provider_message_id, code)
SELECT e.delivery_id, e.occurred_at, now(), e.provider, e.kind, false, e.event_id, e.message_id, e.code
FROM jsonb_to_recordset(%s::jsonb) AS e(provider smallint, event_id text, delivery_id uuid, occurred_at timestamptz,
                                        kind smallint, message_id text, code text)
ORDER BY e.provider, e.event_id
ON CONFLICT (provider, event_id) DO NOTHING
RETURNING provider, event_id
"""
_PEEK = """
SELECT id, delivery_id, occurred_at, provider, kind, code, provider_message_id FROM receipt_event
WHERE applied_at IS NULL AND id > %s ORDER BY id LIMIT %s
"""
# A broadcast's row is written after its chunk was sent: its receipt may be here first.
_UNWRITTEN = """
SELECT e.id FROM receipt_event e
WHERE e.id = ANY(%(events)s) AND e.received_at > now() - make_interval(secs => %(patience_s)s)
  AND NOT EXISTS (SELECT FROM delivery d WHERE d.id = e.delivery_id AND d.id BETWEEN %(low)s AND %(high)s)
"""
_TAKE = """
WITH taken AS MATERIALIZED (
    SELECT id FROM receipt_event WHERE id = ANY(%s) AND applied_at IS NULL ORDER BY id FOR UPDATE SKIP LOCKED
)
UPDATE receipt_event e SET applied_at = now() FROM taken WHERE e.id = taken.id
RETURNING e.id
"""


class _Row(msgspec.Struct):
    """What is stored of a receipt."""

    provider: int
    event_id: str
    delivery_id: UUID | None
    occurred_at: datetime
    kind: int
    message_id: str | None
    code: str

    @property
    def key(self) -> tuple[int, str]:
        return self.provider, self.event_id


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
        kinds=sorted({receipt.kind.label for receipt in receipts}),
    )
    return stored


def _store(provider_id: int, receipts: Sequence[Receipt]) -> int:
    if not receipts:
        return 0
    rows = [
        _Row(
            provider_id,
            receipt.event_id[:256],
            _uuid(receipt.delivery_id),
            receipt.occurred_at,
            receipt.kind,
            receipt.provider_message_id,
            receipt.code[:64],
        )
        for receipt in receipts
    ]
    # Whoever has a transaction open means to write within it.
    stored = None if connection.in_atomic_block else _grouping.run(rows)
    return len(_insert(rows)) if stored is None else stored


@alone_after_failure
def _store_calls(calls: Sequence[Sequence[_Row]]) -> Sequence[int | None]:
    """Stores what several calls brought at the same time; how many were new of each, or None for whoever has to try
    alone."""
    new = _insert([row for rows in calls for row in rows])
    counts: list[int | None] = []
    for rows in calls:
        own = {row.key for row in rows} & new
        new -= own  # of an event that two calls brought
        counts.append(len(own))
    return counts


_grouping = Grouping(_store_calls, max_size=64, patience_s=0.05)


def _insert(rows: Sequence[_Row]) -> set[tuple[int, str]]:
    """Writes them, each event once; returns the new ones."""
    unique = {row.key: row for row in rows}
    return {(row[0], row[1]) for row in run_prepared(_STORE, [_encode(list(unique.values())).decode()])}


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
    unwritten = _select_unwritten(events)
    events = [event for event in events if event.id not in unwritten]
    waiting = {event.delivery_id for event in events if event.kind in WAITING_KINDS and event.delivery_id}
    under_way = select_under_way(waiting)
    return [event for event in events if not (event.kind in WAITING_KINDS and event.delivery_id in under_way)]


def _select_unwritten(events: Sequence[_Event]) -> set[int]:
    """The events about deliveries of broadcasts that have no row yet, unless they have waited for one long enough."""
    ids = {event.id: event.delivery_id for event in events if event.delivery_id and is_of_broadcast(event.delivery_id)}
    if not ids:
        return set()
    low, high = min(ids.values()), max(ids.values())
    parameters: dict[str, Any] = {"events": list(ids), "patience_s": UNWRITTEN_PATIENCE_S, "low": low, "high": high}
    with connection.cursor() as cursor:
        cursor.execute(_UNWRITTEN, parameters)
        return {row[0] for row in cursor.fetchall()}


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
    user_ids = _select_user_ids({delivery_id for _, delivery_id in fatal})
    for event, delivery_id in fatal:
        if delivery_id in user_ids:
            _suppress_one(event, delivery_id, user_ids[delivery_id])


def _select_user_ids(delivery_ids: Collection[UUID]) -> dict[UUID, str]:
    """Whom these texts and mails were for. A broadcast's name the recipient in their ids."""
    of_broadcasts = {one: address_number_of(one) for one in delivery_ids if is_of_broadcast(one)}
    named = select_versions_by_id(sorted(set(of_broadcasts.values())))
    user_ids = {one: named[number][0] for one, number in of_broadcasts.items() if number in named}
    others = {one: notification_id_of(one) for one in delivery_ids if one not in of_broadcasts}
    notifications = select_notifications(set(others.values()))
    return user_ids | {one: notifications[key].user_id for one, key in others.items() if key in notifications}


def _suppress_one(event: _Event, delivery_id: UUID, user_id: str) -> None:
    kind = ReceiptKind(event.kind).label
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
    sources = load_sources(event.delivery_id for event in events if event.delivery_id)
    log.info(
        "receipts_applied",
        events=len(events),
        moved=len(moved),
        trace_ids=sorted({source.trace_id for source in sources.values()})[:200],
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

"""Accepting a notification: decide per channel, write everything in one statement, ring.

Nothing is half-written: idempotency key, notification and deliveries go into the database in a single statement, and a
request that fails writes nothing. Once the statement has returned the notification is never lost, whatever happens to
the broker.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
import orjson
import structlog
from django.conf import settings
from django.db import connection
from django.db.utils import DatabaseError, OperationalError
from django.utils.crypto import salted_hmac
from psycopg.errors import LockNotAvailable

from apps import metrics
from apps.channels import Channel, Lane
from apps.delivery.answers import AcceptedDelivery, AcceptedNotification
from apps.delivery.content import Content, find_oversize, seal_content
from apps.delivery.doorbell import ring_deliveries
from apps.delivery.ids import MAX_DELIVERIES, delivery_ids, new_notification_id, time_of
from apps.delivery.selectors import overall_status
from apps.delivery.statuses import Reason, Status
from apps.delivery.sweep import ring_soon
from apps.delivery.wording import reason_label
from apps.preferences import policy
from apps.preferences.caps import CapRequest, peek_usage
from apps.preferences.categories import CategoryRules
from apps.preferences.selectors import RecipientSnapshot, find_category, load_snapshots, select_versions
from apps.problems import Problem, invalid_field
from apps.providers.adapters.sms_segments import count_segments

DOORBELL_GRACE_S = 10.0  # how long the sweep leaves a row to its doorbell
log = structlog.get_logger("notify.delivery.intake")


@dataclass(frozen=True, slots=True)
class Order:
    """A well-formed request for one notification. ``channels`` is ``None`` for every reachable one; ``fingerprint``
    tells one request body from another."""

    client_id: int
    idempotency_key: str
    fingerprint: bytes
    user_id: str
    type: str
    category: str
    lane: Lane
    content: Content
    trace_id: str
    channels: tuple[Channel, ...] | None = None
    send_at: datetime | None = None
    expires_at: datetime | None = None
    is_dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """The JSON answer; ``is_replay`` if it had been given before for the same key."""

    body: bytes
    is_replay: bool = False


@dataclass(frozen=True, slots=True)
class _Planned:
    """One delivery to be written."""

    channel: Channel
    status: Status
    reason: int
    device_id: int | None = None
    not_before: datetime | None = None


def fingerprint_of(body: Any) -> bytes:
    """A keyed hash of a request's JSON, whatever the order of its keys. Keyed, as the body may be guessable."""
    canonical = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    return salted_hmac("notify.idempotency", canonical, secret=settings.API_KEY_PEPPER, algorithm="sha256").digest()


def accept(order: Order, *, now: datetime) -> Answer:
    """Accepts a notification or raises a ``Problem``; ``now`` is aware. With the same key and body it answers what it
    answered before."""
    if not order.is_dry_run and (replay := _find_answer(order)) is not None:
        return replay
    if order.send_at is not None and order.send_at <= now:
        order = replace(order, send_at=None)  # now is as soon as it can be
    _check_times(order, now)
    category = find_category(order.category)
    if category is None:
        raise invalid_field("/category", "there is no such category; GET /v1/categories lists them", "unknown_category")
    version = select_versions([order.user_id]).get(order.user_id)
    snapshot = load_snapshots({order.user_id: version[1]}).get(order.user_id) if version else None
    if snapshot is None or snapshot.is_erased:
        raise invalid_field("/user_id", "there is no such user; create it with PUT /v1/users/{user_id}", "unknown_user")
    planned = _plan(order, snapshot, category, now)
    _check_size(order, planned)
    notification_id = new_notification_id()
    ids = delivery_ids(notification_id, len(planned))
    body = _answer(order, notification_id, ids, planned)
    if order.is_dry_run:
        return Answer(body)
    if not _write(order, snapshot.recipient_id, notification_id, ids, planned, body):
        answer = _find_answer(order)
        if answer is None:
            raise _still_in_progress()
        return answer
    _announce(order, notification_id, ids, planned, now)
    return Answer(body)


def forget_idempotency_keys(*, retention_days: int) -> int:
    """Deletes keys older than ``retention_days``, in bites; returns how many."""
    deleted = 0
    while True:
        with connection.cursor() as cursor:
            cursor.execute(
                "DELETE FROM idempotency_key WHERE ctid = ANY(ARRAY(SELECT ctid FROM idempotency_key "
                "WHERE created_at < now() - make_interval(days => %s) LIMIT 10000))",
                [retention_days],
            )
            deleted += int(cursor.rowcount)
            if cursor.rowcount < 10_000:
                return deleted


def _check_times(order: Order, now: datetime) -> None:
    furthest = now + timedelta(days=settings.DELIVERY_RETENTION_DAYS)
    if order.send_at is not None and order.send_at > furthest:
        raise invalid_field("/send_at", f"at most {settings.DELIVERY_RETENTION_DAYS} days ahead")
    if order.expires_at is not None and order.expires_at <= max(now, order.send_at or now):
        raise invalid_field("/expires_at", "must lie in the future and after send_at")


def _plan(order: Order, snapshot: RecipientSnapshot, category: CategoryRules, now: datetime) -> list[_Planned]:
    """The deliveries to write, one per channel × address, refused ones included, so that everything has a reason."""
    planned = [
        item
        for channel in order.channels or tuple(Channel)
        for item in _plan_channel(order, snapshot, category, channel, now)
    ]
    if order.channels is None:
        reachable = [item for item in planned if item.reason != policy.Reason.NO_ADDRESS]
        planned = reachable or planned
    return planned[:MAX_DELIVERIES]


def _plan_channel(
    order: Order, snapshot: RecipientSnapshot, category: CategoryRules, channel: Channel, now: datetime
) -> list[_Planned]:
    due = max(now, order.send_at or now)
    usage = None
    if category.obeys_cap and due == now:
        (usage,) = peek_usage([CapRequest(snapshot.recipient_id, channel, category)], now)
    decision = policy.decide(snapshot, channel, category, due, usage=usage, expires_at=order.expires_at)
    if decision.action is policy.Action.SUPPRESS:
        return [_Planned(channel, Status.SUPPRESSED, decision.reason)]
    not_before, reason = decision.not_before, int(decision.reason)
    if not_before is None:
        not_before, reason = (due, int(Reason.SCHEDULED)) if due > now else (None, 0)
    if not_before is not None and order.expires_at is not None and not_before >= order.expires_at:
        return [_Planned(channel, Status.EXPIRED, Reason.EXPIRED)]
    devices: Sequence[int | None] = [device.id for device in snapshot.devices] if channel is Channel.PUSH else [None]
    return [_Planned(channel, Status.QUEUED, reason, device_id, not_before) for device_id in devices]


def _check_size(order: Order, planned: Sequence[_Planned]) -> None:
    channels = {item.channel for item in planned if item.status is Status.QUEUED} | set(order.channels or ())
    if oversize := find_oversize(order.content, channels):
        raise invalid_field(oversize[0], oversize[1], "too_large")


def _answer(order: Order, notification_id: UUID, ids: Sequence[UUID], planned: Sequence[_Planned]) -> bytes:
    has_sms = any(item.channel is Channel.SMS for item in planned)
    segments = count_segments(order.content.sms_body).count if has_sms else None
    return msgspec.json.encode(
        AcceptedNotification(
            id=None if order.is_dry_run else notification_id,
            status=overall_status({item.status for item in planned}).label,  # type: ignore[arg-type]
            user_id=order.user_id,
            trace_id=order.trace_id,
            created_at=time_of(notification_id),
            dry_run=order.is_dry_run,
            deliveries=[
                AcceptedDelivery(
                    id=None if order.is_dry_run else delivery_id,
                    channel=item.channel.label,  # type: ignore[arg-type]
                    status=item.status.label,  # type: ignore[arg-type]
                    reason=reason_label(item.reason),
                    not_before=item.not_before,
                    segments=segments if item.channel is Channel.SMS else None,
                )
                for delivery_id, item in zip(ids, planned, strict=True)
            ],
        )
    )


_WRITE = """
WITH key AS (
    INSERT INTO idempotency_key (client_id, key, created_at, fingerprint, response)
    VALUES (%(client_id)s, %(key)s, now(), %(fingerprint)s, %(response)s)
    ON CONFLICT DO NOTHING
    RETURNING client_id
), written AS (
    INSERT INTO notification (id, recipient_id, client_id, send_at, expires_at, lane, user_id, type, category,
                              trace_id, content_ct)
    SELECT %(id)s, %(recipient_id)s, key.client_id, %(send_at)s, %(expires_at)s, %(lane)s, %(user_id)s, %(type)s,
           %(category)s, %(trace_id)s, %(content_ct)s
    FROM key
), delivered AS (
    INSERT INTO delivery (id, recipient_id, device_id, next_attempt_at, ring_at, client_id, channel, lane, status,
                          reason, attempts, fence, lapses)
    SELECT d.id, %(recipient_id)s, d.device_id,
           CASE WHEN d.status = 1 THEN COALESCE(d.not_before, now()) END,
           CASE WHEN d.status = 1 THEN COALESCE(d.not_before, now() + make_interval(secs => %(grace_s)s)) END,
           key.client_id, d.channel, %(lane)s, d.status, d.reason, 0, 0, 0
    FROM key, unnest(%(ids)s::uuid[], %(device_ids)s::bigint[], %(not_befores)s::timestamptz[],
                     %(channels)s::smallint[], %(statuses)s::smallint[], %(reasons)s::smallint[])
              AS d(id, device_id, not_before, channel, status, reason)
)
SELECT count(*) FROM key
"""


def _write(
    order: Order,
    recipient_id: int,
    notification_id: UUID,
    ids: Sequence[UUID],
    planned: Sequence[_Planned],
    response: bytes,
) -> bool:
    """Whether it was written; ``False`` if the key had been used. A second request with the key waits for the first
    one's commit, at most as long as the connection's ``lock_timeout``."""
    parameters: dict[str, Any] = {
        "client_id": order.client_id,
        "key": order.idempotency_key,
        "fingerprint": order.fingerprint,
        "response": response,
        "id": notification_id,
        "recipient_id": recipient_id,
        "send_at": order.send_at,
        "expires_at": order.expires_at,
        "lane": int(order.lane),
        "user_id": order.user_id,
        "type": order.type,
        "category": order.category,
        "trace_id": order.trace_id,
        "content_ct": seal_content(order.content, notification_id),
        "grace_s": DOORBELL_GRACE_S,
        "ids": list(ids),
        "device_ids": [item.device_id for item in planned],
        "not_befores": [item.not_before for item in planned],
        "channels": [int(item.channel) for item in planned],
        "statuses": [int(item.status) for item in planned],
        "reasons": [int(item.reason) for item in planned],
    }
    try:
        with connection.cursor() as cursor:
            cursor.execute(_WRITE, parameters)
            row = cursor.fetchone()
    except OperationalError as error:
        if isinstance(error.__cause__, LockNotAvailable):
            raise _still_in_progress() from None
        raise
    return bool(row and row[0])


def _find_answer(order: Order) -> Answer | None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT fingerprint, response FROM idempotency_key WHERE client_id = %s AND key = %s",
            [order.client_id, order.idempotency_key],
        )
        row = cursor.fetchone()
    if row is None:
        return None
    if bytes(row[0]) != order.fingerprint:
        raise Problem(
            422,
            "idempotency-key-reused",
            "this X-Idempotency-Key was used for a different request; use a new key for a new notification",
        )
    return Answer(bytes(row[1]), is_replay=True)


def _still_in_progress() -> Problem:
    return Problem(
        409,
        "idempotency-key-in-progress",
        "a request with this X-Idempotency-Key is still being processed; try again",
        headers={"Retry-After": "1"},
    )


def _announce(
    order: Order, notification_id: UUID, ids: Sequence[UUID], planned: Sequence[_Planned], now: datetime
) -> None:
    """Rings for what is due now, and lets operators see it."""
    due = [
        (delivery_id, int(item.channel), int(order.lane))
        for delivery_id, item in zip(ids, planned, strict=True)
        if item.status is Status.QUEUED and (item.not_before is None or item.not_before <= now)
    ]
    if due and not ring_deliveries(due):
        _ask_sweep([delivery_id for delivery_id, _, _ in due])
    for item in planned:
        metrics.accepted(item.channel.label, order.lane.label, 1)
        if item.status is not Status.QUEUED:
            metrics.deliveries(item.status.label, item.channel.label, order.lane.label, "", 1)
        if item.status is Status.SUPPRESSED:
            metrics.suppressed(reason_label(item.reason) or "", item.channel.label, 1)
    log.info(
        "accepted",
        notification_id=str(notification_id),
        client_id=order.client_id,
        lane=order.lane.label,
        deliveries=[f"{item.channel.label}:{reason_label(item.reason) or item.status.label}" for item in planned],
    )


def _ask_sweep(ids: Sequence[UUID]) -> None:
    try:
        ring_soon(ids)
    except DatabaseError as error:  # it was accepted; the sweep finds it after the grace period
        log.warning("sweep_not_asked", error=type(error).__name__)

"""Reads of the delivery log: one query each, plain rows instead of model objects on the hot paths."""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from django.db import connection

from apps.channels import Channel, Lane
from apps.delivery.ids import delivery_range, first_id_at, notification_id_of
from apps.delivery.models import Attempt, Delivery, Notification
from apps.delivery.statuses import Status


class NotificationRow(NamedTuple):
    """What dispatch needs of a notification; ``content_ct`` is ciphertext."""

    id: UUID
    user_id: str
    category: str
    trace_id: str
    send_at: datetime | None
    expires_at: datetime | None
    content_ct: bytes


def select_notifications(ids: Collection[UUID]) -> dict[UUID, NotificationRow]:
    """The rows of these notifications by id."""
    if not ids:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT id, user_id, category, trace_id, send_at, expires_at, content_ct FROM notification "
            "WHERE id = ANY(%s::uuid[]) AND id BETWEEN %s AND %s",
            [list(ids), min(ids), max(ids)],
        )
        return {row[0]: NotificationRow(*row) for row in cursor.fetchall()}


@dataclass(frozen=True, slots=True)
class NotificationFilter:
    """Which of a client's notifications to list, newest first; ``None`` means no restriction."""

    limit: int = 20
    before: UUID | None = None
    user_id: str | None = None
    type: str | None = None
    status: Status | None = None
    channel: Channel | None = None
    since: datetime | None = None
    until: datetime | None = None


# The deliveries of a notification: see ids.py. SQL has no arithmetic on UUIDs, so the last byte is cut as text.
_DELIVERIES_OF = "d.id > n.id AND d.id <= (left(n.id::text, 34) || 'ff')::uuid"


def select_notification(client_id: int, notification_id: UUID) -> Notification | None:
    """A client's own notification; ``None`` also for another's."""
    return Notification.objects.filter(id=notification_id, client_id=client_id).first()


def select_notification_page(client_id: int, wanted: NotificationFilter) -> list[Notification]:
    """Up to ``limit + 1`` notifications: the last one tells that there is another page."""
    conditions = ["n.client_id = %s"]
    values: list[object] = [client_id]
    for condition, value in (
        ("n.id < %s", wanted.before),
        # By the recipient, who has an index; a user id alone would be looked for among all of the client's.
        ("n.recipient_id = (SELECT id FROM preferences_recipient WHERE user_id = %s)", wanted.user_id),
        ("n.user_id = %s", wanted.user_id),
        ("n.type = %s", wanted.type),
        ("n.id >= %s", wanted.since and first_id_at(wanted.since)),
        ("n.id < %s", wanted.until and first_id_at(wanted.until)),
    ):
        if value is not None:
            conditions.append(condition)
            values.append(value)
    if wanted.status is not None or wanted.channel is not None:
        conditions.append(
            f"EXISTS (SELECT 1 FROM delivery d WHERE {_DELIVERIES_OF} "  # noqa: S608 - constants only
            "AND (%s::int IS NULL OR d.status = %s) AND (%s::int IS NULL OR d.channel = %s))"
        )
        values += [wanted.status, wanted.status, wanted.channel, wanted.channel]
    where = " AND ".join(conditions)
    query = f"SELECT n.* FROM notification n WHERE {where} ORDER BY n.id DESC LIMIT %s"  # noqa: S608 - constants only
    return list(Notification.objects.raw(query, [*values, wanted.limit + 1]))


def select_deliveries(notification_id: UUID) -> list[Delivery]:
    """The deliveries of a notification, in their order."""
    return list(Delivery.objects.filter(id__range=delivery_range(notification_id)).order_by("id"))


def select_deliveries_of(notifications: Iterable[Notification]) -> dict[UUID, list[Delivery]]:
    """The deliveries of several notifications by notification id, in one query."""
    by_notification: dict[UUID, list[Delivery]] = {notification.id: [] for notification in notifications}
    if not by_notification:
        return by_notification
    lows, highs = zip(*(delivery_range(key) for key in by_notification), strict=True)
    # Each is looked up by itself, which OFFSET makes sure of: a join would read all that lies between a person's first
    # notification and the last.
    deliveries = Delivery.objects.raw(
        "SELECT d.* FROM unnest(%s::uuid[], %s::uuid[]) AS r(low, high) CROSS JOIN LATERAL "
        "(SELECT * FROM delivery WHERE id BETWEEN r.low AND r.high AND id BETWEEN %s AND %s OFFSET 0) AS d "
        "ORDER BY d.id",
        [list(lows), list(highs), min(lows), max(highs)],
    )
    for delivery in deliveries:
        by_notification[notification_id_of(delivery.id)].append(delivery)
    return by_notification


def select_attempts(notification_id: UUID) -> dict[UUID, list[Attempt]]:
    """The failed provider calls of a notification's deliveries, by delivery id, oldest first."""
    attempts: dict[UUID, list[Attempt]] = {}
    for attempt in Attempt.objects.filter(delivery_id__range=delivery_range(notification_id)).order_by("at"):
        attempts.setdefault(attempt.delivery_id, []).append(attempt)
    return attempts


# A notification stands where its least finished delivery stands; among finished ones the best outcome counts.
_RANK = (
    Status.QUEUED,
    Status.SENDING,
    Status.DELIVERED,
    Status.SENT,
    Status.UNKNOWN,
    Status.BOUNCED,
    Status.FAILED,
    Status.DEAD,
    Status.EXPIRED,
    Status.CANCELLED,
    Status.SUPPRESSED,
)


def overall_status(statuses: Collection[int]) -> Status:
    """One word for a notification with deliveries in these statuses."""
    for status in _RANK:
        if status in statuses:
            return status
    return Status.SUPPRESSED


# Hops from client to client through the index ``delivery_ring``, to the first row of each queue and client: as many
# probes as there are clients with open rows, however many rows those have.
_HEADS = """
WITH RECURSIVE head AS (
    (SELECT lane, channel, client_id, ring_at FROM delivery WHERE ring_at IS NOT NULL
     ORDER BY lane, channel, client_id, ring_at LIMIT 1)
    UNION ALL
    SELECT next.* FROM head CROSS JOIN LATERAL (
        SELECT lane, channel, client_id, ring_at FROM delivery
        WHERE ring_at IS NOT NULL
          AND (lane, channel, client_id) > (head.lane, head.channel, head.client_id)
        ORDER BY lane, channel, client_id, ring_at LIMIT 1
    ) AS next
)
"""
_DUE_CLIENTS = f"""{_HEADS}
SELECT head.lane, head.channel, head.client_id, COALESCE(client.weight, 1)
FROM head LEFT JOIN clients_client client ON client.id = head.client_id
WHERE head.ring_at <= now()
"""  # noqa: S608 - constants only


def select_due_clients() -> dict[tuple[Lane, Channel], dict[int, int]]:
    """Per queue in which rows are to be rung for, the clients they are of, with their weights."""
    due: dict[tuple[Lane, Channel], dict[int, int]] = defaultdict(dict)
    with connection.cursor() as cursor:
        cursor.execute(_DUE_CLIENTS)
        for lane, channel, client_id, weight in cursor.fetchall():
            due[Lane(lane), Channel(channel)][client_id] = weight
    return due


_QUEUE_AGES = f"""{_HEADS}
SELECT head.lane, EXTRACT(epoch FROM now() - min(row.next_attempt_at))::float8
FROM head CROSS JOIN LATERAL (
    SELECT status, next_attempt_at FROM delivery
    WHERE lane = head.lane AND channel = head.channel AND client_id = head.client_id AND ring_at IS NOT NULL
    ORDER BY ring_at LIMIT 1000
) AS row
WHERE row.status = 1 AND row.next_attempt_at <= now()
GROUP BY head.lane
"""  # noqa: S608 - constants only


def queue_ages() -> dict[tuple[str, ...], float]:
    """Per lane, as ``{(lane,): seconds}``: how long the oldest due delivery has been waiting to be claimed. Judged by
    the 1,000 rows of each client and channel that are rung for next: in a large backlog those are the oldest but for
    what is in the broker already."""
    with connection.cursor() as cursor:
        cursor.execute(_QUEUE_AGES)
        ages = dict(cursor.fetchall())
    return {(lane.label,): max(0.0, ages.get(int(lane), 0.0)) for lane in Lane}


def heartbeat_ages(name: str) -> dict[tuple[str, ...], float]:
    """``{(): seconds}`` since the periodic job ``name`` last finished; empty if it never did."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXTRACT(epoch FROM now() - finished_at)::float8 FROM heartbeat WHERE name = %s", [name])
        row = cursor.fetchone()
    return {} if row is None else {(): float(row[0])}

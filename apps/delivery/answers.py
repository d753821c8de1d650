"""What the API says about notifications, as typed structs: the same definitions make JSON and OpenAPI schema."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

from apps.channels import Channel, Lane
from apps.delivery.content import PoisonContentError, open_content
from apps.delivery.ids import broadcast_number_of, notification_id_of
from apps.delivery.models import Attempt, Delivery, Notification
from apps.delivery.selectors import overall_status
from apps.delivery.statuses import AttemptOutcome, Status
from apps.delivery.wording import explain, provider_alias, reason_label

ChannelName = Literal["push", "sms", "email"]
StatusName = Literal[
    "queued",
    "sending",
    "sent",
    "delivered",
    "failed",
    "bounced",
    "suppressed",
    "expired",
    "cancelled",
    "unknown",
    "dead",
]


class AcceptedDelivery(msgspec.Struct, frozen=True):
    """The decision for one channel × address. `reason` says why it waits or is suppressed; `segments` is how many parts
    an SMS is charged as."""

    id: UUID | None
    channel: ChannelName
    status: StatusName
    reason: str | None
    not_before: datetime | None
    segments: int | None


class AcceptedNotification(msgspec.Struct, frozen=True):
    """The answer to `POST /v1/notifications`. With `dry_run` nothing is written and the ids are null."""

    id: UUID | None
    status: StatusName
    user_id: str
    trace_id: str
    created_at: datetime
    dry_run: bool
    deliveries: list[AcceptedDelivery]


class BatchItemResult(msgspec.Struct, frozen=True):
    """What became of one item. `status` is that of a single call: 202 with its `notification`; 200 with it if the key
    had been used for the same request before (`replayed`) or for a dry run; else the `problem`, whose `errors` point
    into the body of the batch."""

    status: int
    replayed: bool
    notification: AcceptedNotification | None
    problem: dict[str, Any] | None


class BatchResult(msgspec.Struct, frozen=True):
    """The answer to `POST /v1/notifications/batch`: a result for each item, in the order of the request."""

    accepted: int
    refused: int
    results: list[BatchItemResult]


class AttemptDetail(msgspec.Struct, frozen=True):
    """A provider call that failed."""

    at: datetime
    provider: str | None
    outcome: str
    code: str
    message: str
    latency_ms: int


class DeliveryDetail(msgspec.Struct, frozen=True):
    """Where one delivery stands, and why."""

    id: UUID
    channel: ChannelName
    status: StatusName
    reason: str | None
    explanation: str
    provider: str | None
    provider_message_id: str | None
    error_code: str | None
    device_id: str | None
    attempt_count: int
    next_attempt_at: datetime | None
    sent_at: datetime | None
    delivered_at: datetime | None
    attempts: list[AttemptDetail]


class NotificationDetail(msgspec.Struct, frozen=True):
    """A notification with its deliveries. Content is not shown: it is personal."""

    id: UUID
    status: StatusName
    user_id: str
    type: str
    category: str
    priority: Literal["high", "bulk"]
    trace_id: str
    ordering_key: str | None
    created_at: datetime
    send_at: datetime | None
    expires_at: datetime | None
    deliveries: list[DeliveryDetail]


class NotificationPage(msgspec.Struct, frozen=True):
    """One page, newest first; `next` is the cursor of the page after it, or null."""

    results: list[NotificationDetail]
    next: str | None


class Cancellation(msgspec.Struct, frozen=True):
    """How many deliveries were cancelled: those that had not left."""

    id: UUID
    cancelled: int
    status: StatusName


class DeadLetter(msgspec.Struct, frozen=True):
    """A dead delivery, with what is needed to judge it. Its attempts are in its notification; a broadcast's delivery
    has none."""

    id: UUID
    notification_id: UUID | None
    broadcast_id: UUID | None
    client_id: int
    channel: ChannelName
    reason: str | None
    explanation: str
    provider: str | None
    error_code: str | None
    attempt_count: int
    accepted_at: datetime


class DeadLetterPage(msgspec.Struct, frozen=True):
    """One page, newest first; `next` is the cursor of the page after it, or null."""

    results: list[DeadLetter]
    next: str | None


class Replay(msgspec.Struct, frozen=True):
    """How many deliveries were put back into the queue."""

    replayed: int


def describe_dead_letter(delivery: Delivery, broadcasts: Mapping[int, UUID]) -> DeadLetter:
    """A dead delivery for people and machines; ``broadcasts`` are the ids of broadcasts by their numbers."""
    number = broadcast_number_of(delivery.id)
    return DeadLetter(
        id=delivery.id,
        notification_id=notification_id_of(delivery.id) if number is None else None,
        broadcast_id=None if number is None else broadcasts.get(number),
        client_id=delivery.client_id,
        channel=_channel(delivery.channel),
        reason=reason_label(delivery.reason),
        explanation=explain(delivery.reason, delivery.status),
        provider=provider_alias(delivery.provider),
        error_code=delivery.error_code,
        attempt_count=delivery.attempts,
        accepted_at=delivery.created_at,
    )


def describe_notification(
    notification: Notification,
    deliveries: Sequence[Delivery],
    attempts: Mapping[UUID, Sequence[Attempt]] | None = None,
) -> NotificationDetail:
    """The full story of a notification; without ``attempts`` the lists of attempts are empty."""
    return NotificationDetail(
        id=notification.id,
        status=_status(overall_status({delivery.status for delivery in deliveries})),
        user_id=notification.user_id,
        type=notification.type,
        category=notification.category,
        priority="high" if notification.lane == Lane.HIGH else "bulk",
        trace_id=notification.trace_id,
        ordering_key=_ordering_key(notification, deliveries),
        created_at=notification.created_at,
        send_at=notification.send_at,
        expires_at=notification.expires_at,
        deliveries=[_describe_delivery(delivery, (attempts or {}).get(delivery.id, ())) for delivery in deliveries],
    )


def _ordering_key(notification: Notification, deliveries: Sequence[Delivery]) -> str | None:
    """It stands in the content, which is opened only where a delivery has been ordered."""
    if all(delivery.order_hash is None for delivery in deliveries):
        return None
    try:
        return open_content(bytes(notification.content_ct), notification.id).ordering_key
    except PoisonContentError:  # its person was erased, or its key is gone
        return None


def _describe_delivery(delivery: Delivery, attempts: Sequence[Attempt]) -> DeliveryDetail:
    return DeliveryDetail(
        id=delivery.id,
        channel=_channel(delivery.channel),
        status=_status(delivery.status),
        reason=reason_label(delivery.reason),
        explanation=explain(delivery.reason, delivery.status),
        provider=provider_alias(delivery.provider),
        provider_message_id=delivery.provider_message_id,
        error_code=delivery.error_code,
        device_id=None if delivery.device_id is None else str(delivery.device_id),
        attempt_count=delivery.attempts,
        next_attempt_at=delivery.next_attempt_at if delivery.status == Status.QUEUED else None,
        sent_at=delivery.sent_at,
        delivered_at=delivery.delivered_at,
        attempts=[_describe_attempt(attempt) for attempt in attempts],
    )


def _describe_attempt(attempt: Attempt) -> AttemptDetail:
    return AttemptDetail(
        at=attempt.at,
        provider=provider_alias(attempt.provider),
        outcome=AttemptOutcome(attempt.outcome).label,
        code=attempt.code,
        message=attempt.message,
        latency_ms=attempt.latency_ms,
    )


def _status(number: int) -> StatusName:
    return Status(number).label  # type: ignore[return-value]


def _channel(number: int) -> ChannelName:
    return Channel(number).label  # type: ignore[return-value]

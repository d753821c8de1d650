"""What the API says about broadcasts, as typed structs: the same definitions make JSON and OpenAPI schema."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import msgspec

from apps.channels import Channel
from apps.delivery.answers import ChannelName, StatusName
from apps.delivery.broadcasts.models import Broadcast, State
from apps.delivery.broadcasts.preview import ChannelPreview, Figure
from apps.delivery.broadcasts.progress import Progress, progress
from apps.delivery.models import Delivery
from apps.delivery.statuses import Status
from apps.delivery.wording import explain, provider_alias, reason_label

StateName = Literal["scheduled", "planning", "canary", "running", "paused", "halted", "completed", "cancelled"]
STATES = {state.name.lower(): state for state in State}


class ProgressAnswer(msgspec.Struct, frozen=True):
    """How far it is. `recipients` counts people once per channel, as far as the audience is `planned`; `done` of them
    have been decided about and, unless something spoke against it, been sent to for the first time. `deliveries` are
    counted by status: a person with two devices has two. `rate_per_s` is of late; `eta` when everybody will be done at
    that rate; `error_rate` what `max_error_rate` is compared with. All figures are as of `as_of`."""

    recipients: int
    planned: bool
    done: int
    deliveries: dict[StatusName, int]
    rate_per_s: float
    eta: datetime | None
    error_rate: float | None
    canary: Literal["none", "going", "over", "halted"]
    as_of: datetime


class BroadcastSummary(msgspec.Struct, frozen=True):
    """A broadcast. Its content is not shown: it may be personal. Of a list of user ids only the length is shown."""

    id: UUID
    name: str
    state: StateName
    state_reason: str
    state_since: datetime
    type: str
    category: str
    channels: list[ChannelName]
    audience: dict[str, Any]
    trace_id: str
    created_at: datetime
    send_at: datetime | None
    expires_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    rate_per_s: int | None
    send_window: dict[str, str] | None
    canary_share: float
    max_error_rate: float | None


class BroadcastAnswer(BroadcastSummary, frozen=True):
    """A broadcast and how far it is. Its content is not shown: it may be personal. Of a list of user ids only the
    length is shown."""

    progress: ProgressAnswer


class BroadcastPage(msgspec.Struct, frozen=True):
    """One page, newest first; `next` is the cursor of the page after it, or null."""

    results: list[BroadcastSummary]
    next: str | None


class Retried(msgspec.Struct, frozen=True):
    """How many deliveries are tried again."""

    id: UUID
    retried: int


class BroadcastDelivery(msgspec.Struct, frozen=True):
    """What became of the broadcast for one person at one address, and why."""

    id: UUID
    user_id: str
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


class DeliveryPage(msgspec.Struct, frozen=True):
    """One page; `next` is the cursor of the page after it, or null."""

    results: list[BroadcastDelivery]
    next: str | None


class FigureAnswer(msgspec.Struct, frozen=True):
    """A number of people, counted, or estimated where counting takes too long."""

    count: int
    is_estimate: bool


class DecisionAnswer(msgspec.Struct, frozen=True):
    """How many of the people looked at get this decision, and the rule that decides."""

    action: Literal["send", "defer", "suppress", "expire"]
    reason: str
    people: int


class ChannelPreviewAnswer(msgspec.Struct, frozen=True):
    """`matching` people are in the audience; `reachable` are those of them who would be sent something, now or after
    their quiet hours (null if nobody could be looked at in time). `decisions` are about `sample` people: all of them if
    they are few, else some taken from everywhere."""

    matching: FigureAnswer
    reachable: FigureAnswer | None
    sample: int
    decisions: list[DecisionAnswer]


class PreviewAnswer(msgspec.Struct, frozen=True):
    """What a broadcast would do. Nothing is written, nothing is sent."""

    dry_run: bool
    channels: dict[ChannelName, ChannelPreviewAnswer]


def describe_broadcast(broadcast: Broadcast) -> BroadcastAnswer:
    """The broadcast with its progress."""
    return BroadcastAnswer(**_facts(broadcast), progress=describe_progress(progress(broadcast)))


def summarise_broadcast(broadcast: Broadcast) -> BroadcastSummary:
    """The broadcast without its progress, which is not counted for a whole list."""
    return BroadcastSummary(**_facts(broadcast))


def _facts(broadcast: Broadcast) -> dict[str, Any]:
    return {
        "id": broadcast.id,
        "name": broadcast.name,
        "state": State(broadcast.state).name.lower(),
        "state_reason": broadcast.state_reason,
        "state_since": broadcast.state_since,
        "type": broadcast.type,
        "category": broadcast.category,
        "channels": [_channel(number) for number in broadcast.channels],
        "audience": summarise_audience(broadcast.audience),
        "trace_id": broadcast.trace_id,
        "created_at": broadcast.created_at,
        "send_at": broadcast.send_at,
        "expires_at": broadcast.expires_at,
        "started_at": broadcast.started_at,
        "finished_at": broadcast.finished_at,
        "rate_per_s": broadcast.rate_per_s,
        "send_window": broadcast.send_window,
        "canary_share": broadcast.canary_share,
        "max_error_rate": broadcast.max_error_rate,
    }


def describe_progress(figures: Progress) -> ProgressAnswer:
    """The progress with words for numbers."""
    return ProgressAnswer(
        recipients=figures.recipients,
        planned=figures.is_planned,
        done=figures.done,
        deliveries={_status(status): count for status, count in sorted(figures.counts.items())},
        rate_per_s=round(figures.rate_per_s, 1),
        eta=figures.eta,
        error_rate=figures.error_rate,
        canary=figures.canary,
        as_of=figures.as_of,
    )


def summarise_audience(audience: Mapping[str, Any]) -> dict[str, Any]:
    """The audience as it was given, but of a list of people the number."""
    if "user_ids" in audience:
        return {"user_ids": len(audience["user_ids"])}
    return dict(audience)


def describe_delivery(delivery: Delivery, user_id: str) -> BroadcastDelivery:
    """One row of the log, of a broadcast."""
    return BroadcastDelivery(
        id=delivery.id,
        user_id=user_id,
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
    )


def describe_preview(previews: Mapping[Channel, ChannelPreview]) -> PreviewAnswer:
    """The preview of each channel by its name."""
    return PreviewAnswer(
        dry_run=True,
        channels={
            _channel(channel): ChannelPreviewAnswer(
                matching=_figure(preview.matching),
                reachable=None if preview.reachable is None else _figure(preview.reachable),
                sample=preview.sample,
                decisions=[DecisionAnswer(one.action, one.reason, one.people) for one in preview.decisions],  # type: ignore[arg-type]
            )
            for channel, preview in previews.items()
        },
    )


def _figure(figure: Figure) -> FigureAnswer:
    return FigureAnswer(figure.count, figure.is_estimate)


def _channel(number: int) -> ChannelName:
    return Channel(number).label  # type: ignore[return-value]


def _status(number: int) -> StatusName:
    return Status(number).label  # type: ignore[return-value]

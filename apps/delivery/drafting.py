"""Deciding what an order becomes: its deliveries, one per channel × address, and the answer. Nothing is written."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import msgspec
from django.conf import settings

from apps.channels import Channel
from apps.delivery.answers import AcceptedDelivery, AcceptedNotification
from apps.delivery.ids import MAX_DELIVERIES, delivery_ids, new_notification_id, time_of
from apps.delivery.orders import Order
from apps.delivery.rendering import Renderer
from apps.delivery.selectors import overall_status
from apps.delivery.statuses import Reason, Status
from apps.delivery.templating.resolving import Resolution, fill_context, find_versions, render_checked
from apps.delivery.templating.versions import Version
from apps.delivery.wording import reason_label
from apps.preferences import policy
from apps.preferences.caps import CapRequest, peek_usage
from apps.preferences.categories import CategoryRules
from apps.preferences.policy import Usage
from apps.preferences.selectors import RecipientSnapshot, find_category
from apps.problems import Problem, invalid_field
from apps.providers.adapters.sms_segments import count_segments

_ALL_CHANNELS = tuple(Channel)
_encode = msgspec.json.Encoder().encode
_Versions = Mapping[tuple[int, str], Version | Problem]
Usages = Mapping[tuple[int, Channel, int], Usage | None]  # by recipient id, channel and category id


class PlannedDelivery(NamedTuple):
    """One delivery to be written."""

    channel: Channel
    status: Status
    reason: int
    device_id: int | None = None
    not_before: datetime | None = None


class Draft(msgspec.Struct, frozen=True):
    """An order with all that was decided, ready to be written. It holds as long as ``snapshot`` is the recipient's
    latest version. ``ids`` are those of ``deliveries``; ``body`` is the answer."""

    order: Order
    snapshot: RecipientSnapshot
    notification_id: UUID
    ids: Sequence[UUID]
    deliveries: Sequence[PlannedDelivery]
    body: bytes


def draft_all(
    orders: Sequence[Order], snapshots: Mapping[str, RecipientSnapshot], now: datetime
) -> list[Draft | Problem]:
    """What each order becomes, ``snapshots`` being the recipients that there are (by user id); ``now`` is aware. At
    most one round trip, to the counters of frequency caps."""
    versions = _find_templates(orders)
    prepared = [_prepare(order, snapshots.get(order.user_id), versions, now) for order in orders]
    usages = _peek_usages([item for item in prepared if isinstance(item, _Prepared)], now)
    renderer = Renderer()
    return [item if isinstance(item, Problem) else _draft(item, usages, renderer, now) for item in prepared]


class _Prepared(msgspec.Struct, frozen=True):
    order: Order
    snapshot: RecipientSnapshot
    category: CategoryRules
    due: datetime
    channels: Sequence[Channel]


def _find_templates(orders: Sequence[Order]) -> _Versions:
    """The versions that the orders name, by client and reference; a query for each client that names any."""
    references: dict[int, set[str]] = defaultdict(set)
    for order in orders:
        if order.template is not None:
            references[order.client_id].add(order.template)
    return {
        (client_id, reference): version
        for client_id, wanted in references.items()
        for reference, version in find_versions(client_id, wanted).items()
    }


def _prepare(
    order: Order, snapshot: RecipientSnapshot | None, versions: _Versions, now: datetime
) -> _Prepared | Problem:
    if order.send_at is not None and order.send_at <= now:
        order = msgspec.structs.replace(order, send_at=None)  # now is as soon as it can be
    due = order.send_at or now
    if order.send_at is not None and due > now + timedelta(days=settings.DELIVERY_RETENTION_DAYS):
        return invalid_field("/send_at", f"at most {settings.DELIVERY_RETENTION_DAYS} days ahead")
    if order.expires_at is not None and order.expires_at <= due:
        return invalid_field("/expires_at", "must lie in the future and after send_at")
    category = find_category(order.category)
    if category is None:
        return invalid_field(
            "/category", "there is no such category; GET /v1/categories lists them", "unknown_category"
        )
    if snapshot is None or snapshot.is_erased:
        return invalid_field(
            "/user_id", "there is no such user; create it with PUT /v1/users/{user_id}", "unknown_user"
        )
    channels: Sequence[Channel] = order.channels or _ALL_CHANNELS
    if order.template is not None:
        version = versions[order.client_id, order.template]
        resolution = version if isinstance(version, Problem) else _fill(version, order)
        if isinstance(resolution, Problem):
            return resolution
        filled = resolution.content
        content = msgspec.structs.replace(order.content, template=filled.template, context=filled.context)
        order, channels = msgspec.structs.replace(order, content=content), resolution.channels
    return _Prepared(order, snapshot, category, due, channels)


def _fill(version: Version, order: Order) -> Resolution | Problem:
    try:
        return fill_context(version, order.context, order.channels)
    except Problem as problem:
        return problem


def _peek_usages(prepared: Sequence[_Prepared], now: datetime) -> Usages:
    requests = {
        (item.snapshot.recipient_id, channel, item.category.id): CapRequest(
            item.snapshot.recipient_id, channel, item.category
        )
        for item in prepared
        if item.category.obeys_cap and item.due == now
        for channel in item.channels
    }
    return dict(zip(requests, peek_usage(list(requests.values()), now), strict=True)) if requests else {}


def _draft(item: _Prepared, usages: Usages, renderer: Renderer, now: datetime) -> Draft | Problem:
    order = item.order
    planned = _plan(item, usages, now)
    channels = {delivery.channel for delivery in planned if delivery.status is Status.QUEUED}
    # A channel that was asked for by name has to be able to carry it even if nothing is sent there.
    channels.update(order.channels or ())
    try:
        words = render_checked(order.content, channels, item.snapshot.locale, renderer)
    except Problem as problem:
        return problem
    sms = words.get(Channel.SMS)
    if sms is None and order.template is None and any(delivery.channel is Channel.SMS for delivery in planned):
        sms = order.content
    notification_id = new_notification_id()
    ids = delivery_ids(notification_id, len(planned))
    body = _answer(order, notification_id, ids, planned, count_segments(sms.sms_body).count if sms else None)
    return Draft(order, item.snapshot, notification_id, ids, planned, body)


def _plan(item: _Prepared, usages: Usages, now: datetime) -> list[PlannedDelivery]:
    """The deliveries to write, refused ones included, so that everything has a reason."""
    planned = [delivery for channel in item.channels for delivery in _plan_channel(item, channel, usages, now)]
    if item.order.channels is None:
        reachable = [delivery for delivery in planned if delivery.reason != policy.Reason.NO_ADDRESS]
        planned = reachable or planned
    return planned[:MAX_DELIVERIES]


def _plan_channel(item: _Prepared, channel: Channel, usages: Usages, now: datetime) -> list[PlannedDelivery]:
    snapshot, category, due, expires_at = item.snapshot, item.category, item.due, item.order.expires_at
    usage = usages.get((snapshot.recipient_id, channel, category.id)) if usages else None
    decision = policy.decide(snapshot, channel, category, due, usage=usage, expires_at=expires_at)
    if decision.action is policy.Action.SUPPRESS:
        return [PlannedDelivery(channel, Status.SUPPRESSED, decision.reason)]
    not_before, reason = decision.not_before, int(decision.reason)
    if not_before is None:
        not_before, reason = (due, int(Reason.SCHEDULED)) if due > now else (None, 0)
    if not_before is not None and expires_at is not None and not_before >= expires_at:
        return [PlannedDelivery(channel, Status.EXPIRED, Reason.EXPIRED)]
    devices: Sequence[int | None] = [device.id for device in snapshot.devices] if channel is Channel.PUSH else (None,)
    return [PlannedDelivery(channel, Status.QUEUED, reason, device_id, not_before) for device_id in devices]


def _answer(
    order: Order,
    notification_id: UUID,
    ids: Sequence[UUID],
    planned: Sequence[PlannedDelivery],
    sms_segments: int | None,
) -> bytes:
    return _encode(
        AcceptedNotification(
            id=None if order.is_dry_run else notification_id,
            status=overall_status({delivery.status for delivery in planned}).label,  # type: ignore[arg-type]
            user_id=order.user_id,
            trace_id=order.trace_id,
            created_at=time_of(notification_id),
            dry_run=order.is_dry_run,
            deliveries=[
                AcceptedDelivery(
                    id=None if order.is_dry_run else delivery_id,
                    channel=delivery.channel.label,  # type: ignore[arg-type]
                    status=delivery.status.label,  # type: ignore[arg-type]
                    reason=reason_label(delivery.reason),
                    not_before=delivery.not_before,
                    segments=sms_segments if delivery.channel is Channel.SMS else None,
                )
                for delivery_id, delivery in zip(ids, planned, strict=True)
            ],
        )
    )

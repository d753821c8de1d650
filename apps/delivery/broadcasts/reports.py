"""Reads of broadcasts for the people who ordered them."""

from dataclasses import dataclass
from uuid import UUID

from apps.channels import Channel
from apps.delivery.broadcasts.models import Broadcast, State
from apps.delivery.broadcasts.selectors import id_range, started_ms
from apps.delivery.ids import broadcast_delivery_id
from apps.delivery.models import Delivery
from apps.delivery.statuses import Status
from apps.preferences.models import Device, Recipient


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Which deliveries of a broadcast, in the order of their ids; ``None`` means no restriction."""

    limit: int
    status: Status | None = None
    user_id: str | None = None
    after: UUID | None = None


def select_broadcasts(
    client_id: int | None, *, state: State | None = None, before: UUID | None = None, limit: int
) -> list[Broadcast]:
    """A client's broadcasts (or everybody's), newest first, without their content."""
    rows = Broadcast.objects.select_related("client").defer("content_ct").order_by("-id")
    if client_id is not None:
        rows = rows.filter(client_id=client_id)
    if state is not None:
        rows = rows.filter(state=state)
    if before is not None:
        rows = rows.filter(id__lt=before)
    return list(rows[:limit])


def select_delivery_page(broadcast: Broadcast, wanted: DeliveryFilter) -> list[Delivery]:
    """Up to ``limit`` deliveries with their recipients, from the primary key's range alone."""
    if broadcast.started_at is None:
        return []
    bounds = id_range(broadcast)
    rows = Delivery.objects.filter(id__range=(bounds.low, bounds.high)).select_related("recipient").order_by("id")
    if wanted.user_id is not None:
        rows = rows.filter(id__in=_ids_of(broadcast, wanted.user_id))
    if wanted.status is not None:
        rows = rows.filter(status=wanted.status)
    if wanted.after is not None:
        rows = rows.filter(id__gt=wanted.after)
    return list(rows[: wanted.limit])


def _ids_of(broadcast: Broadcast, user_id: str) -> list[UUID]:
    """Every id that a delivery of this broadcast to this person can have; see ``ids.py``. A push to a device that has
    been forgotten since is not found any more."""
    recipient_id = Recipient.objects.filter(user_id=user_id).values_list("id", flat=True).first()
    if recipient_id is None:
        return []
    start = started_ms(broadcast)
    devices = Device.objects.filter(recipient_id=recipient_id).values_list("id", flat=True)
    places = [(0, recipient_id), (Channel.SMS, recipient_id), (Channel.EMAIL, recipient_id)]
    places += [(Channel.PUSH, device_id) for device_id in devices]
    return [broadcast_delivery_id(start, broadcast.number, int(channel), number) for channel, number in places]

"""What broadcasts hold about a person. A broadcast's rows carry no name; which of them may be a person's follows from
the ids, so that no index over persons is needed. Registered by ``apps.delivery.privacy``."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
from django.db import connection

from apps.channels import Channel
from apps.delivery.broadcasts.models import Broadcast
from apps.delivery.broadcasts.selectors import content_aad, started_ms
from apps.delivery.content import PoisonContentError, unseal_content
from apps.delivery.ids import broadcast_delivery_id, broadcast_number_of
from apps.delivery.models import Delivery
from apps.delivery.statuses import Status
from apps.delivery.wording import reason_label
from apps.preferences.models import Device

EXPORT_MAX = 10_000
NO_CHANNEL = 0  # see ids.py


def export_broadcasts(recipient_id: int, user_id: str) -> dict[str, Any]:
    """What the person got, or was to get, of the broadcasts still in the log, with their words: ``{"items",
    "is_complete"}``."""
    devices = list(Device.objects.filter(recipient_id=recipient_id).values_list("id", flat=True))
    broadcasts = Broadcast.objects.exclude(started_at=None).order_by("-id")[: EXPORT_MAX + 1]
    known = {broadcast.number: broadcast for broadcast in broadcasts[:EXPORT_MAX]}
    wanted = [one for broadcast in known.values() for one in _possible_ids(broadcast, recipient_id, devices)]
    rows = []
    if wanted:
        rows = list(
            Delivery.objects.filter(id__in=wanted, id__gte=min(wanted), id__lte=max(wanted), recipient_id=recipient_id)
        )
    items = [_describe(row, known[broadcast_number_of(row.id) or 0]) for row in sorted(rows, key=lambda row: row.id)]
    return {"items": items, "is_complete": len(broadcasts) <= EXPORT_MAX}


def _possible_ids(broadcast: Broadcast, recipient_id: int, devices: Sequence[int]) -> list[UUID]:
    addresses = [(NO_CHANNEL, recipient_id), (Channel.SMS, recipient_id), (Channel.EMAIL, recipient_id)]
    addresses += [(Channel.PUSH, device_id) for device_id in devices]
    started = started_ms(broadcast)
    return [
        broadcast_delivery_id(started, broadcast.number, int(channel), number)
        for channel, number in addresses
        if channel == NO_CHANNEL or channel in broadcast.channels
    ]


def _describe(row: Delivery, broadcast: Broadcast) -> dict[str, Any]:
    return {
        "broadcast_id": str(broadcast.id),
        "type": broadcast.type,
        "category": broadcast.category,
        "channel": Channel(row.channel).label,
        "status": Status(row.status).label,
        "reason": reason_label(row.reason),
        "sent_at": row.sent_at,
        "delivered_at": row.delivered_at,
        "content": _words(broadcast),
    }


def _words(broadcast: Broadcast) -> Any:
    try:
        return msgspec.to_builtins(unseal_content(bytes(broadcast.content_ct), content_aad(broadcast.id)))
    except PoisonContentError:
        return None


def erase_sole_content(recipient_id: int, user_id: str) -> None:
    """Makes the words of broadcasts that were for this person alone unreadable: others' are nobody's in particular."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE broadcast SET content_ct = '' "
            "WHERE audience = jsonb_build_object('user_ids', jsonb_build_array(%s::text))",
            [user_id],
        )

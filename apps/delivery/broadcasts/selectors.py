"""Reads of broadcasts."""

from collections.abc import Collection
from uuid import UUID

from django.db import connection
from django.db.models import QuerySet

from apps.delivery.broadcasts.models import Broadcast, State
from apps.delivery.ids import broadcast_range
from apps.delivery.ranges import IdRange
from apps.delivery.sources import Source, Standing

_STANDINGS = {
    State.PAUSED: Standing.PAUSED,
    State.HALTED: Standing.PAUSED,
    State.CANCELLED: Standing.CANCELLED,
}


def content_aad(broadcast_id: UUID) -> str:
    """The associated data of a broadcast's content: a ciphertext opens in its own row only."""
    return f"broadcast|content|{broadcast_id}"


def started_ms(broadcast: Broadcast) -> int:
    """When it started, in Unix ms, as its deliveries' ids say. Raises ``ValueError`` if it has not."""
    if broadcast.started_at is None:
        raise ValueError("the broadcast has not started")
    return round(broadcast.started_at.timestamp() * 1000)


def id_range(broadcast: Broadcast) -> IdRange:
    """The ids of its deliveries. Raises ``ValueError`` if it has not started."""
    low, high = broadcast_range(started_ms(broadcast), broadcast.number)
    return IdRange(broadcast.client_id, low, high)


def find_broadcast(broadcast_id: UUID, *, client_id: int | None = None) -> Broadcast | None:
    """The broadcast with its client; ``None`` also for another client's where ``client_id`` is given."""
    rows = Broadcast.objects.filter(id=broadcast_id).select_related("client")
    return (rows if client_id is None else rows.filter(client_id=client_id)).first()


def select_page(*, client_id: int | None, before: UUID | None, limit: int) -> QuerySet[Broadcast]:
    """Up to ``limit`` broadcasts, newest first, from below the cursor ``before``; their content stays where it is."""
    rows = Broadcast.objects.select_related("client").defer("content_ct").order_by("-id")
    if client_id is not None:
        rows = rows.filter(client_id=client_id)
    return (rows if before is None else rows.filter(id__lt=before))[:limit]


def select_ids_by_number(numbers: Collection[int | None]) -> dict[int, UUID]:
    """The ids of the broadcasts with these numbers; ``None`` is nobody's."""
    wanted = {number for number in numbers if number is not None}
    if not wanted:
        return {}
    return dict(Broadcast.objects.filter(number__in=wanted).values_list("number", "id"))


def select_sources(numbers: Collection[int]) -> dict[int, Source]:
    """What the deliveries of these broadcasts have in common, by the broadcasts' numbers."""
    if not numbers:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT number, id, category, trace_id, expires_at, content_ct, state FROM broadcast "
            "WHERE number = ANY(%s::bigint[])",
            [list(numbers)],
        )
        rows = cursor.fetchall()
    return {
        number: Source(
            id=broadcast_id,
            category=category,
            trace_id=trace_id,
            expires_at=expires_at,
            content_ct=bytes(content_ct),
            aad=content_aad(broadcast_id),
            standing=_STANDINGS.get(state, Standing.GOING),
        )
        for number, broadcast_id, category, trace_id, expires_at, content_ct, state in rows
    }

"""Dead deliveries: found by who, why, where and when, and brought back once the cause is mended."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import structlog
from django.db.models import QuerySet

from apps.channels import Channel
from apps.delivery.ids import first_id_at
from apps.delivery.models import Delivery
from apps.delivery.outcomes import revive_deliveries
from apps.delivery.statuses import Reason, Status

BATCH_SIZE = 1_000
REPLAY_RATE_PER_S = 100.0
REPLAY_MAX = 100_000
log = structlog.get_logger("notify.delivery.dead_letters")


@dataclass(frozen=True, slots=True)
class DeadLetterFilter:
    """Which dead deliveries; ``None`` means no restriction. ``before`` is the cursor: newest first, those below it."""

    client_id: int | None = None
    provider_id: int | None = None
    channel: Channel | None = None
    reason: Reason | None = None
    error_code: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: UUID | None = None


def select_dead_letters(wanted: DeadLetterFilter, *, limit: int) -> list[Delivery]:
    """Up to ``limit`` dead deliveries, newest first."""
    return list(_matching(wanted).order_by("-id")[:limit])


def replay(ids: Sequence[UUID], *, client_id: int | None, rate_per_s: float = REPLAY_RATE_PER_S) -> set[UUID]:
    """Puts these dead deliveries back, ``rate_per_s`` in each second; ``client_id`` restricts it to one client's.
    Returns those brought back. What has been delivered, cancelled or replayed meanwhile stays as it is."""
    own = list(_matching(DeadLetterFilter(client_id=client_id)).filter(id__in=ids).values_list("id", flat=True))
    revived = revive_deliveries(own, rate_per_s=rate_per_s)
    if revived:
        log.info("dead_letters_replayed", n=len(revived), rate_per_s=rate_per_s)
    return revived


def replay_matching(
    wanted: DeadLetterFilter, *, rate_per_s: float = REPLAY_RATE_PER_S, limit: int = REPLAY_MAX
) -> Iterator[int]:
    """Puts back what matches, oldest first and at most ``limit``; yields how many after each batch."""
    done = 0
    after: UUID | None = None
    while done < limit:
        rows = _matching(wanted).order_by("id")
        if after is not None:
            rows = rows.filter(id__gt=after)
        ids = list(rows.values_list("id", flat=True)[: min(BATCH_SIZE, limit - done)])
        if not ids:
            return
        after = ids[-1]
        revived = revive_deliveries(ids, rate_per_s=rate_per_s, start=done)
        done += len(revived)
        log.info("dead_letters_replayed", n=len(revived), rate_per_s=rate_per_s)
        yield len(revived)


def _matching(wanted: DeadLetterFilter) -> QuerySet[Delivery]:
    rows = Delivery.objects.filter(status=Status.DEAD)
    conditions = {
        "client_id": wanted.client_id,
        "provider": wanted.provider_id,
        "channel": wanted.channel,
        "reason": wanted.reason,
        "error_code": wanted.error_code,
        "id__gte": wanted.since and first_id_at(wanted.since),
        "id__lt": wanted.until and first_id_at(wanted.until),
    }
    rows = rows.filter(**{name: value for name, value in conditions.items() if value is not None})
    return rows if wanted.before is None else rows.filter(id__lt=wanted.before)

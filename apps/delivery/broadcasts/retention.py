"""How long broadcasts are kept: as long as the log of their deliveries."""

from datetime import datetime, timedelta

import structlog
from django.db.models import Q

from apps.delivery.broadcasts import services
from apps.delivery.broadcasts.models import Broadcast, Chunk
from apps.problems import Problem

log = structlog.get_logger("notify.delivery.broadcasts")


def close_stale(*, now: datetime, retention_days: int) -> int:
    """Cancels what began so long ago that the log of its day is about to go, whatever it waits for; returns how many.
    ``now`` is aware."""
    oldest = now - timedelta(days=retention_days - 1)
    stale = Broadcast.objects.filter(finished_at=None, started_at__lt=oldest)
    closed = 0
    for broadcast_id in stale.values_list("id", flat=True):
        try:
            services.cancel(broadcast_id, reason="it began before the days that the log goes back")
        except Problem:  # it was completed at this very moment
            continue
        closed += 1
    return closed


def forget(*, now: datetime, retention_days: int) -> int:
    """Deletes broadcasts whose deliveries are no longer in the log, with their chunks; returns how many."""
    oldest = now - timedelta(days=retention_days + 1)
    old = Broadcast.objects.filter(Q(started_at__lt=oldest) | Q(started_at=None), finished_at__lt=oldest)
    forgotten = 0
    for broadcast in old.defer("content_ct", "audience"):
        Chunk.objects.filter(broadcast_number=broadcast.number).delete()
        broadcast.delete()
        forgotten += 1
    return forgotten

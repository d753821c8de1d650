"""The hourly chores. One that fails must not keep the others from being done."""

from collections.abc import Callable
from datetime import datetime

import structlog
from django.conf import settings

from apps.delivery import keys, partitions, receipts
from apps.delivery.broadcasts import retention as broadcasts
from apps.delivery.broadcasts.uploads import forget_uploads
from apps.preferences import retention

log = structlog.get_logger("notify.delivery.maintenance")


def run(*, now: datetime) -> None:
    """Does every chore; raises the first failure after all have had their turn. ``now`` is aware."""
    days = settings.DELIVERY_RETENTION_DAYS
    chores: dict[str, Callable[[], object]] = {
        "ensure_partitions": lambda: partitions.ensure_partitions(today=now.date()),
        "close_stale_broadcasts": lambda: broadcasts.close_stale(now=now, retention_days=days),
        "drop_old_partitions": lambda: partitions.drop_old_partitions(today=now.date(), retention_days=days),
        "forget_keys": lambda: keys.forget_idempotency_keys(retention_days=settings.IDEMPOTENCY_RETENTION_DAYS),
        "forget_audiences": lambda: forget_uploads(retention_days=days),
        "forget_broadcasts": lambda: broadcasts.forget(now=now, retention_days=days),
        "forget_receipts": lambda: receipts.forget_applied(retention_days=days),
        "forget_recipients": lambda: retention.run(now),
    }
    failures = [failure for name, chore in chores.items() if (failure := _try(name, chore)) is not None]
    if failures:
        raise failures[0]


def _try(name: str, chore: Callable[[], object]) -> Exception | None:
    try:
        log.info("chore_done", chore=name, result=str(chore()))
    except Exception as error:
        log.exception("chore_failed", chore=name)
        return error
    return None

"""The Celery tasks: each decodes its message and calls one function."""

from datetime import UTC, datetime
from uuid import UUID

from celery import shared_task

from apps.delivery import dispatch, maintenance, receipts, sweep


@shared_task(name="notify.deliver")
def deliver(ids: list[str]) -> None:
    """Sends the deliveries with these ids, as far as they are due."""
    dispatch.deliver([UUID(text) for text in ids])


@shared_task(name="notify.apply_receipts")
def apply_receipts() -> None:
    """Applies what lies in the receipts inbox."""
    receipts.apply_pending()


@shared_task(name="notify.sweep")
def sweep_due() -> None:
    """Rings again for rows whose doorbell was lost, whose lease ran out or whose time has come."""
    sweep.sweep()


@shared_task(name="notify.maintain")
def maintain() -> None:
    """Makes and drops partitions; forgets what is old."""
    maintenance.run(now=datetime.now(UTC))

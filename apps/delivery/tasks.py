"""The Celery tasks: each decodes its message and calls one function."""

from datetime import UTC, datetime
from uuid import UUID

from celery import shared_task

from apps.channels import Channel
from apps.delivery import canary, dispatch, maintenance, receipts, sweep
from apps.delivery.broadcasts import keeping, pumping


@shared_task(name="notify.deliver")
def deliver(ids: list[str]) -> None:
    """Sends the deliveries with these ids, as far as they are due."""
    dispatch.deliver([UUID(text) for text in ids])


@shared_task(name="notify.broadcast")
def pump_broadcasts(channel: int, slot: int, run_no: int) -> None:
    """Has one turn at the broadcasts' chunks of this channel."""
    pumping.pump(Channel(channel), slot, run_no)


@shared_task(name="notify.plan_broadcasts")
def plan_broadcasts() -> None:
    """Looks after broadcasts that are under way, and plans what is due."""
    keeping.look_after()


@shared_task(name="notify.apply_receipts")
def apply_receipts() -> None:
    """Applies what lies in the receipts inbox."""
    receipts.apply_pending()


@shared_task(name="notify.sweep")
def sweep_due() -> None:
    """Rings again for rows whose doorbell was lost, whose lease ran out or whose time has come."""
    sweep.sweep_for_beat()


# No events: Flower's list would be full of them.
@shared_task(name="notify.canary", send_events=False)
def hear_canary(queue: str, rung_at_s: float) -> None:
    """Says that this queue is consumed, and how long a message was in it."""
    canary.hear(queue, rung_at_s)


@shared_task(name="notify.maintain")
def maintain() -> None:
    """Makes and drops partitions; forgets what is old."""
    maintenance.run(now=datetime.now(UTC))

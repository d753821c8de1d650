"""What operators ordered about breakers: the last word per provider, seconds old at most, and how to say another."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import structlog

from apps.providers.models import BreakerOrder, ForcedState
from apps.providers.reloading import Reloading

log = structlog.get_logger(__name__)

REREAD_S = 2.0


@dataclass(frozen=True, slots=True)
class Order:
    """``state`` is ``open`` or ``closed``, whatever the provider's health."""

    state: ForcedState
    reason: str
    operator: str
    since: datetime


def _load() -> Mapping[str, Order]:
    newest = BreakerOrder.objects.order_by("provider", "-id").distinct("provider")
    return {
        row.provider: Order(ForcedState(row.state), row.reason, row.operator, row.created_at)
        for row in newest
        if row.state != ForcedState.AUTOMATIC
    }


orders: Reloading[Mapping[str, Order]] = Reloading(_load, initial={}, ttl_s=REREAD_S, name="breaker orders")


def order_breaker(*, alias: str, state: ForcedState, reason: str, operator: str) -> BreakerOrder:
    """Force the breaker of ``alias`` or give it back to its health; every process obeys within ``REREAD_S`` seconds.

    ``operator`` is the name of who says so. Raises ``ValidationError`` for an order without a reason."""
    order = BreakerOrder(provider=alias, state=state, reason=reason, operator=operator)
    order.full_clean()
    order.save()
    orders.forget()
    log.warning("breaker_ordered", provider=alias, state=state.value, reason=reason)
    return order

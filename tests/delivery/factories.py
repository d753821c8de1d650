"""Notifications made through intake, as production makes them."""

import itertools
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec

from apps.channels import Channel, Lane
from apps.delivery import intake
from apps.delivery.content import Content
from apps.delivery.models import Delivery
from apps.delivery.selectors import select_deliveries

_numbers = itertools.count(1)


def make_order(client_id: int, user_id: str, **changes: Any) -> intake.Order:
    """A well-formed order; each has its own key and body unless told otherwise."""
    number = next(_numbers)
    values: dict[str, Any] = {
        "client_id": client_id,
        "idempotency_key": f"key-{number}",
        "fingerprint": f"fingerprint-{number}".encode(),
        "user_id": user_id,
        "type": "test",
        "category": "",
        "lane": Lane.HIGH,
        "content": Content(title="Title", body="Body"),
        "trace_id": f"trace-{number}",
        "channels": (Channel.SMS,),
    }
    return intake.Order(**{**values, **changes})


def accept(client_id: int, user_id: str, **changes: Any) -> list[Delivery]:
    """The deliveries of an accepted order."""
    answer = intake.accept(make_order(client_id, user_id, **changes), now=datetime.now(UTC))
    return select_deliveries(UUID(msgspec.json.decode(answer.body)["id"]))


def reload(delivery: Delivery) -> Delivery:
    """The row as it is now."""
    return Delivery.objects.get(id=delivery.id)

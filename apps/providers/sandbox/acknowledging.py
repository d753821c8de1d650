"""The app on a device: it posts back the proof that a push carried, and so acknowledges it."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from apps.providers.sandbox.posting import Call, Receipt


def delivery_id_of(fields: Mapping[str, Any]) -> str:
    """The delivery a push says it belongs to, ``""`` if it does not say."""
    delivery_id = fields.get("notify_delivery_id")
    return delivery_id if isinstance(delivery_id, str) else ""


def make_acks(fields: Mapping[str, Any], url: str) -> list[Receipt]:
    """What an app that finds ``fields`` in a push posts to ``url``: nothing unless it can name and prove a delivery."""
    delivery_id, ack = delivery_id_of(fields), fields.get("notify_ack")
    return [Receipt(payload=(delivery_id, ack), url=url)] if delivery_id and isinstance(ack, str) and ack else []


def build_ack(receipts: Sequence[Receipt], is_forged: bool) -> Call:
    """The POST of one acknowledgement; a forged one carries another proof."""
    receipt = receipts[0]
    delivery_id, ack = receipt.payload
    content = {
        "delivery_id": delivery_id,
        "ack": ack[::-1] if is_forged else ack,
        "event": "delivered",
        "at": int(receipt.occurred_at * 1000),
    }
    return Call(receipt.url, (("Content-Type", "application/json"),), orjson.dumps(content))

"""How a device says that it received a push: no push service does it for us.

The push carries its delivery's id and a proof; the app on the device posts both back, as JSON
``{"delivery_id", "ack", "event": "delivered", "at": Unix milliseconds}``, to the webhook of the provider it came by.
"""

from datetime import datetime

from apps.providers.acks import is_ack
from apps.providers.adapters import answers
from apps.providers.errors import ForgedReceipt, MalformedReceipt
from apps.providers.messages import Message, Receipt, ReceiptKind, WebhookCall

DELIVERY_ID_KEY = "notify_delivery_id"
ACK_KEY = "notify_ack"
_KINDS = {"delivered": ReceiptKind.DELIVERED}


def data_of(message: Message) -> dict[str, str]:
    """The caller's data with what the device needs to acknowledge; ours win."""
    return {**message.data, DELIVERY_ID_KEY: message.delivery_id, ACK_KEY: message.ack or ""}


def shared_data_of(message: Message) -> dict[str, str]:
    """The caller's data without what is the device's own."""
    return {key: value for key, value in message.data.items() if key not in (DELIVERY_ID_KEY, ACK_KEY)}


def verify(call: WebhookCall, ack_key: str) -> None:
    """The acknowledgement must carry the HMAC that only the push itself held, or ``ForgedReceipt``. It has no time of
    its own to go stale by: saying twice that a push arrived changes nothing."""
    ack = answers.read_object(call.body)
    delivery_id, proof = answers.as_delivery_id(ack.get("delivery_id")), ack.get("ack")
    if delivery_id is None or not isinstance(proof, str) or not is_ack(ack_key, delivery_id, proof):
        raise ForgedReceipt("the acknowledgement does not carry the push's own ack")


def parse(call: WebhookCall, now: datetime) -> list[Receipt]:
    """The one event of a verified acknowledgement; raises ``MalformedReceipt``."""
    ack = answers.read_object(call.body)
    delivery_id, event = answers.as_delivery_id(ack.get("delivery_id")), ack.get("event")
    kind = _KINDS.get(event) if isinstance(event, str) else None
    occurred_at = answers.as_moment(ack.get("at"), now, per_second=1_000)
    if delivery_id is None or kind is None or occurred_at is None:
        raise MalformedReceipt('expected {"delivery_id", "ack", "event": "delivered", "at": milliseconds}')
    return [Receipt(f"{delivery_id}:{event}", kind, occurred_at, delivery_id=delivery_id)]

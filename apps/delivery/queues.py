"""Names of the queues and how they are declared: one direct exchange, one queue per channel and lane."""

from kombu import Exchange, Queue

from apps.channels import Channel, Lane

EXCHANGE_NAME = "notif"
RECEIPTS = "notif.receipts"
MAINTENANCE = "notif.maintenance"
FANOUT = "notif.fanout"
DEAD = "notif.dead"  # messages that are garbage; nobody consumes it
DEAD_LIMIT = 1_000


def delivery_queue(channel: Channel, lane: Lane) -> str:
    """The queue of a channel's lane, e.g. ``notif.push.high``."""
    return f"{EXCHANGE_NAME}.{channel.label}.{lane.label}"


DELIVERY_QUEUES = tuple(delivery_queue(channel, lane) for lane in Lane for channel in Channel)
HIGH_QUEUES = tuple(delivery_queue(channel, Lane.HIGH) for channel in Channel)
BULK_QUEUES = tuple(delivery_queue(channel, Lane.BULK) for channel in Channel)
ALL_QUEUES = (*DELIVERY_QUEUES, FANOUT, RECEIPTS, MAINTENANCE)


# On RabbitMQ. The dead-letter exchange is the default one: it needs no binding that could be missing. Dead-lettering is
# at most once unless told otherwise, and "at-least-once" asks for "reject-publish".
_QUORUM: dict[str, object] = {"x-queue-type": "quorum"}
_LIVE = _QUORUM | {
    "x-delivery-limit": 50,  # a message that 50 workers died over; attempts are counted in the database
    "x-dead-letter-exchange": "",
    "x-dead-letter-routing-key": DEAD,
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}
_DEAD = _QUORUM | {"x-max-length": DEAD_LIMIT}


def queue_of(name: str, *, quorum: bool) -> Queue:
    """The declaration of queue ``name``. On RabbitMQ (``quorum``) it is replicated; what no worker can use goes to
    ``notif.dead``."""
    arguments = (_DEAD if name == DEAD else _LIVE) if quorum else None
    # Direct, not topic: after a FLUSHALL a topic exchange on Redis swallows messages without an error.
    exchange = Exchange(EXCHANGE_NAME, type="direct", durable=True)
    return Queue(name, exchange=exchange, routing_key=name, durable=True, queue_arguments=arguments)

"""What Celery has to know of a broker, read from its URL alone: see docs/decisions/0002-celery-settings.md.

A URL may be several, separated by ``;``: the nodes of a RabbitMQ cluster (``amqp://…;amqp://…``) or Sentinels
(``sentinel://…;sentinel://…``), of which any that answers will do.
"""

from dataclasses import dataclass
from typing import Any

from kombu import Queue
from redis.backoff import NoBackoff
from redis.retry import Retry

from apps.delivery.queues import ALL_QUEUES, queue_of

_AMQP = {"confirm_publish": True, "confirm_timeout": 3, "read_timeout": 10, "write_timeout": 3}
_REDIS = {
    "visibility_timeout": 300,
    "unacked_restore_interval": 5,
    "unacked_restore_throttle": 1,
    "socket_timeout": 10,
    "socket_connect_timeout": 3,
    "socket_keepalive": True,
    "health_check_interval": 10,
    "queue_order_strategy": "round_robin",
}


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker's URL and the Celery settings that follow from it."""

    url: str
    is_amqp: bool
    transport_options: dict[str, Any]
    queues: list[Queue]


def read_broker(url: str, *, sentinel_master: str = "mymaster", sentinel_password: str = "") -> Broker:
    """What ``url`` says; the Sentinels' words only count for ``sentinel://``."""
    is_amqp = url.startswith("amqp")
    options: dict[str, Any] = dict(_AMQP if is_amqp else _REDIS)
    if url.startswith("sentinel"):
        # The Sentinels are asked before every connection: whoever waits for one must not wait for a dead one's socket.
        # Without "retry" redis-py pauses for seconds over each that is away, and the next one is never asked in time.
        asking: dict[str, Any] = {
            "socket_timeout": 0.5,
            "socket_connect_timeout": 0.5,
            "retry": Retry(NoBackoff(), 0),
        }
        if sentinel_password:
            asking["password"] = sentinel_password
        options |= {"master_name": sentinel_master, "sentinel_kwargs": asking}
    return Broker(url, is_amqp, options, [queue_of(name, quorum=is_amqp) for name in ALL_QUEUES])

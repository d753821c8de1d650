"""Looking at the broker from outside the pool of connections that publishing uses; Redis and RabbitMQ alike."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from django.conf import settings
from kombu import Connection
from kombu.exceptions import ChannelError

from apps.delivery.queues import ALL_QUEUES
from notify_project.celery import app


@contextmanager
def open_channels(timeout_s: float) -> Iterator[Callable[[], Any]]:
    """A connection of its own, closed afterwards; yields what opens a kombu channel on it.

    No step takes longer than ``timeout_s``. Raises what the transport raises; there are no retries.
    """
    limits = (
        {"read_timeout": timeout_s, "write_timeout": timeout_s}
        if settings.BROKER_IS_AMQP
        else {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, "retry_on_timeout": False}
    )
    connection: Connection = app.connection_for_write(connect_timeout=timeout_s, transport_options=limits)
    transport = connection.transport  # not connection.connect(): that tries again, with pauses
    link = transport.establish_connection()
    try:
        yield partial(transport.create_channel, link)
    finally:
        transport.close_connection(link)


def ping_broker(timeout_s: float) -> None:
    """Log in and open a channel (Redis: PING). Raises if the broker does not play along."""
    with open_channels(timeout_s) as open_channel:
        open_channel().close()


def queue_depths(timeout_s: float = 1.0) -> Mapping[tuple[str, ...], float]:
    """Messages waiting in each of our queues, as ``{(queue,): count}``; a queue nobody has declared yet has none."""
    depths: dict[tuple[str, ...], float] = {}
    with open_channels(timeout_s) as open_channel:
        channel = open_channel()
        for queue in ALL_QUEUES:
            try:
                depths[(queue,)] = channel.queue_declare(queue=queue, passive=True).message_count
            except ChannelError:
                depths[(queue,)] = 0
                channel = open_channel()  # RabbitMQ closes the one on which a missing queue was asked for
    return depths

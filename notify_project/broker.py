"""Looking at the broker from outside the pool of connections that publishing uses; Redis and RabbitMQ alike."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from django.conf import settings
from kombu import Connection
from kombu.exceptions import ChannelError
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError

from apps.delivery.queues import ALL_QUEUES, DEAD
from notify_project.celery import app

_PROBE = "notif.probe"  # a queue that nobody has: what is sent there is dropped, but has to be accepted


class BrokerFullError(Exception):
    """The broker answers and takes no messages."""


@contextmanager
def open_channels(timeout_s: float) -> Iterator[Callable[[], Any]]:
    """A connection of its own, closed afterwards; yields what opens a kombu channel on it.

    No step takes longer than ``timeout_s``. Raises what the transport raises. Of several addresses the first that
    answers is taken; there are no other retries.
    """
    limits = (
        {"read_timeout": timeout_s, "write_timeout": timeout_s}
        if settings.BROKER_IS_AMQP
        else {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, "retry_on_timeout": False}
    )
    options = {**settings.CELERY_BROKER_TRANSPORT_OPTIONS, **limits}
    connection: Connection = app.connection_for_write(connect_timeout=timeout_s, transport_options=options)
    transport, link = _establish(connection)
    try:
        yield partial(transport.create_channel, link)
    except BrokerFullError:
        if settings.BROKER_IS_AMQP:
            link.collect()  # a blocked connection hears no goodbye
        raise
    finally:
        with contextlib.suppress(OSError):  # what there was to know is known
            transport.close_connection(link)


def _establish(connection: Connection) -> tuple[Any, Any]:
    # Not connection.connect(): that tries again and again, with pauses.
    last = len(connection.alt) - 1 if settings.BROKER_IS_AMQP else 0  # Sentinels are asked in turn by their channel
    for _ in range(last):
        try:
            return connection.transport, connection.transport.establish_connection()
        except connection.connection_errors:
            connection.maybe_switch_next()
    return connection.transport, connection.transport.establish_connection()


def check_broker_takes_messages(timeout_s: float) -> None:
    """Log in and store something of no consequence. Raises ``BrokerFullError`` where the broker answers and refuses,
    else what the transport raises."""
    with open_channels(timeout_s) as open_channel:
        channel = open_channel()
        if settings.BROKER_IS_AMQP:
            _publish_nothing(channel, timeout_s)
        else:
            _store_nothing(channel.client)


def _publish_nothing(channel: Any, timeout_s: float) -> None:
    blocked: list[str] = []
    channel.connection.on_blocked = blocked.append
    try:
        for _ in range(2):  # the first is what RabbitMQ blocks a connection over, and still takes
            message = channel.prepare_message(b"")
            channel.basic_publish(message, exchange="", routing_key=_PROBE, confirm_timeout=timeout_s * 0.6)
    except TimeoutError:
        if blocked:
            raise BrokerFullError("RabbitMQ has raised an alarm: its memory or its disk is full") from None
        raise


def _store_nothing(client: Any) -> None:
    try:
        client.set(_PROBE, b"", ex=1)
    except (OutOfMemoryError, ReadOnlyError) as error:
        raise BrokerFullError(f"Redis refuses to store anything ({type(error).__name__})") from None
    except ResponseError as error:
        if str(error).startswith("MISCONF"):
            raise BrokerFullError("Redis refuses to store anything: it cannot write to its disk") from None
        raise


def queue_depths(timeout_s: float = 1.0) -> Mapping[tuple[str, ...], float]:
    """Messages waiting in each of our queues, as ``{(queue,): count}``; a queue nobody has declared yet has none."""
    return {(queue,): depth or 0 for queue, depth in inspect_queues(timeout_s).items()}


def inspect_queues(timeout_s: float) -> dict[str, int | None]:
    """Messages waiting in each of our queues; ``None`` for one that RabbitMQ does not have. On Redis an empty queue is
    nothing at all."""
    depths: dict[str, int | None] = {}
    with open_channels(timeout_s) as open_channel:
        channel = open_channel()
        for queue in (*ALL_QUEUES, DEAD):
            try:
                depths[queue] = channel.queue_declare(queue=queue, passive=True).message_count
            except ChannelError:
                depths[queue] = None if settings.BROKER_IS_AMQP else 0
                channel = open_channel()  # RabbitMQ closes the one on which a missing queue was asked for
    return depths

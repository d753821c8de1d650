"""What our transports for Redis do better than kombu's."""

import uuid

import pytest
from django.conf import settings
from kombu import Connection, Queue

from notify_project.celery import app


@pytest.fixture
def connection():
    with Connection(settings.BROKER_URL, transport_options={"max_retries": 1}) as opened:
        assert app  # has installed the transports
        yield opened


@pytest.fixture
def channel(connection):
    """One that holds a message it has not acknowledged."""
    name = f"test.{uuid.uuid4().hex}"
    channel = connection.default_channel
    queue = Queue(name, channel=channel)
    queue.declare()
    connection.Producer().publish("hello", routing_key=name)
    assert queue.get() is not None
    yield channel
    with Connection(settings.BROKER_URL) as another:
        another.default_channel.queue_delete(name)


def give_up(channel):
    """What a worker's second lost connection within a moment leaves behind."""
    channel._disconnect_pools()
    channel._pool = channel._async_pool = None
    channel.connection.client = None


def test_channel_whose_connection_was_given_up_is_closed_as_a_lost_one(connection, channel):
    give_up(channel)
    with pytest.raises(connection.connection_errors, match="closed"):
        channel.close()


def test_publishing_on_such_a_channel_is_a_reason_to_connect_again(connection, channel):
    give_up(channel)
    with pytest.raises(connection.recoverable_connection_errors):
        channel._create_client()

import socket
import time
from uuid import uuid4

import pytest
from celery import current_app

from apps.channels import Channel, Lane
from apps.delivery import doorbell


@pytest.fixture
def broker_at(monkeypatch):
    """Points the doorbell at another broker."""

    def point(port):
        connection = current_app.connection_for_write(
            f"redis://127.0.0.1:{port}/0",
            connect_timeout=0.5,
            transport_options={
                "socket_timeout": 0.5,
                "socket_connect_timeout": 0.5,
                "max_retries": 1,
                "interval_start": 0.0,
            },
        )
        monkeypatch.setattr(doorbell, "_connection", lambda: connection)
        doorbell.reset()

    return point


def ring():
    started = time.monotonic()
    was_rung = doorbell.ring_deliveries([(uuid4(), Channel.SMS, Lane.HIGH)])
    return was_rung, time.monotonic() - started


def test_refused_connection_is_a_lost_doorbell_and_no_error(broker_at):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        broker_at(listener.getsockname()[1])
        was_rung, seconds = ring()
    assert not was_rung
    assert seconds < 2


def test_broker_that_says_nothing_holds_nobody_up_for_long(broker_at):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        broker_at(listener.getsockname()[1])
        first, seconds = ring()
        assert (first, seconds < 3) == (False, True)
        again, seconds = ring()
        assert (again, seconds < 0.1) == (False, True)  # known to be down: not even tried


def test_depth_of_a_queue_nobody_knows_is_zero(broker_at):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        broker_at(listener.getsockname()[1])
        assert doorbell.queue_depth("notif.sms.high") == 0

import json
import socket
import time
from uuid import uuid4

import pytest
from celery import current_app

from apps.channels import Channel, Lane
from apps.delivery import doorbell
from apps.trace import bind_trace
from tests.brokers import BROKERS
from tests.brokers import broker as broker
from tests.waiting import wait_for


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


def test_depth_is_unknown_without_a_broker(broker_at):
    assert doorbell.queue_depth("notif.sms.high") == 0
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        broker_at(listener.getsockname()[1])
        assert doorbell.queue_depth("notif.sms.high") is None


def message_of(queue):
    with current_app.connection_for_read() as connection:
        message = connection.default_channel.basic_get(queue, no_ack=True)
    return message.headers, message.properties, json.loads(message.body)


@pytest.mark.parametrize("broker", BROKERS, indirect=True)
def test_doorbell_is_the_message_that_celery_itself_would_send(broker):
    ids = [str(uuid4()) for _ in range(3)]
    with bind_trace("my-trace"):
        current_app.send_task("notify.deliver", [ids], queue="notif.sms.bulk", ignore_result=True)
        theirs = message_of("notif.sms.bulk")
        assert doorbell.ring("notify.deliver", [ids], "notif.sms.bulk")
        ours = message_of("notif.sms.bulk")
    ids_of_messages = [(headers["id"], headers["root_id"], p["correlation_id"]) for headers, p, _ in (theirs, ours)]
    assert all(len(set(one)) == 1 for one in ids_of_messages)
    for headers, _, _ in (theirs, ours):
        del headers["id"], headers["root_id"]
    assert ours[0] == theirs[0]
    assert ours[0]["trace_id"] == "my-trace"
    assert ours[2] == theirs[2]
    assert ours[1]["delivery_mode"] == theirs[1]["delivery_mode"] == 2


@pytest.mark.parametrize("broker", BROKERS, indirect=True)
def test_only_a_bulk_queue_gets_crowded(broker):
    assert not doorbell.is_crowded(Channel.SMS, Lane.BULK)
    for queue in ("notif.sms.bulk", "notif.sms.high"):
        for _ in range(doorbell.CROWDED + 1):
            assert doorbell.ring("notify.deliver", [[]], queue)
    wait_for(lambda: doorbell.is_crowded(Channel.SMS, Lane.BULK))
    assert not doorbell.is_crowded(Channel.SMS, Lane.HIGH)
    assert not doorbell.is_crowded(Channel.PUSH, Lane.BULK)
    broker.purge()
    wait_for(lambda: not doorbell.is_crowded(Channel.SMS, Lane.BULK))


@pytest.mark.parametrize("broker", BROKERS, indirect=True)
def test_many_receipts_ring_at_once_and_once_more_at_the_end(broker, monkeypatch):
    monkeypatch.setattr(doorbell, "RECEIPTS_PAUSE_S", 2.0)
    for _ in range(50):
        assert doorbell.ring_receipts()
    assert broker.depth("notif.receipts") == 1
    wait_for(lambda: broker.depth("notif.receipts") == 2)


def test_receipts_that_nobody_takes_ring_for_the_sweep_alone(broker_at, monkeypatch):
    monkeypatch.setattr(doorbell, "queue_depth", lambda queue: doorbell.CROWDED + 1)  # what a full queue says
    doorbell.is_crowded(Channel.SMS, Lane.BULK)
    wait_for(lambda: doorbell.is_crowded(Channel.SMS, Lane.BULK))
    assert not doorbell.ring_receipts()

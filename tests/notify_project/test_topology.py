"""What the command declares, what it says, and that nobody else declares on first use."""

from io import StringIO
from uuid import uuid4

import pytest
from celery import current_app
from django.core.management import CommandError, call_command

from apps.channels import Channel, Lane
from apps.delivery import doorbell
from apps.delivery.queues import ALL_QUEUES, DEAD
from notify_project import topology
from notify_project.topology import State
from tests.brokers import broker as broker
from tests.waiting import wait_for

on_rabbitmq = pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)


def declare(*arguments):
    output = StringIO()
    call_command("declare_topology", *arguments, stdout=output)
    return output.getvalue()


def remove(queue, arguments=None):
    """Delete a queue, and leave another of its name if ``arguments`` are given."""
    with current_app.connection_for_write() as connection:
        connection.default_channel.queue_delete(queue)
        if arguments is not None:
            connection.default_channel.queue_declare(queue, durable=True, auto_delete=False, arguments=arguments)


@on_rabbitmq
def test_everything_is_declared_once(broker):
    remove("notif.sms.high")
    assert "queue notif.sms.high: declared" in declare()
    again = declare()
    assert again.splitlines() == [
        "exchange notif: present",
        *(f"queue {name}: present" for name in (DEAD, *ALL_QUEUES)),
    ]
    assert declare("--check") == again


@on_rabbitmq
def test_a_check_names_what_is_missing_and_makes_nothing(broker):
    remove("notif.sms.high")
    for _ in range(2):
        with pytest.raises(CommandError):
            declare("--check")
        assert {one.name for one in topology.check_topology() if one.state is State.MISSING} == {"notif.sms.high"}
    assert topology.missing_queues(timeout_s=5) == ["notif.sms.high"]
    declare()
    assert topology.missing_queues(timeout_s=5) == []


@on_rabbitmq
def test_a_queue_that_differs_is_left_alone_until_told_otherwise(broker):
    remove("notif.sms.high", {"x-queue-type": "quorum"})
    with pytest.raises(CommandError):
        declare()
    (finding,) = (one for one in topology.check_topology() if not one.is_well)
    assert (finding.name, finding.state) == ("notif.sms.high", State.DIFFERS)
    assert "x-d" in finding.detail  # the argument
    assert "queue notif.sms.high: recreated" in declare("--recreate")
    assert all(one.state is State.PRESENT for one in topology.check_topology())


@on_rabbitmq
def test_ringing_declares_nothing_and_notices_a_queue_that_is_missing(broker):
    remove("notif.sms.high")
    ring = [(uuid4(), Channel.SMS, Lane.HIGH)]
    assert not doorbell.ring_deliveries(ring)
    assert topology.missing_queues(timeout_s=5) == ["notif.sms.high"]
    assert doorbell.queue_depth("notif.sms.high") is None
    declare()
    doorbell.reset()
    assert doorbell.ring_deliveries(ring)
    assert len(broker.take("notif.sms.high")) == 1


@on_rabbitmq
def test_what_a_worker_rejects_ends_with_the_dead(broker):
    broker.put("notif.sms.high", b"{")
    with current_app.connection_for_read() as connection:
        channel = connection.default_channel
        message = channel.basic_get("notif.sms.high")
        channel.basic_reject(message.delivery_tag, requeue=False)
        dead = wait_for(lambda: channel.basic_get(DEAD, no_ack=True))
    assert dead.body in (b"{", "{")
    assert dead.headers["x-death"][0]["queue"] == "notif.sms.high"


@pytest.mark.parametrize("broker", ["valkey"], indirect=True)
def test_on_redis_there_is_nothing_to_declare(broker):
    assert "Nothing to declare" in declare()
    assert "Nothing to declare" in declare("--check")
    assert topology.missing_queues(timeout_s=1) == []


def test_a_broker_that_is_away_is_said_in_one_line(settings, monkeypatch):
    settings.BROKER_IS_AMQP = True
    monkeypatch.setattr(current_app.conf, "broker_write_url", "amqp://127.0.0.1:1//")
    with pytest.raises(CommandError, match="BROKER_URL"):
        declare()

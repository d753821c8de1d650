"""What no worker can use is put aside, whatever it is and whatever the broker, and delays nobody."""

import json
from uuid import uuid4

import pytest
from celery import current_app
from kombu import Connection

from apps.delivery.message_checks import find_fault_in_ids
from apps.delivery.queues import DEAD, RECEIPTS
from notify_project import garbage
from tests.brokers import broker as broker
from tests.observability.probe_tasks import probe
from tests.waiting import wait_for
from tests.workers import WorkerProcess

QUEUE = RECEIPTS
CALL = {"task": "notify.apply_receipts", "id": "1"}


def call(task, args):
    return json.dumps([args, {}, {}]).encode(), {"task": task, "id": "1"}


MESSAGES = [
    (b"{", CALL),
    (b"{", {}),
    (b'"abc"', CALL),
    (b"[]", CALL),
    (b"[[], [], {}]", CALL),
    (b"[[], {}, {}]", {"task": "notify.apply_receipts"}),
    (b"[[], {}, {}]", {"task": 1, "id": "1"}),
    (b"[[], {}, {}]", {**CALL, "eta": "tomorrow"}),
    (b"[[], {}, {}]", {**CALL, "expires": "never"}),
    (b"\xff\xfe", CALL),
    call("no.such", []),
    call("notify.apply_receipts", [1, 2, 3]),
    call("notify.deliver", []),
    call("notify.deliver", ["not a list"]),
    call("notify.deliver", [["not an id"]]),
    call("notify.deliver", [["z" * 36]]),
    call("notify.deliver", [[1]]),
    call("notify.deliver", [[str(uuid4())] * 5_001]),
    call("notify.deliver", [["x" * 300_000]]),
]
NO_MESSAGES = [
    b"garbage{{{",
    b"",
    b"\xff\xfe",
    b"null",
    b"[1]",
    b'"text"',
    b"{}",
    b'{"body": 1, "properties": {}}',
    b'{"body": "x", "properties": {"delivery_tag": "1", "delivery_info": {}, "body_encoding": "base64"}}',
]


@pytest.mark.django_db(transaction=True)
def test_garbage_is_put_aside_and_delays_nobody(broker):
    expected = len(MESSAGES)
    with WorkerProcess([QUEUE], environment=broker.environment, include="tests.observability.probe_tasks") as worker:
        for body, headers in MESSAGES:
            broker.put(QUEUE, body, headers=headers)
        broker.put(QUEUE, b"pickle", headers=CALL, content_type="application/x-python-serialize")
        expected += 1
        if broker.kind == "valkey":
            with current_app.connection_for_write() as connection:
                for entry in NO_MESSAGES:
                    connection.default_channel.client.lpush(QUEUE, entry)
            expected += len(NO_MESSAGES)
        probe.apply_async((4711,), queue=QUEUE)
        worker.wait_for_line(lambda line: line.get("number") == 4711)
        wait_for(lambda: broker.depth(DEAD) == expected, lambda: (broker.depth(DEAD), expected, worker.tail()))
        assert broker.depth(QUEUE) == 0
        assert worker.is_running
        buried = [line for line in worker.lines if line["event"] == "message_buried"]
        assert len(buried) == expected
        assert not any("Unrecoverable" in line["event"] for line in worker.lines)


@pytest.mark.parametrize("broker", ["valkey"], indirect=True)
def test_what_is_kept_on_redis_is_bounded_and_can_be_read(broker, monkeypatch):
    monkeypatch.setattr(garbage, "DEAD_LIMIT", 3)
    with current_app.connection_for_write() as connection:
        client = connection.default_channel.client
        for number in range(5):
            garbage.keep_on_redis(client, "q", "no JSON", headers={"n": number}, body=b"\xff" * 1_000_000)
        entries = [json.loads(entry) for entry in client.lrange(DEAD, 0, -1)]
    assert [entry["headers"] for entry in entries] == ["{'n': 4}", "{'n': 3}", "{'n': 2}"]
    assert {entry["body_bytes"] for entry in entries} == {1_000_000}
    assert all(len(entry["body"]) < 30_000 for entry in entries)


def test_ordinary_ids_have_no_fault():
    assert find_fault_in_ids([str(uuid4()) for _ in range(500)]) is None
    assert find_fault_in_ids([]) is None


def test_guard_covers_every_redis_url():
    for scheme in ("redis", "rediss", "sentinel"):
        assert Connection(f"{scheme}://127.0.0.1").get_transport_cls().__module__ == "notify_project.redis_transport"

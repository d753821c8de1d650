import json
import threading
from base64 import b64decode

import pytest
from celery import current_app
from django.db import connection

from apps.channels import Channel, Lane
from apps.delivery import dispatch, doorbell, sweep
from apps.delivery.outcomes import claim_deliveries
from apps.delivery.selectors import heartbeat_ages, queue_ages
from apps.delivery.statuses import Status
from tests.delivery.factories import accept, reload
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db


def take_messages(queue):
    """The delivery ids of every doorbell in a queue, which is emptied."""
    ids = []
    with current_app.connection_for_read() as broker:
        redis = broker.default_channel.client
        while raw := redis.rpop(queue):
            args, _, _ = json.loads(b64decode(json.loads(raw)["body"]))
            ids.append(args[0] if args else None)
    return ids


def shift(column, seconds):
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE delivery SET {column} = {column} - make_interval(secs => %s)", [seconds])


@pytest.fixture
def recipient():
    return RecipientFactory()


def test_lost_doorbell_is_rung_again_once(client_row, recipient):
    (delivery,) = accept(client_row.id, recipient.user_id)
    take_messages("notif.sms.high")
    assert sweep.sweep() == 0
    shift("ring_at", 60)
    assert sweep.sweep() == 1
    assert take_messages("notif.sms.high") == [[str(delivery.id)]]
    assert sweep.sweep() == 0


def test_rows_are_rung_in_one_message_per_queue(client_row, recipient):
    expected = {}
    for channel in Channel:
        for lane in Lane:
            ids = [
                str(accept(client_row.id, recipient.user_id, channels=(channel,), lane=lane)[0].id) for _ in range(3)
            ]
            expected[f"notif.{channel.label}.{lane.label}"] = ids
    for queue in expected:
        take_messages(queue)
    shift("ring_at", 60)
    assert sweep.sweep() == 18
    for queue, ids in expected.items():
        (rung,) = take_messages(queue)
        assert sorted(rung) == sorted(ids)


def test_row_of_a_dead_worker_is_rung_when_its_lease_is_over(client_row, recipient):
    (delivery,) = accept(client_row.id, recipient.user_id)
    claim_deliveries([delivery.id], lease_s=30)
    take_messages("notif.sms.high")
    assert sweep.sweep() == 0
    shift("ring_at", 60)
    shift("next_attempt_at", 60)
    assert sweep.sweep() == 1
    assert len(claim_deliveries([delivery.id], lease_s=30)) == 1


def test_finished_row_is_never_rung(client_row, recipient, wire):
    (delivery,) = accept(client_row.id, recipient.user_id)
    dispatch.deliver([delivery.id])
    assert reload(delivery).status == Status.SENT
    shift("ring_at", 60)
    assert sweep.sweep() == 0


def test_rows_stay_due_while_the_broker_is_away(client_row, recipient, monkeypatch):
    (delivery,) = accept(client_row.id, recipient.user_id)
    shift("ring_at", 60)
    monkeypatch.setattr(doorbell, "_publish", lambda *args: False)  # what it answers when the broker is away
    assert sweep.sweep() == 0
    monkeypatch.undo()
    take_messages("notif.sms.high")
    assert sweep.sweep() == 1
    assert take_messages("notif.sms.high") == [[str(delivery.id)]]


@pytest.mark.django_db(transaction=True)
def test_two_sweeps_at_once_ring_once(client_row):
    recipient = RecipientFactory()
    ids = [str(accept(client_row.id, recipient.user_id)[0].id) for _ in range(50)]
    take_messages("notif.sms.high")
    shift("ring_at", 60)
    barrier = threading.Barrier(2)

    def work():
        try:
            barrier.wait(5)
            sweep.sweep()
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(one for message in take_messages("notif.sms.high") for one in message) == sorted(ids)


def test_ages_tell_how_long_work_waits(client_row, recipient):
    assert queue_ages() == {("high",): 0.0, ("bulk",): 0.0}
    accept(client_row.id, recipient.user_id, lane=Lane.BULK)
    shift("next_attempt_at", 100)
    ages = queue_ages()
    assert ages[("high",)] == 0.0
    assert 100 <= ages[("bulk",)] < 160
    assert heartbeat_ages("sweep") == {}
    sweep.sweep()
    assert heartbeat_ages("sweep")[()] < 60


def test_full_queue_is_not_rung_any_fuller(client_row, recipient, monkeypatch):
    monkeypatch.setattr(sweep, "MAX_DOORBELLS", 3)
    for _ in range(5):
        accept(client_row.id, recipient.user_id)
    shift("ring_at", 60)
    assert sweep.sweep() == 0
    take_messages("notif.sms.high")
    assert sweep.sweep() == 5


def test_full_queue_of_one_channel_does_not_keep_another_waiting(client_row, recipient, monkeypatch):
    monkeypatch.setattr(sweep, "MAX_DOORBELLS", 3)
    for _ in range(5):
        accept(client_row.id, recipient.user_id)
    accept(client_row.id, recipient.user_id, channels=(Channel.PUSH,))
    take_messages("notif.push.high")
    shift("ring_at", 60)
    assert sweep.sweep() == 1
    assert len(take_messages("notif.push.high")) == 1


def test_sweep_reads_its_index_and_nothing_else(client_row, recipient):
    """However many rows are done or belong to other queues, a sweep touches only what is due in its own."""
    accept(client_row.id, recipient.user_id)
    parameters = {"lane": 1, "channel": 2, "limit": 10, "again_s": 30.0}
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")  # the test's tables are too small for an index to pay
        cursor.execute(f"EXPLAIN {sweep._STAMP}", parameters)
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert "Seq Scan" not in plan
    assert "delivery_20" in plan
    assert "Index Cond: ((lane = 1) AND (channel = 2) AND (ring_at <= now()))" in plan

import threading

import pytest
from django.db import connection

from apps.channels import Channel, Lane
from apps.clients.models import Client
from apps.delivery import dispatch, doorbell, selectors, sweep
from apps.delivery.outcomes import claim_deliveries
from apps.delivery.selectors import heartbeat_ages, queue_ages
from apps.delivery.statuses import Status
from tests.clients.factories import make_client
from tests.delivery.factories import accept, reload
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def take_messages(broker):
    """Takes the delivery ids of every doorbell in a queue, which is emptied."""
    return broker.take


def shift(column, seconds):
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE delivery SET {column} = {column} - make_interval(secs => %s)", [seconds])


@pytest.fixture
def recipient():
    return RecipientFactory()


def test_lost_doorbell_is_rung_again_once(client_row, recipient, take_messages):
    (delivery,) = accept(client_row.id, recipient.user_id)
    take_messages("notif.sms.high")
    assert sweep.sweep() == 0
    shift("ring_at", 60)
    assert sweep.sweep() == 1
    assert take_messages("notif.sms.high") == [[str(delivery.id)]]
    assert sweep.sweep() == 0


def test_rows_are_rung_in_one_message_per_queue(client_row, recipient, take_messages):
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


def test_row_of_a_dead_worker_is_rung_when_its_lease_is_over(client_row, recipient, take_messages):
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


def test_rows_stay_due_while_the_broker_is_away(client_row, recipient, monkeypatch, take_messages):
    (delivery,) = accept(client_row.id, recipient.user_id)
    shift("ring_at", 60)
    monkeypatch.setattr(doorbell, "_publish", lambda *args: False)  # what it answers when the broker is away
    assert sweep.sweep() == 0
    monkeypatch.undo()
    take_messages("notif.sms.high")
    assert sweep.sweep() == 1
    assert take_messages("notif.sms.high") == [[str(delivery.id)]]


@pytest.mark.django_db(transaction=True)
def test_two_sweeps_at_once_ring_once(client_row, take_messages):
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


def test_full_queue_is_not_rung_any_fuller(client_row, recipient, monkeypatch, take_messages):
    monkeypatch.setattr(sweep, "MAX_DOORBELLS", {Lane.HIGH: 3, Lane.BULK: 3})
    for _ in range(5):
        accept(client_row.id, recipient.user_id)
    shift("ring_at", 60)
    assert sweep.sweep() == 0
    take_messages("notif.sms.high")
    assert sweep.sweep() == 5


def test_full_queue_of_one_channel_does_not_keep_another_waiting(client_row, recipient, monkeypatch, take_messages):
    monkeypatch.setattr(sweep, "MAX_DOORBELLS", {Lane.HIGH: 3, Lane.BULK: 3})
    for _ in range(5):
        accept(client_row.id, recipient.user_id)
    accept(client_row.id, recipient.user_id, channels=(Channel.PUSH,))
    take_messages("notif.push.high")
    shift("ring_at", 60)
    assert sweep.sweep() == 1
    assert len(take_messages("notif.push.high")) == 1


def plan_of(query, parameters):
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")  # the test's tables are too small for an index to pay
        cursor.execute(f"EXPLAIN {query}", parameters)
        return "\n".join(row[0] for row in cursor.fetchall())


def test_sweep_reads_its_index_and_nothing_else(client_row, recipient):
    """However many rows are done or belong to other queues, a sweep touches only what is due in its own."""
    accept(client_row.id, recipient.user_id)
    finding = plan_of(selectors._DUE_CLIENTS, {})
    assert "Seq Scan on delivery" not in finding
    assert "Index Cond: (ROW(lane, channel, client_id) > ROW(head" in finding
    assert "Sort  " not in finding
    locking = plan_of(sweep._LOCK, {"lane": 1, "channel": 2, "clients": [1], "shares": [10]})
    assert "Seq Scan on delivery" not in locking
    assert "Sort  " not in locking  # the index gives them in order
    assert (
        "Index Cond: ((lane = 1) AND (channel = 2) AND (client_id = share.client_id) AND (ring_at <= now()))" in locking
    )


def accept_many(client, n, **changes):
    recipient = RecipientFactory()
    return [str(accept(client.id, recipient.user_id, **changes)[0].id) for _ in range(n)]


def test_nobody_waits_behind_the_mountain_of_another(client_row, monkeypatch, take_messages):
    monkeypatch.setattr(sweep, "DOORBELL_SIZE", 4)
    monkeypatch.setattr(sweep, "MAX_DOORBELLS", {Lane.HIGH: 2, Lane.BULK: 2})
    accept_many(client_row, 20)
    few = accept_many(make_client(), 3)
    take_messages("notif.sms.high")
    shift("ring_at", 60)
    assert sweep.sweep() == 8
    rung = take_messages("notif.sms.high")
    first = [one for message in rung[:1] for one in message]
    assert len(set(first) & set(few)) == 2  # half of the first batch of four
    assert set(few) <= {one for message in rung for one in message}  # and the rest of theirs with the next


def test_room_is_shared_by_weight(client_row, monkeypatch, take_messages):
    monkeypatch.setattr(sweep, "DOORBELL_SIZE", 12)
    monkeypatch.setattr(sweep, "MAX_DOORBELLS", {Lane.HIGH: 1, Lane.BULK: 1})
    heavy = make_client()
    Client.objects.filter(id=heavy.id).update(weight=3)
    light, weighty = set(accept_many(client_row, 12)), set(accept_many(heavy, 12))
    take_messages("notif.sms.high")
    shift("ring_at", 60)
    assert sweep.sweep() == 12
    rung = {one for message in take_messages("notif.sms.high") for one in message}
    assert (len(rung & light), len(rung & weighty)) == (3, 9)


def test_what_one_leaves_of_its_share_is_for_the_others(client_row, monkeypatch, take_messages):
    monkeypatch.setattr(sweep, "DOORBELL_SIZE", 12)
    monkeypatch.setattr(sweep, "MAX_DOORBELLS", {Lane.HIGH: 1, Lane.BULK: 1})
    accept_many(make_client(), 1)
    accept_many(client_row, 20)
    take_messages("notif.sms.high")
    shift("ring_at", 60)
    assert sweep.sweep() == 12


def test_oldest_rows_of_a_client_come_first(client_row, monkeypatch, take_messages):
    monkeypatch.setattr(sweep, "DOORBELL_SIZE", 2)
    monkeypatch.setattr(sweep, "MAX_DOORBELLS", {Lane.HIGH: 1, Lane.BULK: 1})
    ids = accept_many(client_row, 5)
    take_messages("notif.sms.high")
    with connection.cursor() as cursor:
        for age, one in enumerate(ids):
            cursor.execute(
                "UPDATE delivery SET ring_at = now() - make_interval(secs => %s) WHERE id = %s", [10 + age, one]
            )
    sweep.sweep()
    assert take_messages("notif.sms.high") == [[ids[4], ids[3]]]


def test_high_lane_is_swept_first(client_row, recipient, monkeypatch):
    order = []
    monkeypatch.setattr(sweep, "ring_deliveries", lambda rows: order.append({lane for _, _, lane in rows}) or True)
    accept(client_row.id, recipient.user_id, lane=Lane.BULK, channels=(Channel.PUSH,))
    accept(client_row.id, recipient.user_id, lane=Lane.HIGH)
    shift("ring_at", 60)
    sweep.sweep()
    assert order == [{Lane.HIGH}, {Lane.BULK}]


def test_nothing_is_stamped_for_a_broker_that_is_away(client_row, recipient, monkeypatch):
    (delivery,) = accept(client_row.id, recipient.user_id)
    shift("ring_at", 60)
    before = reload(delivery).ring_at
    monkeypatch.setattr(sweep, "queue_depth", lambda queue: None)  # what it answers when the broker is away
    assert sweep.sweep() == 0
    assert reload(delivery).ring_at == before


def test_a_failed_ring_keeps_who_waited_longest_first(client_row, recipient, monkeypatch):
    (delivery,) = accept(client_row.id, recipient.user_id)
    shift("ring_at", 60)
    shift("next_attempt_at", 600)
    monkeypatch.setattr(doorbell, "_publish", lambda *args: False)  # what it answers when the broker refuses
    sweep.sweep()
    row = reload(delivery)
    assert row.ring_at == row.next_attempt_at

"""Deliveries with an ordering key: one at a time, in the order of acceptance, without slowing others."""

import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection

from apps.channels import Channel, Lane
from apps.delivery import dispatch, doorbell, ordering
from apps.delivery.ids import delivery_ids, new_notification_id, notification_id_of
from apps.delivery.models import Delivery
from apps.delivery.outcomes import Outcome, ReceiptFact, apply_receipts, cancel_deliveries, claim_deliveries
from apps.delivery.outcomes import record_outcomes as record
from apps.delivery.statuses import Reason, Status
from apps.delivery.sweep import sweep
from apps.providers.messages import ReceiptKind
from tests.delivery.conftest import ACCEPTED, REFUSED
from tests.delivery.factories import accept, reload
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db(transaction=True)
KEY, OTHER_KEY = 4_711, 4_712


@pytest.fixture(autouse=True)
def rung(monkeypatch):
    """The delivery ids that the doorbell was rung for."""
    ids = []
    monkeypatch.setattr(ordering, "ring_deliveries", lambda rows: ids.extend(row[0] for row in rows))
    return ids


def put_in_line(delivery, key=KEY):
    """Gives an accepted delivery an order, as intake does."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE delivery SET order_hash = %s, order_no = nextval('delivery_order_no') WHERE id = %s",
            [key, delivery.id],
        )
    return delivery


@pytest.fixture
def line(client_row):
    """Three deliveries of one line."""
    recipient = RecipientFactory(phone="+15005550100")
    return [put_in_line(accept(client_row.id, recipient.user_id)[0]) for _ in range(3)]


def claim(*deliveries):
    return claim_deliveries([delivery.id for delivery in deliveries], lease_s=30)


def claimed_ids(*deliveries):
    return [claim.id for claim in claim(*deliveries)]


def make_due(delivery):
    with connection.cursor() as cursor:
        cursor.execute("UPDATE delivery SET next_attempt_at = now() - interval '1 s' WHERE id = %s", [delivery.id])


def test_only_the_first_of_a_line_is_claimed(line):
    first, second, third = line
    assert claimed_ids(third, second) == []
    assert claimed_ids(third, first, second) == [first.id]
    assert claimed_ids(second, third) == []


def test_lines_do_not_wait_for_each_other(line, client_row):
    first, second, _ = line
    recipient = RecipientFactory()
    others = [
        put_in_line(accept(client_row.id, recipient.user_id)[0]),
        put_in_line(accept(client_row.id, reload(first).recipient.user_id)[0], OTHER_KEY),
        put_in_line(accept(client_row.id, reload(first).recipient.user_id, channels=(Channel.EMAIL,))[0]),
        accept(client_row.id, reload(first).recipient.user_id)[0],
    ]
    assert claimed_ids(first) == [first.id]
    assert set(claimed_ids(second, *others)) == {other.id for other in others}


def test_lines_of_both_lanes_are_one(line, client_row):
    urgent = put_in_line(accept(client_row.id, reload(line[0]).recipient.user_id, lane=Lane.HIGH)[0])
    bulk = put_in_line(accept(client_row.id, reload(line[0]).recipient.user_id, lane=Lane.BULK)[0])
    assert claimed_ids(urgent, bulk) == []


FINISHES = [
    Outcome(None, Status.SENT, has_tried=True, provider_id=3, provider_message_id="SM1"),
    Outcome(None, Status.FAILED, Reason.PROVIDER_REFUSED, has_tried=True, provider_id=3),
    Outcome(None, Status.SUPPRESSED, 1),
    Outcome(None, Status.EXPIRED, Reason.EXPIRED),
    Outcome(None, Status.CANCELLED, Reason.CANCELLED_BY_CLIENT),
    Outcome(None, Status.DEAD, Reason.POISON, has_tried=True),
    Outcome(None, Status.UNKNOWN, Reason.NO_ANSWER, has_tried=True, provider_id=3),
]


@pytest.mark.parametrize("outcome", FINISHES, ids=lambda outcome: outcome.status.label)
def test_next_one_steps_forward_when_the_first_is_finished(line, rung, outcome):
    first, second, third = line
    (own,) = claim(first)
    assert record([_of(own, outcome)]) == {first.id}
    assert rung == [second.id]
    assert claimed_ids(third, second) == [second.id]


def _of(own, outcome):
    return Outcome(own, outcome.status, outcome.reason, outcome.has_tried, outcome.provider_id)


def test_retry_keeps_the_others_waiting(line, rung):
    first, second, _ = line
    (own,) = claim(first)
    record([Outcome(own, Status.QUEUED, Reason.RETRY_AFTER_FAILURE, has_tried=True, provider_id=3, delay_s=60.0)])
    assert rung == []
    assert claimed_ids(second) == []
    make_due(first)
    assert claimed_ids(second, first) == [first.id]


def test_cancelled_first_lets_the_next_one_go(line, rung):
    first, second, _ = line
    cancel_deliveries(notification_id_of(first.id))
    assert reload(first).status == Status.CANCELLED
    assert rung == [second.id]
    assert claimed_ids(second) == [second.id]


def test_receipt_that_overtakes_the_record_lets_the_next_one_go(line, rung):
    first, second, third = line
    (own,) = claim(first)
    apply_receipts(ReceiptKind.DELIVERED, [ReceiptFact(first.id, reload(first).next_attempt_at, "", "SM1")])
    assert reload(first).status == Status.DELIVERED
    assert rung == [second.id]
    assert claimed_ids(second) == [second.id]
    record([Outcome(own, Status.SENT, has_tried=True, provider_id=3)])
    assert claimed_ids(third) == []


def test_one_whose_worker_died_is_first_again(line):
    first, second, _ = line
    assert claimed_ids(first) == [first.id]
    make_due(first)  # its lease has run out
    assert claimed_ids(second, first) == [first.id]


def test_earlier_one_that_appears_late_waits_for_what_is_under_way(line):
    first, second, _ = line
    with connection.cursor() as cursor:  # its transaction is not committed yet
        cursor.execute("UPDATE delivery SET order_hash = NULL WHERE id = %s", [first.id])
    (own,) = claim(second)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE delivery SET order_hash = %s WHERE id = %s", [KEY, first.id])
    assert claimed_ids(first) == []
    record([Outcome(own, Status.SENT, has_tried=True, provider_id=3)])
    assert claimed_ids(first) == [first.id]


def test_line_with_a_dead_worker_in_it_and_a_late_earlier_one_is_not_stuck(line):
    first, second, _ = line
    with connection.cursor() as cursor:
        cursor.execute("UPDATE delivery SET order_hash = NULL WHERE id = %s", [first.id])
    assert claimed_ids(second) == [second.id]
    with connection.cursor() as cursor:
        cursor.execute("UPDATE delivery SET order_hash = %s WHERE id = %s", [KEY, first.id])
    make_due(second)  # its lease has run out
    assert claimed_ids(second, first) == [first.id]


def test_scheduled_first_is_not_rung_before_its_time(line, rung):
    first, second, _ = line
    (own,) = claim(first)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE delivery SET next_attempt_at = now() + interval '1 h' WHERE id = %s", [second.id])
    record([Outcome(own, Status.SENT, has_tried=True, provider_id=3)])
    assert rung == []


def test_blocked_one_is_rung_for_again(line, monkeypatch):
    first, second, _ = line
    rung = []
    monkeypatch.setattr("apps.delivery.sweep.ring_deliveries", lambda rows: rung.extend(row[0] for row in rows) or True)
    assert claimed_ids(first) == [first.id]
    assert claimed_ids(second) == []
    with connection.cursor() as cursor:
        cursor.execute("UPDATE delivery SET ring_at = now() WHERE id = %s", [second.id])
    sweep()
    assert second.id in rung


def test_whole_line_goes_out_in_order_through_the_workers(line, wire, rung):
    answers = iter([REFUSED])
    wire.answer = lambda provider, request: next(answers, ACCEPTED[provider])
    first, second, third = line
    dispatch.deliver([delivery.id for delivery in (third, second, first)])
    assert reload(first).status == Status.QUEUED  # refused once, waits
    make_due(first)
    dispatch.deliver([delivery.id for delivery in (second, third, first)])
    while rung:
        dispatch.deliver([rung.pop(0)])
    sent = [request.messages[0].delivery_id for _, request in wire.requests]
    assert sent == [str(one.id) for one in (first, first, second, third)]
    assert all(reload(one).status == Status.SENT for one in line)


class TestFollowing:
    """Whoever sent the first of a line goes on with the next."""

    def test_one_doorbell_sends_the_whole_line(self, line, wire, rung, monkeypatch):
        monkeypatch.setattr(dispatch, "FOLLOW_S", 60.0)
        dispatch.deliver([line[0].id])
        assert [request.messages[0].delivery_id for _, request in wire.requests] == [str(one.id) for one in line]
        assert rung == []

    def test_after_its_time_the_next_is_rung_for(self, line, wire, rung, monkeypatch):
        monkeypatch.setattr(dispatch, "FOLLOW_S", 0.0)
        dispatch.deliver([line[0].id])
        assert len(wire.requests) == 1
        assert rung == [line[1].id]

    def test_what_belongs_to_the_other_lane_is_left_to_it(self, line, wire, rung, monkeypatch):
        monkeypatch.setattr(dispatch, "FOLLOW_S", 60.0)
        with connection.cursor() as cursor:
            cursor.execute("UPDATE delivery SET lane = 3 - lane WHERE id = %s", [line[1].id])
        dispatch.deliver([line[0].id])
        assert len(wire.requests) == 1
        assert rung == [line[1].id]

    def test_a_failure_hands_the_line_on(self, line, wire, rung, monkeypatch):
        monkeypatch.setattr(dispatch, "FOLLOW_S", 60.0)
        wire.answer = lambda provider, request: REFUSED
        dispatch.deliver([line[0].id])
        assert (len(wire.requests), rung) == (1, [])  # it waits for its retry, and the line with it
        assert reload(line[0]).status == Status.QUEUED


def make_lines(client_id, lines, length):
    """Rows of several lines, straight into the table; returns their ids by line, in order."""
    recipients = [RecipientFactory() for _ in range(lines)]
    made = defaultdict(list)
    with connection.cursor() as cursor:
        for _ in range(length):
            for recipient in recipients:
                (delivery_id,) = delivery_ids(new_notification_id(), 1)
                cursor.execute(
                    "INSERT INTO delivery (id, recipient_id, client_id, channel, lane, status, reason, attempts, fence,"
                    " lapses, next_attempt_at, ring_at, order_hash, order_no)"
                    " VALUES (%s, %s, %s, 2, 2, 1, 0, 0, 0, 0, now(), now(), %s, nextval('delivery_order_no'))",
                    [delivery_id, recipient.id, client_id, KEY],
                )
                made[recipient.id].append(delivery_id)
    return made


def test_workers_at_once_never_take_two_of_a_line_and_keep_the_order(client_row, monkeypatch):
    """Six workers claim whatever there is, again and again; each claim is checked against what is under way."""
    monkeypatch.setattr(doorbell, "ring_deliveries", lambda rows: True)
    made = make_lines(client_row.id, lines=5, length=12)
    everything = [delivery_id for ids in made.values() for delivery_id in ids]
    under_way, finished, guard = set(), defaultdict(list), threading.Lock()
    faults = []

    def work(seed):
        try:
            with connection.cursor() as cursor:
                cursor.execute("SET lock_timeout = '60s'")  # the order is at stake here, not the speed
            while sum(map(len, finished.values())) < len(everything) and not faults:
                mine = claim_deliveries(everything[seed:] + everything[:seed], lease_s=30)
                with guard:
                    for one in mine:
                        if one.recipient_id in under_way:
                            faults.append(f"two of {one.recipient_id} at once")
                        under_way.add(one.recipient_id)
                for one in mine:
                    with guard:
                        finished[one.recipient_id].append(one.id)
                        under_way.discard(one.recipient_id)
                record([Outcome(one, Status.SENT, has_tried=True, provider_id=3) for one in mine])
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, [0, 7, 19, 31, 44, 55]))
    assert faults == []
    assert finished == made
    assert not Delivery.objects.exclude(status=Status.SENT).exists()


def set_key(delivery, key):
    with connection.cursor() as cursor:
        cursor.execute("UPDATE delivery SET order_hash = %s WHERE id = %s", [key, delivery.id])


def is_anybody_waiting_for_a_line():
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)")
        return cursor.fetchone()[0]


def test_two_workers_that_look_at_the_same_moment_do_not_both_take_one(line, monkeypatch):
    """An earlier one appears after one worker has chosen and before it has claimed; another worker comes for it."""
    first, second, _ = line
    set_key(first, None)
    has_chosen, may_claim = threading.Event(), threading.Event()
    real = ordering._pick

    def pick(ids):
        chosen = real(ids)
        if ids == [second.id]:
            has_chosen.set()
            assert may_claim.wait(10)
        return chosen

    monkeypatch.setattr(ordering, "_pick", pick)  # to stand still between choosing and claiming

    def work(delivery):
        try:
            return claimed_ids(delivery)
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(work, second)
        assert has_chosen.wait(10)
        set_key(first, KEY)
        late = pool.submit(work, first)
        while not (late.done() or is_anybody_waiting_for_a_line()):
            pass
        may_claim.set()
        assert slow.result(10) == [second.id]
        assert late.result(10) == []

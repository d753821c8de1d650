"""Broadcasts from the order to the last recorded delivery, on the real database and broker."""

import threading
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.db.utils import OperationalError

from apps.channels import Channel
from apps.delivery.broadcasts import chunks, ending, keeping, pumping
from apps.delivery.broadcasts.chunks import MAX_LAPSES, deliver_chunk
from apps.delivery.broadcasts.ending import Ending, end_chunk
from apps.delivery.broadcasts.models import Broadcast, Chunk, ChunkState, Pump, State
from apps.delivery.broadcasts.progress import progress
from apps.delivery.ids import broadcast_number_of
from apps.delivery.models import Attempt, Delivery
from apps.delivery.statuses import Reason, Status
from apps.preferences.models import Category
from apps.preferences.policy import Reason as PolicyReason
from apps.preferences.quiet_hours import EVERY_DAY, Window
from apps.preferences.services import (
    deactivate_device,
    erase_recipient,
    suppress_address,
    update_preferences,
)
from tests.delivery.broadcasts import (
    claim,
    counts_of,
    deliver_all,
    make_broadcast,
    make_people,
    plan,
    run_messages,
    send_rows,
    shift,
    state_of,
    take_messages,
)
from tests.delivery.conftest import ACCEPTED, NEVER_LEFT, REFUSED
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db


def let_leases_run_out():
    shift("broadcast_chunk", "lease_until", 60)


@pytest.mark.parametrize("channel", Channel)
def test_order_reaches_everybody_and_completes(client_row, wire, channel):
    people = make_people(7)
    broadcast = make_broadcast(client_row, channels=(channel,), chunk_size=3)
    run_messages()
    assert len(wire.addresses) == 7
    rows = Delivery.objects.all()
    assert {row.recipient_id for row in rows} == {person.id for person in people}
    assert {(row.status, row.attempts, row.client_id, row.ring_at) for row in rows} == {
        (Status.SENT, 1, client_row.id, None)
    }
    assert {broadcast_number_of(row.id) for row in rows} == {broadcast.number}
    broadcast.refresh_from_db()
    assert broadcast.state == State.COMPLETED
    assert broadcast.finished_at is not None
    figures = progress(broadcast)
    assert (figures.done, figures.counts, figures.chunks_waiting) == (7, {Status.SENT: 7}, 0)


def test_each_device_and_channel_is_a_delivery_of_its_own(client_row, wire):
    """Also where the numbers of a recipient and of another's device are the same."""
    people = [RecipientFactory(devices=[f"a-{number}", f"b-{number}"]) for number in range(5)]
    broadcast = make_broadcast(client_row, channels=tuple(Channel))
    run_messages()
    assert counts_of(broadcast) == {"sent": 5 * 4}
    by_channel = {channel: Delivery.objects.filter(channel=channel).count() for channel in Channel}
    assert by_channel == {Channel.PUSH: 10, Channel.SMS: 5, Channel.EMAIL: 5}
    assert {row.recipient_id for row in Delivery.objects.all()} == {person.id for person in people}


def test_what_was_said_after_planning_is_obeyed(client_row, wire):
    willing, opted_out, no_push, no_mail, erased, gone = make_people(6)
    make_broadcast(client_row, channels=(Channel.PUSH, Channel.EMAIL))
    plan()
    update_preferences(user_id=opted_out.user_id, is_opted_out=True)
    update_preferences(user_id=no_push.user_id, channels={Channel.PUSH: False})
    suppress_address(channel=Channel.EMAIL, user_id=no_mail.user_id, source="test", reason="bounced")
    erase_recipient(user_id=erased.user_id)
    now = datetime.now(UTC)
    deactivate_device(device_id=gone.devices.get().id, dead_since=now + timedelta(minutes=1), reason="gone")
    run_messages()
    names = {person.id: name for name, person in locals().items() if hasattr(person, "user_id")}
    said = {
        (names[row.recipient_id], Channel(row.channel).label): (Status(row.status).label, row.reason)
        for row in Delivery.objects.all()
    }
    sent = ("sent", 0)
    assert said == {
        ("willing", "push"): sent,
        ("willing", "email"): sent,
        ("opted_out", "push"): ("suppressed", PolicyReason.GLOBAL_OPT_OUT),
        ("opted_out", "email"): ("suppressed", PolicyReason.GLOBAL_OPT_OUT),
        ("no_push", "push"): ("suppressed", PolicyReason.CHANNEL_OPT_OUT),
        ("no_push", "email"): sent,
        ("no_mail", "push"): sent,
        ("no_mail", "email"): ("suppressed", PolicyReason.ADDRESS_SUPPRESSED),
        ("erased", "push"): ("suppressed", PolicyReason.RECIPIENT_ERASED),
        ("erased", "email"): ("suppressed", PolicyReason.RECIPIENT_ERASED),
        ("gone", "push"): ("suppressed", PolicyReason.NO_ADDRESS),
        ("gone", "email"): sent,
    }


def test_quiet_hours_put_it_off_as_a_row(client_row, wire):
    _, asleep = make_people(2)
    now = datetime.now(UTC)
    start = (now.hour * 60 + now.minute - 60) % 1440
    quiet = (Window(EVERY_DAY, start, (start + 180) % 1440),)
    update_preferences(user_id=asleep.user_id, time_zone="UTC", quiet_hours=quiet)
    broadcast = make_broadcast(client_row)
    run_messages()
    row = Delivery.objects.get(recipient_id=asleep.id)
    assert (row.status, row.reason, row.attempts) == (Status.QUEUED, PolicyReason.QUIET_HOURS, 0)
    assert timedelta(minutes=100) < row.ring_at - now < timedelta(minutes=140)
    assert state_of(broadcast) == State.RUNNING  # not completed while somebody waits
    update_preferences(user_id=asleep.user_id, quiet_hours=())
    send_rows()
    run_messages()
    assert counts_of(broadcast) == {"sent": 2}
    assert state_of(broadcast) == State.COMPLETED


def test_cap_counts_a_broadcast_once(client_row, wire):
    Category.objects.filter(key="marketing").update(cap_limit=1, cap_period_s=3600, cap_rule="suppress")
    RecipientFactory(devices=["one", "two"])
    for expected in ({"sent": 2}, {"suppressed": 2}):
        broadcast = make_broadcast(client_row, category="marketing")
        run_messages()
        assert counts_of(broadcast) == expected


def test_failure_becomes_a_row_that_is_tried_again(client_row, wire):
    make_people(3)
    wire.answer = lambda provider, request: REFUSED
    broadcast = make_broadcast(client_row)
    run_messages()
    assert counts_of(broadcast) == {"queued": 3}
    assert Attempt.objects.count() == 3
    assert state_of(broadcast) == State.RUNNING
    wire.answer = lambda provider, request: ACCEPTED[provider]
    send_rows()
    assert counts_of(broadcast) == {"sent": 3}
    assert {row.attempts for row in Delivery.objects.all()} == {2}
    run_messages()
    assert state_of(broadcast) == State.COMPLETED


def test_what_no_provider_could_be_given_stays_in_the_chunk(client_row, wire, settings):
    people = make_people(4)
    routes, settings.ROUTES = settings.ROUTES, {**settings.ROUTES, "push": []}
    broadcast = make_broadcast(client_row)
    run_messages()
    assert Delivery.objects.count() == 0
    chunk = Chunk.objects.get()
    assert (chunk.state, chunk.recipient_ids) == (ChunkState.WAITING, [person.id for person in people])
    assert claim() is None  # not at once
    settings.ROUTES = routes
    shift("broadcast_chunk", "lease_until", 100)
    run_messages()
    assert counts_of(broadcast) == {"sent": 4}
    assert (Chunk.objects.get().lapses, state_of(broadcast)) == (0, State.COMPLETED)


def test_person_begun_with_is_not_put_back(client_row, wire, settings):
    """Of two devices one has had it: the other waits as a row, or the first would have it twice."""
    RecipientFactory(devices=[("first", "android"), ("second", "ios")])
    settings.ROUTES = {**settings.ROUTES, "push:ios": []}
    broadcast = make_broadcast(client_row)
    run_messages()
    assert counts_of(broadcast) == {"sent": 1, "queued": 1}
    assert Chunk.objects.get().state == ChunkState.DONE


class Killed(BaseException):
    """A worker dies: nothing of it runs any more."""


STEPS = ("select_sources", "load_snapshots_by_id", "make_candidates", "sift", "end_chunk", "report", "retire_addresses")


@pytest.mark.parametrize("step", STEPS)
def test_worker_that_dies_loses_nothing(client_row, wire, monkeypatch, step):
    """What is sent twice is at most the chunk that was in its hands when it died."""
    make_people(9)
    broadcast = make_broadcast(client_row, chunk_size=3)
    plan()

    def die(*arguments, **options):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(chunks, step, die)
        with pytest.raises(Killed):
            deliver_chunk(claim())
    wire_again = len(wire.addresses)
    rows_before = Delivery.objects.count()
    assert rows_before == (3 if step in ("report", "retire_addresses") else 0)
    let_leases_run_out()
    run_messages()
    assert counts_of(broadcast) == {"sent": 9}
    assert sorted(set(wire.addresses)) == sorted(wire.addresses[wire_again:] if rows_before == 0 else wire.addresses)
    assert len(wire.addresses) == 9 + (3 if step == "end_chunk" else 0)
    assert state_of(broadcast) == State.COMPLETED


def test_worker_that_dies_while_it_writes_leaves_no_half(client_row, wire, monkeypatch):
    make_people(3)
    broadcast = make_broadcast(client_row)
    plan()
    insert = ending.insert_outcomes

    def insert_and_die(*arguments, **options):
        insert(*arguments, **options)
        raise Killed

    monkeypatch.setattr(ending, "insert_outcomes", insert_and_die)
    with pytest.raises(Killed):
        deliver_chunk(claim())
    monkeypatch.setattr(ending, "insert_outcomes", insert)
    assert Delivery.objects.count() == 0
    assert Chunk.objects.get().state == ChunkState.CLAIMED
    let_leases_run_out()
    run_messages()
    assert counts_of(broadcast) == {"sent": 3}


def test_database_away_between_sending_and_writing_is_waited_for(client_row, wire, monkeypatch):
    make_people(3)
    broadcast = make_broadcast(client_row)
    plan()
    end, failures = chunks.end_chunk, iter([OperationalError("away"), OperationalError("away")])

    def fail_twice(*arguments):
        for failure in failures:
            raise failure
        return end(*arguments)

    monkeypatch.setattr(chunks, "end_chunk", fail_twice)
    monkeypatch.setattr(chunks, "RETRY_S", 0.0)
    monkeypatch.setattr(connection, "close", lambda: None)  # the test's transaction lives on it
    assert deliver_chunk(claim())
    assert counts_of(broadcast) == {"sent": 3}
    assert len(wire.addresses) == 3


def test_bug_leaves_the_chunk_and_costs_it_a_lapse(client_row, wire, monkeypatch):
    make_people(2)
    broadcast = make_broadcast(client_row)
    plan()
    with monkeypatch.context() as patch:
        patch.setattr(chunks, "sift", lambda *arguments: 1 / 0)
        assert deliver_chunk(claim()) is False
    chunk = Chunk.objects.get()
    assert (chunk.state, chunk.lapses, len(chunk.recipient_ids)) == (ChunkState.WAITING, 1, 2)
    assert claim() is None
    let_leases_run_out()
    deliver_all()
    assert counts_of(broadcast) == {"sent": 2}


def test_bug_after_sending_records_what_was_answered(client_row, wire, monkeypatch):
    make_people(2)
    broadcast = make_broadcast(client_row)
    plan()
    monkeypatch.setattr(chunks, "_end", lambda *arguments: 1 / 0)
    deliver_chunk(claim())
    assert counts_of(broadcast) == {"sent": 2}
    assert Chunk.objects.get().state == ChunkState.DONE


def test_one_who_kills_workers_is_found_and_the_others_get_it(client_row, wire, monkeypatch):
    people = make_people(9)
    poison = people[4].id
    broadcast = make_broadcast(client_row)
    plan()
    load = chunks.load_snapshots_by_id

    def die_of_one(ids, channel):
        if poison in ids:
            raise Killed
        return load(ids, channel)

    monkeypatch.setattr(chunks, "load_snapshots_by_id", die_of_one)
    deaths = 0
    while (chunk := claim()) is not None:
        try:
            deliver_chunk(chunk)
        except Killed:
            deaths += 1
        let_leases_run_out()
    assert counts_of(broadcast) == {"sent": 8, "dead": 1}
    assert deaths <= MAX_LAPSES + 5
    dead = Delivery.objects.get(status=Status.DEAD)
    assert (dead.recipient_id, dead.reason) == (poison, Reason.POISON)
    assert len(wire.addresses) == 8
    keeping.keep()
    assert state_of(broadcast) == State.COMPLETED


def test_whoever_lost_the_chunk_writes_nothing(client_row, wire):
    make_people(3)
    broadcast = make_broadcast(client_row)
    plan()
    slow = claim()
    let_leases_run_out()
    quick = claim()
    assert (quick.no, quick.fence, quick.lapses) == (slow.no, slow.fence + 1, 1)
    assert deliver_chunk(quick)
    before = list(Delivery.objects.order_by("id").values())
    wire.answer = lambda provider, request: NEVER_LEFT
    deliver_chunk(slow)
    assert list(Delivery.objects.order_by("id").values()) == before
    assert not end_chunk(slow, Ending([]))
    assert not end_chunk(slow, Ending([], slow.recipient_ids))
    assert state_of(broadcast) == State.RUNNING


@pytest.mark.django_db(transaction=True)
def test_two_pumps_at_once_share_the_chunks(client_row, wire):
    make_people(60)
    broadcast = make_broadcast(client_row, chunk_size=3)
    plan()
    pumping.ring_workers()
    messages = [arguments for task, arguments in take_messages("notif.push.bulk") if task == "notify.broadcast"]
    assert len(messages) == pumping.HANGING
    barrier = threading.Barrier(4)

    def work(arguments):
        try:
            barrier.wait(10)
            pumping.pump(Channel(arguments[0]), *arguments[1:])
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=[arguments]) for arguments in messages[:4]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for _ in range(5):  # a pump's turn is short, and the machine may be slow
        run_messages()
    assert counts_of(broadcast) == {"sent": 60}
    assert len(wire.addresses) == len(set(wire.addresses)) == 60


def test_pump_rung_twice_has_one_turn(client_row, wire, monkeypatch):
    make_people(4)
    make_broadcast(client_row, chunk_size=1)
    plan()
    monkeypatch.setattr(pumping, "TURN_S", 0.0)
    assert pumping.ring_workers() == 4
    assert pumping.ring_workers() == 0  # there are enough
    messages = take_messages("notif.push.bulk")
    assert [arguments for _, arguments in messages] == [[1, slot, 0] for slot in range(4)]
    pumping.pump(Channel.PUSH, 0, 0)
    assert take_messages("notif.push.bulk") == [("notify.broadcast", [1, 0, 1])]
    pumping.pump(Channel.PUSH, 0, 0)
    assert take_messages("notif.push.bulk") == []


def test_lost_pump_is_rung_again(client_row, monkeypatch):
    make_people(1)
    make_broadcast(client_row)
    plan()
    monkeypatch.setattr(pumping, "queue_depth", lambda queue: 100)  # others' doorbells
    assert pumping.ring_workers() == 1
    take_messages("notif.push.bulk")
    assert pumping.ring_workers() == 0
    shift("broadcast_pump", "rung_at", pumping.RING_AGAIN_S + 1)
    assert pumping.ring_workers() == 1
    assert take_messages("notif.push.bulk") == [("notify.broadcast", [1, 0, 0])]


def test_idle_workers_get_more_pumps(client_row):
    make_people(4)
    make_broadcast(client_row, chunk_size=1)
    plan()
    assert pumping.ring_workers() == 4
    take_messages("notif.push.bulk")  # all of them are at work, and nothing hangs
    assert pumping.ring_workers() == 4
    assert [arguments for _, arguments in take_messages("notif.push.bulk")] == [[1, slot, 0] for slot in range(4, 8)]


def test_without_work_pumps_end(client_row, wire):
    make_people(2)
    make_broadcast(client_row)
    run_messages()
    assert not Pump.objects.exclude(rung_at=None).exists()
    assert pumping.ring_pumps() == 0
    assert take_messages("notif.fanout", "notif.push.bulk") == []


def test_order_survives_a_broker_that_is_away(client_row, wire, monkeypatch):
    make_people(2)
    with monkeypatch.context() as patch:
        patch.setattr(pumping, "ring", lambda *arguments: False)
        broadcast = make_broadcast(client_row)
        pumping.ring_pumps()
        plan()
        assert pumping.ring_workers() == 0
    run_messages()
    assert counts_of(broadcast) == {"sent": 2}


def test_counts_of_a_chunk_are_those_of_its_rows(client_row, wire):
    _, opted_out = make_people(2)
    update_preferences(user_id=opted_out.user_id, is_opted_out=True)
    make_broadcast(client_row)
    run_messages()
    chunk = Chunk.objects.get()
    assert (chunk.counts, chunk.recipient_ids, chunk.recipients) == ({"sent": 1, "suppressed": 1}, None, 2)
    assert Broadcast.objects.get().recipients == 2

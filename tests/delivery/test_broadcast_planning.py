import threading
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from apps.channels import Channel
from apps.delivery.broadcasts import planning
from apps.delivery.broadcasts.models import Chunk, State
from apps.delivery.broadcasts.orders import SendWindow
from apps.preferences.models import Recipient
from apps.preferences.services import erase_recipient, upsert_recipient
from tests.delivery.broadcasts import make_broadcast, make_people, plan, state_of
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db


def chunks_of(broadcast, **conditions):
    return list(Chunk.objects.filter(broadcast_number=broadcast.number, **conditions).order_by("no"))


def ids_in(chunks):
    return [recipient_id for chunk in chunks for recipient_id in chunk.recipient_ids]


def test_everybody_is_in_one_chunk_in_order(client_row):
    people = make_people(25)
    broadcast = make_broadcast(client_row, chunk_size=10)
    plan()
    chunks = chunks_of(broadcast)
    assert [chunk.recipients for chunk in chunks] == [10, 10, 5]
    assert ids_in(chunks) == [person.id for person in people]
    broadcast.refresh_from_db()
    assert (broadcast.recipients, broadcast.is_planned, broadcast.state) == (25, True, State.RUNNING)
    assert broadcast.started_at.microsecond % 1000 == 0


def test_each_channel_has_chunks_of_those_it_reaches(client_row):
    on_all = make_people(3)
    no_device = RecipientFactory(devices=[])
    no_phone = RecipientFactory(phone=None)
    erased = RecipientFactory()
    erase_recipient(user_id=erased.user_id)
    broadcast = make_broadcast(client_row, channels=tuple(Channel))
    plan()
    everybody = {person.id for person in on_all} | {no_device.id, no_phone.id}
    reached = {channel: set(ids_in(chunks_of(broadcast, channel=channel))) for channel in Channel}
    assert reached == {
        Channel.PUSH: everybody - {no_device.id},
        Channel.SMS: everybody - {no_phone.id},
        Channel.EMAIL: everybody,
    }
    broadcast.refresh_from_db()
    assert broadcast.recipients == 4 + 4 + 5


def test_audience_is_kept_to(client_row):
    people = make_people(6)
    chosen = [people[1].user_id, people[4].user_id]
    broadcast = make_broadcast(client_row, audience={"user_ids": [*chosen, "nobody"]})
    plan()
    assert ids_in(chunks_of(broadcast)) == [people[1].id, people[4].id]


def test_nobody_is_an_audience_too(client_row):
    broadcast = make_broadcast(client_row)
    plan()
    assert chunks_of(broadcast) == []
    assert state_of(broadcast) == State.RUNNING


def test_mail_goes_in_larger_chunks_and_a_rate_in_smaller_ones(client_row):
    make_people(30)
    cases = {
        (Channel.PUSH, None): [10, 10, 10],
        (Channel.EMAIL, None): [20, 10],
        (Channel.PUSH, 12): [6] * 5,
        (Channel.PUSH, 1): [1] * 30,
        (Channel.EMAIL, 1_000): [20, 10],
    }
    for (channel, rate), sizes in cases.items():
        broadcast = make_broadcast(client_row, chunk_size=10, channels=(channel,), rate_per_s=rate)
        plan()
        assert [chunk.recipients for chunk in chunks_of(broadcast)] == sizes


@pytest.mark.parametrize(
    ("people", "share", "expected"), [(100, 0.1, 10), (100, 0.013, 2), (7, 0.01, 1), (40, 1.0, 40)]
)
def test_canary_is_its_share_evenly_spread_and_at_least_one(client_row, people, share, expected):
    ids = [person.id for person in make_people(people)]
    broadcast = make_broadcast(client_row, canary_share=share, chunk_size=20)
    plan()
    canary = sorted(ids_in(chunks_of(broadcast, is_canary=True)))
    assert len(canary) == expected
    assert sorted(ids_in(chunks_of(broadcast))) == ids
    gaps = [ids.index(after) - ids.index(before) for before, after in pairwise(canary)]
    assert max(gaps, default=0) <= 1 / share + 1
    assert state_of(broadcast) == State.CANARY


def test_what_is_not_due_is_left_alone(client_row):
    make_people(1)
    now = datetime.now(UTC)
    later = make_broadcast(client_row, send_at=now + timedelta(hours=1))
    an_hour_ago, in_an_hour = (f"{now + timedelta(hours=hours):%H:%M}" for hours in (-1, 1))
    closed = make_broadcast(client_row, send_window=SendWindow(in_an_hour, an_hour_ago, "UTC"))
    opened = make_broadcast(client_row, send_window=SendWindow(an_hour_ago, in_an_hour, "UTC"), send_at=now)
    plan()
    assert [state_of(one) for one in (later, closed, opened)] == [State.SCHEDULED, State.SCHEDULED, State.RUNNING]


def test_a_walk_goes_on_where_it_was(client_row, monkeypatch):
    """Whatever step a planner dies in, the next one leaves nobody out and takes nobody twice."""
    people = make_people(30)
    monkeypatch.setattr(planning, "STRETCH", 7)
    monkeypatch.setattr(planning, "MAX_STRETCH", 7)
    broadcast = make_broadcast(client_row, chunk_size=4, channels=(Channel.PUSH, Channel.EMAIL))
    cut, calls = planning._cut, iter(range(1_000))

    def cut_or_die(*arguments):
        if next(calls) % 3 == 2:
            raise KeyboardInterrupt  # what kills a worker is no Exception
        return cut(*arguments)

    monkeypatch.setattr(planning, "_cut", cut_or_die)
    for _ in range(200):
        try:
            plan()
        except KeyboardInterrupt:
            continue
        break
    ids = [person.id for person in people]
    assert ids_in(chunks_of(broadcast, channel=Channel.PUSH)) == ids
    assert ids_in(chunks_of(broadcast, channel=Channel.EMAIL)) == ids
    broadcast.refresh_from_db()
    assert broadcast.recipients == 60


def test_planning_stops_while_paused(client_row, monkeypatch):
    make_people(20)
    monkeypatch.setattr(planning, "STRETCH", 5)
    monkeypatch.setattr(planning, "MAX_STRETCH", 5)
    broadcast = make_broadcast(client_row, chunk_size=5)
    planner = planning.Planner()
    while not chunks_of(broadcast):
        planner.step_each()
    cut = planning._cut

    def pause_meanwhile(*arguments):
        found = cut(*arguments)
        type(broadcast).objects.filter(id=broadcast.id).update(state=State.PAUSED)
        return found

    monkeypatch.setattr(planning, "_cut", pause_meanwhile)
    before = len(chunks_of(broadcast))
    assert planner.step_each() is False
    assert len(chunks_of(broadcast)) == before  # its own work taken back
    assert planner.step_each() is False


@pytest.mark.django_db(transaction=True)
def test_two_planners_at_once_share_the_work(client_row, monkeypatch):
    people = make_people(60)
    monkeypatch.setattr(planning, "STRETCH", 5)
    monkeypatch.setattr(planning, "MAX_STRETCH", 5)
    broadcasts = [make_broadcast(client_row, chunk_size=3) for _ in range(2)]
    barrier = threading.Barrier(3)

    def work():
        try:
            barrier.wait(10)
            for _ in range(60):
                planning.Planner().step_each()
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for broadcast in broadcasts:
        assert ids_in(chunks_of(broadcast)) == [person.id for person in people]
        broadcast.refresh_from_db()
        assert (broadcast.is_planned, broadcast.recipients) == (True, 60)


def make_rows(count):
    """Recipients with a device each, by the shortest way: their tokens are nobody's."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO preferences_recipient (user_id) SELECT 'row-' || n FROM generate_series(1, %s) AS n", [count]
        )
        cursor.execute(
            "INSERT INTO preferences_device (recipient_id, platform, token_ct, token_bi) "
            "SELECT id, 'android', '', sha256(user_id::bytea) FROM preferences_recipient"
        )


def test_a_hundred_thousand_people_take_few_statements(client_row):
    make_rows(100_000)
    broadcast = make_broadcast(client_row)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        plan()
    assert len(queries) < 40
    assert sum(chunk.recipients for chunk in chunks_of(broadcast)) == 100_000
    assert len(chunks_of(broadcast)) < 210


def test_a_rare_audience_is_looked_for_in_longer_strides(client_row):
    """Ids far apart are no reason for a step for each hundred thousand."""
    upsert_recipient(user_id="first", email="first@example.com")
    Recipient.objects.filter(user_id="first").update(id=900_000_000)
    broadcast = make_broadcast(client_row, channels=(Channel.EMAIL,))
    with CaptureQueriesContext(connection) as queries:
        plan()
    assert ids_in(chunks_of(broadcast)) == [900_000_000]
    assert len(queries) < 400

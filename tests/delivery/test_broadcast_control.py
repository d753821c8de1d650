"""Whose turn it is, how fast, and what stops a broadcast."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import uuid4

import pytest
from django.db import connection

from apps import yielding
from apps.channels import Channel
from apps.clients.models import Client
from apps.delivery.broadcasts import keeping, retention, services
from apps.delivery.broadcasts import progress as progressing
from apps.delivery.broadcasts.chunks import deliver_chunk
from apps.delivery.broadcasts.models import Broadcast, Chunk, ChunkState, State
from apps.delivery.broadcasts.orders import SendWindow
from apps.delivery.broadcasts.progress import progress
from apps.delivery.models import Delivery
from apps.delivery.statuses import Reason, Status
from apps.problems import Problem
from apps.providers.messages import ProviderResponse
from tests.clients.factories import make_client
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
from tests.delivery.conftest import ACCEPTED, REFUSED

pytestmark = pytest.mark.django_db
UNREGISTERED = ProviderResponse(
    404,
    {"content-type": "application/json"},
    b'{"error": {"code": 404, "status": "NOT_FOUND", "details": [{"@type": '
    b'"type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": "UNREGISTERED"}]}}',
)


def refuse(*addresses):
    """Answers of a provider that is busy for these addresses."""

    def answer(provider, request):
        return REFUSED if request.messages[0].address in addresses else ACCEPTED[provider]

    return answer


def let_time_pass(seconds):
    for table, column in (("broadcast", "next_chunk_at"), ("broadcast_chunk", "lease_until")):
        shift(table, column, seconds)


# --- Turns ------------------------------------------------------------------------------------------------------------


def test_small_broadcast_does_not_wait_for_a_large_one(client_row):
    """A hundred thousand of one team and a thousand of another, which comes second."""
    make_people(100)
    large = make_broadcast(client_row, chunk_size=1)
    plan()
    for _ in range(40):
        claim()
    small = make_broadcast(make_client(), chunk_size=20)
    plan()
    order = [claim().number for _ in range(20)]
    assert order.index(small.number) <= 1
    # 100 recipients at 20 a turn: while the small one has work it has half of everything.
    claimed = Chunk.objects.filter(state=ChunkState.CLAIMED)
    recipients = {
        one.number: sum(claimed.filter(broadcast_number=one.number).values_list("recipients", flat=True))
        for one in (large, small)
    }
    assert recipients[small.number] >= recipients[large.number] - 40 - 20


def test_clients_share_by_weight(client_row):
    make_people(60)
    heavy = make_client()
    Client.objects.filter(id=heavy.id).update(weight=3)
    theirs = make_broadcast(heavy, chunk_size=1)
    others = [make_broadcast(client_row, chunk_size=1) for _ in range(3)]
    plan()
    order = [claim().number for _ in range(80)]
    assert 55 <= order.count(theirs.number) <= 60
    assert all(order.count(one.number) >= 5 for one in others)


def test_a_rate_is_kept(client_row):
    make_people(30)
    broadcast = make_broadcast(client_row, rate_per_s=10)
    plan()
    sizes = []
    for _ in range(6):  # a second, in tenths
        while (chunk := claim()) is not None:
            sizes.append(chunk.recipients if hasattr(chunk, "recipients") else len(chunk.recipient_ids))
        let_time_pass(0.5)
    assert sizes == [5] * 6  # 5 each half second
    assert broadcast.rate_per_s == 10


def test_a_pause_between_pumps_is_made_up_for_but_for_a_second_only(client_row):
    make_people(100)
    make_broadcast(client_row, rate_per_s=10)
    plan()
    claim()
    let_time_pass(3_600)
    taken = 0
    while claim() is not None:
        taken += 1
    assert taken <= 3  # half a second's each: what the second of credit allows, and one


def test_closed_window_holds_the_chunks(client_row):
    make_people(2)
    broadcast = make_broadcast(client_row)
    plan()
    now = datetime.now(UTC)
    ago, ahead = (f"{now + timedelta(hours=hours):%H:%M}" for hours in (-1, 1))
    Broadcast.objects.filter(id=broadcast.id).update(send_window=SendWindow(ahead, ago, "UTC").store())
    assert claim() is None
    Broadcast.objects.filter(id=broadcast.id).update(send_window=SendWindow(ago, ahead, "UTC").store())
    assert claim() is not None


# --- Canary and errors ------------------------------------------------------------------------------------------------


def test_only_the_canary_goes_first_and_then_the_others(client_row, wire):
    make_people(20)
    broadcast = make_broadcast(client_row, canary_share=0.1, max_error_rate=0.5)
    plan()
    assert deliver_all() == 1
    assert (len(wire.addresses), state_of(broadcast)) == (2, State.CANARY)
    assert progress(Broadcast.objects.get()).canary == "going"
    run_messages()
    assert (counts_of(broadcast), state_of(broadcast)) == ({"sent": 20}, State.COMPLETED)
    assert progress(Broadcast.objects.get()).canary == "over"


def test_bad_canary_halts_it_and_a_person_lets_it_go_on(client_row, wire):
    make_people(20)
    wire.answer = lambda provider, request: REFUSED
    broadcast = make_broadcast(client_row, canary_share=0.1, max_error_rate=0.5)
    run_messages()
    broadcast.refresh_from_db()
    assert (broadcast.state, broadcast.state_reason) == (State.HALTED, "2 of 2 deliveries of the canary failed")
    assert len(wire.addresses) == 2
    figures = progress(broadcast)
    assert (figures.canary, figures.halted_reason) == ("halted", broadcast.state_reason)
    send_rows()
    assert len(wire.addresses) == 2  # its rows wait too
    wire.answer = lambda provider, request: ACCEPTED[provider]
    services.resume(broadcast.id)
    run_messages()
    send_rows()
    run_messages()
    assert (counts_of(broadcast), state_of(broadcast)) == ({"sent": 20}, State.COMPLETED)


def test_canary_within_its_limit_goes_on(client_row, wire):
    people = make_people(20)
    broadcast = make_broadcast(client_row, canary_share=0.5, max_error_rate=0.2)
    plan()
    canary = Chunk.objects.get(is_canary=True).recipient_ids
    tokens = {person.id: f"token-{person.user_id.removeprefix('person-')}" for person in people}
    wire.answer = refuse(tokens[canary[0]])
    deliver_all()
    keeping.keep()
    assert state_of(broadcast) == State.RUNNING


def test_broadcast_yields_while_it_sends_and_no_longer(client_row, wire, monkeypatch):
    monkeypatch.setattr(yielding, "_pace", SimpleNamespace(multiple=lambda now: 1.0))
    pauses = []
    wire.answer = lambda provider, request: pauses.append(yielding.pause_s()) or ACCEPTED[provider]
    make_people(3)
    make_broadcast(client_row)
    plan()
    deliver_all()
    assert len(wire.addresses) == 3
    assert pauses[0] > 0
    assert yielding.pause_s() == 0


def test_canary_without_a_result_halts(client_row):
    make_people(10)
    broadcast = make_broadcast(client_row, canary_share=0.1, max_error_rate=0.5)
    plan()
    keeping.keep()
    assert state_of(broadcast) == State.CANARY
    shift("broadcast", "state_since", keeping.CANARY_WAIT.total_seconds() + 1)
    keeping.keep()
    assert state_of(broadcast) == State.HALTED


def test_too_many_errors_on_the_way_halt_it(client_row, wire):
    make_people(200)
    broadcast = make_broadcast(client_row, chunk_size=20, max_error_rate=0.3)
    plan()
    deliver_chunk(claim())
    deliver_chunk(claim())
    assert state_of(broadcast) == State.RUNNING
    wire.answer = lambda provider, request: REFUSED
    for _ in range(10):
        chunk = claim()
        if chunk is None:
            break
        deliver_chunk(chunk)
    broadcast.refresh_from_db()
    assert broadcast.state == State.HALTED
    assert broadcast.state_reason == "33.5 % of the latest deliveries failed"
    assert claim() is None
    assert counts_of(broadcast) == {"sent": 40, "queued": 20}
    assert progress(broadcast).error_rate == pytest.approx(0.335, abs=0.001)


def test_few_errors_of_few_do_not_halt_it(client_row, wire):
    make_people(10)
    wire.answer = lambda provider, request: REFUSED
    broadcast = make_broadcast(client_row, max_error_rate=0.1)
    plan()
    deliver_all()
    assert state_of(broadcast) == State.RUNNING


# --- Pause, resume, cancel --------------------------------------------------------------------------------------------


def test_paused_broadcast_sends_nothing_till_it_is_resumed(client_row, wire):
    make_people(6)
    broadcast = make_broadcast(client_row, chunk_size=2)
    plan()
    deliver_chunk(claim())
    taken = claim()
    services.pause(broadcast.id, client_id=client_row.id, reason="wrong link")
    assert deliver_chunk(taken) is False  # claimed, not yet handed to a provider
    assert claim() is None
    run_messages()
    assert len(wire.addresses) == 2
    assert Broadcast.objects.get().state_reason == "wrong link"
    services.resume(broadcast.id, client_id=client_row.id)
    run_messages()
    assert counts_of(broadcast) == {"sent": 6}
    assert Chunk.objects.exclude(lapses=0).count() == 0


def test_paused_broadcast_holds_its_rows(client_row, wire):
    make_people(2)
    wire.answer = lambda provider, request: REFUSED
    broadcast = make_broadcast(client_row)
    run_messages()
    services.pause(broadcast.id)
    wire.answer = lambda provider, request: ACCEPTED[provider]
    before = len(wire.addresses)
    send_rows()
    assert len(wire.addresses) == before
    assert {row.reason for row in Delivery.objects.all()} == {Reason.BROADCAST_PAUSED}
    services.resume(broadcast.id)
    assert Delivery.objects.filter(ring_at__gt=datetime.now(UTC)).count() == 0  # due at once
    send_rows()
    assert counts_of(broadcast) == {"sent": 2}


def test_pause_before_it_began_keeps_it_from_beginning(client_row):
    make_people(1)
    broadcast = make_broadcast(client_row)
    services.pause(broadcast.id)
    run_messages()
    assert Chunk.objects.count() == 0
    services.resume(broadcast.id)
    assert state_of(broadcast) == State.SCHEDULED
    plan()
    assert state_of(broadcast) == State.RUNNING


def test_cancelled_broadcast_is_over(client_row, wire):
    """What has left has left; rows that wait and people whose turn had not come get nothing."""
    make_people(7)
    broadcast = make_broadcast(client_row, chunk_size=2)
    plan()
    deliver_chunk(claim())
    wire.answer = lambda provider, request: REFUSED
    deliver_chunk(claim())
    wire.answer = lambda provider, request: ACCEPTED[provider]
    taken = claim()
    services.cancel(broadcast.id, reason="wrong link")
    assert deliver_chunk(taken) is False
    send_rows()
    before = len(wire.addresses)
    run_messages()
    assert len(wire.addresses) == before
    assert counts_of(broadcast) == {"sent": 2, "cancelled": 2}
    broadcast.refresh_from_db()
    assert (broadcast.state, broadcast.state_reason) == (State.CANCELLED, "wrong link")
    assert broadcast.finished_at is not None
    assert not Chunk.objects.exclude(state=ChunkState.DONE).exists()
    figures = progress(broadcast)
    assert figures.counts == {Status.SENT: 2, Status.CANCELLED: 5}
    assert figures.done == 4


def test_cancelling_takes_its_rows_without_a_worker(client_row, wire):
    make_people(2)
    wire.answer = lambda provider, request: REFUSED
    broadcast = make_broadcast(client_row)
    run_messages()
    services.cancel(broadcast.id)
    keeping.keep()
    assert counts_of(broadcast) == {"cancelled": 2}
    assert {row.reason for row in Delivery.objects.all()} == {Reason.CANCELLED_BY_CLIENT}


@pytest.mark.parametrize(
    ("state", "allowed"),
    [
        (State.SCHEDULED, {"pause", "resume", "cancel"}),
        (State.PLANNING, {"pause", "resume", "cancel", "retry_failed"}),
        (State.CANARY, {"pause", "resume", "cancel", "retry_failed"}),
        (State.RUNNING, {"pause", "resume", "cancel", "retry_failed"}),
        (State.PAUSED, {"pause", "resume", "cancel"}),
        (State.HALTED, {"resume", "cancel"}),
        (State.COMPLETED, {"retry_failed"}),
        (State.CANCELLED, {"cancel"}),
    ],
)
def test_each_state_allows_what_makes_sense_in_it(client_row, state, allowed):
    for name in ("pause", "resume", "cancel", "retry_failed"):
        broadcast = make_broadcast(client_row)
        is_stopped = state in (State.PAUSED, State.HALTED)
        Broadcast.objects.filter(id=broadcast.id).update(state=state, resumes_to=State.RUNNING if is_stopped else None)
        act = getattr(services, name)
        if name in allowed:
            act(broadcast.id)
            moved = state_of(broadcast)
            if name != "retry_failed":
                act(broadcast.id)  # twice is once
                assert state_of(broadcast) == moved
        else:
            with pytest.raises(Problem) as refusal:
                act(broadcast.id)
            assert refusal.value.status_code == 409
            assert state.name.lower() in str(refusal.value.detail)
            assert state_of(broadcast) == state


def test_nobody_touches_anothers_broadcast(client_row):
    broadcast = make_broadcast(client_row)
    stranger = make_client()
    for act in (services.pause, services.resume, services.cancel, services.retry_failed):
        with pytest.raises(Problem) as refusal:
            act(broadcast.id, client_id=stranger.id)
        assert refusal.value.status_code == 404


# --- The end ----------------------------------------------------------------------------------------------------------


def test_what_is_left_when_it_expires_is_not_sent(client_row, wire):
    make_people(6)
    expires_at = datetime.now(UTC) + timedelta(hours=1)
    broadcast = make_broadcast(client_row, chunk_size=2, expires_at=expires_at)
    plan()
    deliver_chunk(claim())
    Broadcast.objects.update(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    assert claim() is None
    keeping.keep()
    keeping.keep()
    broadcast.refresh_from_db()
    assert (broadcast.state, broadcast.state_reason) == (State.COMPLETED, "expired")
    assert progress(broadcast).counts == {Status.SENT: 2, Status.EXPIRED: 4}
    assert len(wire.addresses) == 2


def test_expiry_ends_a_halted_one_too(client_row, wire):
    broadcast = make_broadcast(client_row, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    Broadcast.objects.update(state=State.HALTED, resumes_to=State.RUNNING)
    run_messages()
    assert state_of(broadcast) == State.COMPLETED


def test_only_what_failed_is_tried_again(client_row, wire, settings):
    settings.DELIVERY_MAX_ATTEMPTS = 1
    people = make_people(4)
    busy, gone = (f"token-{person.user_id.removeprefix('person-')}" for person in people[:2])

    def answer(provider, request):
        address = request.messages[0].address
        return REFUSED if address == busy else UNREGISTERED if address == gone else ACCEPTED[provider]

    wire.answer = answer
    broadcast = make_broadcast(client_row)
    run_messages()
    assert counts_of(broadcast) == {"dead": 1, "failed": 1, "sent": 2}
    assert state_of(broadcast) == State.COMPLETED
    wire.answer = lambda provider, request: ACCEPTED[provider]
    assert services.retry_failed(broadcast.id) == 1  # an address that is gone stays so
    assert state_of(broadcast) == State.RUNNING
    assert services.retry_failed(broadcast.id) == 0
    send_rows()
    run_messages()
    assert counts_of(broadcast) == {"failed": 1, "sent": 3}
    assert state_of(broadcast) == State.COMPLETED
    assert wire.addresses.count(busy) == 2


def test_progress_tells_what_is_under_way(client_row, wire):
    make_people(6)
    broadcast = make_broadcast(client_row, chunk_size=2)
    assert progress(broadcast).recipients == 0
    plan()
    deliver_chunk(claim())
    claim()
    broadcast.refresh_from_db()
    figures = progress(broadcast)
    assert (figures.chunks_waiting, figures.chunks_claimed, figures.chunks_done) == (1, 1, 1)
    assert (figures.recipients, figures.done, figures.counts) == (6, 2, {Status.SENT: 2})
    assert figures.rate_per_s == pytest.approx(2, rel=0.5)
    assert figures.eta > figures.as_of


def test_counting_again_waits_for_what_it_cost(client_row, wire, monkeypatch):
    make_people(1)
    broadcast = make_broadcast(client_row)
    run_messages()
    broadcast.refresh_from_db()
    clock = iter([0.0, 2.0, 41.9, 42.1, 42.2])  # a count of 2 s
    monkeypatch.setattr(progressing.time, "monotonic", lambda: next(clock))
    count, calls = progressing._count, []
    monkeypatch.setattr(progressing, "_count", lambda one: calls.append(one) or count(one))
    progress(broadcast)
    progress(broadcast)
    assert len(calls) == 1
    progress(broadcast)
    assert len(calls) == 2


def test_old_broadcasts_go_with_their_log(client_row, wire):
    make_people(2)
    old = make_broadcast(client_row)
    run_messages()
    stuck = make_broadcast(client_row)
    plan()
    fresh = make_broadcast(client_row)
    now = datetime.now(UTC)
    Broadcast.objects.filter(id=stuck.id).update(started_at=now - timedelta(days=30))
    Broadcast.objects.filter(id=old.id).update(
        started_at=now - timedelta(days=40), finished_at=now - timedelta(days=39)
    )
    assert retention.close_stale(now=now, retention_days=30) == 1
    assert state_of(stuck) == State.CANCELLED
    assert retention.forget(now=now, retention_days=30) == 1
    assert set(Broadcast.objects.values_list("id", flat=True)) == {stuck.id, fresh.id}
    assert not Chunk.objects.filter(broadcast_number=old.number).exists()


def copy_of(broadcast: Broadcast) -> Broadcast:
    named = {field.attname for field in Broadcast._meta.concrete_fields} - {"id", "number"}
    return Broadcast(id=uuid4(), **{name: getattr(broadcast, name) for name in named})


def test_claim_reads_its_index_alone(client_row):
    """However many chunks are done, or wait for the canary, a claim touches those that may go."""
    from apps.delivery.broadcasts import claiming  # noqa: PLC0415 - the statement is nobody else's business

    make_people(3)
    make_broadcast(client_row, canary_share=0.5)
    plan()
    over = Broadcast.objects.get()
    over.finished_at = over.created_at
    Broadcast.objects.bulk_create(copy_of(over) for _ in range(300))
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE broadcast")
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(f"EXPLAIN {claiming._CONTENDERS}", {"channel": int(Channel.PUSH)})
        explained = "\n".join(row[0] for row in cursor.fetchall())
    assert "broadcast_chunk_open" in explained
    assert "is_canary >= " in next(line for line in explained.splitlines() if "Index Cond: ((channel = 1)" in line)
    assert "broadcast_open" in explained
    assert take_messages("notif.push.bulk") == []

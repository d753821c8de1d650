"""Rows of broadcasts on the ordinary way: retried, put off, paused, cancelled."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from django.db import connection

from apps.channels import Channel, Lane
from apps.delivery import content, dispatch, sending
from apps.delivery.broadcasts.models import Broadcast, State
from apps.delivery.content import Content
from apps.delivery.ids import broadcast_delivery_id, first_id_at, time_of
from apps.delivery.models import Delivery
from apps.delivery.outcomes import Claim, FailedCall, Outcome, insert_outcomes
from apps.delivery.preparation import Candidate, load_sources, sift
from apps.delivery.statuses import AttemptOutcome, Reason, Status
from apps.preferences import cipher
from apps.preferences.policy import Reason as PolicyReason
from apps.preferences.selectors import load_snapshots, select_versions_by_id
from apps.preferences.services import erase_recipient, update_preferences
from tests.delivery.factories import accept, reload
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def broadcast(client_row):
    broadcast_id = uuid4()
    blob = cipher.encrypt(content._encoder.encode(Content(body="Breaking")), f"broadcast|content|{broadcast_id}")
    now = datetime.now(UTC)
    row = Broadcast.objects.create(
        id=broadcast_id,
        client=client_row,
        name="news",
        state=State.RUNNING,
        type="news",
        category="",
        channels=[Channel.SMS],
        content_ct=blob,
        audience={},
        trace_id="trace-of-the-broadcast",
        created_at=now,
        started_at=now,
    )
    row.refresh_from_db()
    return row


def claim_of(broadcast, recipient, fence=1):
    started_ms = int(broadcast.started_at.timestamp() * 1000)
    delivery_id = broadcast_delivery_id(started_ms, broadcast.number, Channel.SMS, recipient.id)
    return Claim(delivery_id, recipient.id, None, Channel.SMS, Lane.BULK, 0, fence, 0)


def put_off(broadcast, recipient):
    """The row of a delivery whose first call failed."""
    claim = claim_of(broadcast, recipient)
    call = FailedCall(AttemptOutcome.TRANSIENT, "503", "busy", 0.01, 3)
    outcome = Outcome(
        claim,
        Status.QUEUED,
        Reason.RETRY_AFTER_FAILURE,
        has_tried=True,
        provider_id=3,
        delay_s=0.0,
        failed_calls=(call,),
    )
    assert insert_outcomes([outcome], client_id=broadcast.client_id) == 1
    return Delivery.objects.get(id=claim.id)


def test_retried_row_gets_the_broadcasts_content(broadcast, wire):
    row = put_off(broadcast, RecipientFactory(phone="+15005550111"))
    dispatch.deliver([row.id])
    row.refresh_from_db()
    assert (row.status, row.attempts, row.fence, row.error_code) == (Status.SENT, 2, 2, None)
    assert wire.addresses == ["+15005550111"]
    assert b"Breaking" in wire.requests[0][1].body


def test_one_batch_holds_rows_of_broadcasts_and_of_notifications(broadcast, client_row, wire):
    recipient = RecipientFactory()
    (single,) = accept(client_row.id, recipient.user_id)
    row = put_off(broadcast, recipient)
    dispatch.deliver([single.id, row.id])
    assert [reload(one).status for one in (single, row)] == [Status.SENT, Status.SENT]


def test_retried_row_obeys_what_the_person_said_since(broadcast, wire):
    recipient, erased = RecipientFactory(), RecipientFactory()
    rows = [put_off(broadcast, one) for one in (recipient, erased)]
    update_preferences(user_id=recipient.user_id, is_opted_out=True, channels={}, categories={})
    erase_recipient(user_id=erased.user_id)
    dispatch.deliver([row.id for row in rows])
    reasons = [reload(row).reason for row in rows]
    assert reasons == [PolicyReason.GLOBAL_OPT_OUT, PolicyReason.RECIPIENT_ERASED]
    assert wire.requests == []


@pytest.mark.parametrize("state", [State.PAUSED, State.HALTED])
def test_row_of_a_paused_broadcast_waits_without_using_up_an_attempt(broadcast, wire, state):
    row = put_off(broadcast, RecipientFactory())
    Broadcast.objects.filter(id=broadcast.id).update(state=state)
    dispatch.deliver([row.id])
    row.refresh_from_db()
    assert (row.status, row.reason, row.attempts) == (Status.QUEUED, Reason.BROADCAST_PAUSED, 1)
    assert row.next_attempt_at > datetime.now(UTC) + timedelta(seconds=2)
    assert wire.requests == []


def test_row_of_a_cancelled_broadcast_is_cancelled(broadcast, wire):
    row = put_off(broadcast, RecipientFactory())
    Broadcast.objects.filter(id=broadcast.id).update(state=State.CANCELLED)
    dispatch.deliver([row.id])
    row.refresh_from_db()
    assert (row.status, row.ring_at, wire.requests) == (Status.CANCELLED, None, [])


def test_chunk_is_sifted_sent_and_inserted_without_rows(broadcast, wire):
    people = [RecipientFactory() for _ in range(3)]
    update_preferences(user_id=people[1].user_id, is_opted_out=True, channels={}, categories={})
    claims = [claim_of(broadcast, person) for person in people]
    named = select_versions_by_id([person.id for person in people])
    snapshots = load_snapshots(dict(named.values()))
    (source,) = load_sources([claims[0].id]).values()
    now = datetime.now(UTC)
    parcels, refused = sift([Candidate(one, source, snapshots[named[one.recipient_id][0]]) for one in claims], now)
    run = sending.Sending(read_at=now)
    run.outcomes += refused
    run.run(parcels)
    assert insert_outcomes(run.outcomes, client_id=broadcast.client_id) == 3
    assert insert_outcomes(run.outcomes, client_id=broadcast.client_id) == 0
    statuses = {row.recipient_id: row.status for row in Delivery.objects.all()}
    assert statuses == {
        people[0].id: Status.SENT, people[1].id: Status.SUPPRESSED, people[2].id: Status.SENT
    }  # fmt: skip
    sent = Delivery.objects.get(recipient_id=people[0].id)
    assert (sent.attempts, sent.fence, sent.ring_at, sent.provider) == (1, 1, None, 3)
    assert sent.sent_at is not None
    assert sent.provider_message_id


def test_ids_of_a_broadcast_lie_in_the_partition_of_its_start(broadcast):
    claim = claim_of(broadcast, RecipientFactory())
    assert claim.id > first_id_at(broadcast.started_at - timedelta(seconds=1))
    assert abs(time_of(claim.id) - broadcast.started_at) < timedelta(milliseconds=2)
    with connection.cursor() as cursor:
        cursor.execute("SELECT uuid_extract_version(%s)", [claim.id])
        assert cursor.fetchone() == (8,)

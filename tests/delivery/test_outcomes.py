import threading
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from django.db import connection

from apps.channels import Channel
from apps.delivery.models import Attempt
from apps.delivery.outcomes import FailedCall, Outcome, cancel_deliveries, claim_deliveries, record_outcomes
from apps.delivery.statuses import AttemptOutcome, Reason, Status
from tests.delivery.factories import accept, reload
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def delivery(client_row):
    return accept(client_row.id, RecipientFactory().user_id)[0]


def expire_lease(delivery):
    with connection.cursor() as cursor:
        cursor.execute("UPDATE delivery SET next_attempt_at = now() - interval '1 second' WHERE id = %s", [delivery.id])


def test_claim_takes_a_due_row_once(delivery):
    (claim,) = claim_deliveries([delivery.id], lease_s=30)
    assert (claim.id, claim.fence, claim.attempts, claim.lapses) == (delivery.id, 1, 0, 0)
    assert reload(delivery).status == Status.SENDING
    assert claim_deliveries([delivery.id], lease_s=30) == []


def test_claim_of_unknown_ids_takes_nothing(db):
    assert claim_deliveries([], lease_s=30) == []
    assert claim_deliveries([UUID(int=1)], lease_s=30) == []


def test_row_that_is_not_due_yet_is_not_claimed(client_row):

    later = datetime.now(UTC) + timedelta(hours=1)
    (delivery,) = accept(client_row.id, RecipientFactory().user_id, send_at=later)
    assert (delivery.status, delivery.reason) == (Status.QUEUED, Reason.SCHEDULED)
    assert claim_deliveries([delivery.id], lease_s=30) == []


def test_expired_lease_is_taken_over_and_the_late_worker_fenced_off(delivery):
    (late,) = claim_deliveries([delivery.id], lease_s=30)
    expire_lease(delivery)
    (successor,) = claim_deliveries([delivery.id], lease_s=30)
    assert (successor.fence, successor.lapses) == (2, 1)
    assert record_outcomes([Outcome(late, Status.DEAD, Reason.ATTEMPTS_USED_UP, has_tried=True)]) == set()
    assert reload(delivery).status == Status.SENDING
    sent = Outcome(successor, Status.SENT, has_tried=True, provider_id=3, provider_message_id="SM1")
    assert record_outcomes([sent]) == {delivery.id}
    row = reload(delivery)
    assert (row.status, row.provider, row.provider_message_id, row.attempts) == (Status.SENT, 3, "SM1", 1)
    assert row.sent_at is not None
    assert (row.next_attempt_at, row.ring_at) == (None, None)


def test_record_is_refused_twice(delivery):
    (claim,) = claim_deliveries([delivery.id], lease_s=30)
    assert record_outcomes([Outcome(claim, Status.SENT, has_tried=True, provider_id=3)]) == {delivery.id}
    failed = Outcome(claim, Status.FAILED, Reason.PROVIDER_REFUSED, has_tried=True, provider_id=3)
    assert record_outcomes([failed]) == set()
    assert reload(delivery).status == Status.SENT


def test_failed_call_becomes_an_attempt_and_a_due_row(delivery):
    (claim,) = claim_deliveries([delivery.id], lease_s=30)
    call = FailedCall(AttemptOutcome.TRANSIENT, "503\0", "busy\ud800" + "x" * 500, 0.25)
    outcome = Outcome(
        claim,
        Status.QUEUED,
        Reason.RETRY_AFTER_FAILURE,
        has_tried=True,
        provider_id=3,
        delay_s=60,
        failed_calls=(call,),
    )
    assert record_outcomes([outcome]) == {delivery.id}
    row = reload(delivery)
    assert (row.status, row.attempts, row.error_code) == (Status.QUEUED, 1, "503")
    assert row.next_attempt_at == row.ring_at
    attempt = Attempt.objects.get(delivery_id=delivery.id)
    assert (attempt.code, attempt.latency_ms, attempt.outcome) == ("503", 250, AttemptOutcome.TRANSIENT)
    assert len(attempt.message) == 200
    assert claim_deliveries([delivery.id], lease_s=30) == []


def test_deferral_costs_no_attempt(delivery):
    (claim,) = claim_deliveries([delivery.id], lease_s=30)
    record_outcomes([Outcome(claim, Status.QUEUED, Reason.PROVIDER_UNAVAILABLE, delay_s=0)])
    row = reload(delivery)
    assert (row.status, row.attempts, row.fence) == (Status.QUEUED, 0, 1)
    assert len(claim_deliveries([delivery.id], lease_s=30)) == 1


def test_cancel_stops_only_what_has_not_left(client_row):
    recipient = RecipientFactory(devices=["one", "two"])

    first, second = accept(client_row.id, recipient.user_id, channels=(Channel.PUSH,))
    claim_deliveries([first.id], lease_s=30)
    assert cancel_deliveries(UUID(first.notification_id)) == 1
    assert (reload(first).status, reload(second).status) == (Status.SENDING, Status.CANCELLED)
    assert claim_deliveries([second.id], lease_s=30) == []


@pytest.mark.django_db(transaction=True)
def test_concurrent_claims_of_the_same_rows_share_them_out(client_row):
    recipient = RecipientFactory()
    ids = [accept(client_row.id, recipient.user_id)[0].id for _ in range(40)]
    barrier = threading.Barrier(4)
    taken: list[list[UUID]] = []

    def work():
        try:
            barrier.wait(5)
            taken.append([claim.id for claim in claim_deliveries(ids, lease_s=30)])
        finally:
            connection.close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    claimed = [one for part in taken for one in part]
    assert sorted(claimed) == sorted(ids)

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.db.utils import OperationalError

from apps.channels import Channel, Lane
from apps.delivery import dispatch, hygiene, outcomes, recording, sending
from apps.delivery.content import Content
from apps.delivery.models import Attempt
from apps.delivery.outcomes import claim_deliveries
from apps.delivery.statuses import AttemptOutcome, Reason, Status
from apps.preferences.policy import Reason as PolicyReason
from apps.preferences.services import erase_recipient, suppress_address, update_preferences
from apps.providers import gateway
from apps.providers.messages import ProviderResponse
from tests.delivery.conftest import ACCEPTED, NEVER_LEFT, NO_ANSWER, REFUSED
from tests.delivery.factories import accept, reload
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db
ALL = (Channel.PUSH, Channel.SMS, Channel.EMAIL)


def make_due(delivery):
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE delivery SET next_attempt_at = now() - interval '1 second' "
            "WHERE id = %s AND next_attempt_at IS NOT NULL",
            [delivery.id],
        )


def dispatch_until_done(delivery, rounds=20):
    for _ in range(rounds):
        make_due(delivery)
        dispatch.deliver([delivery.id])
        if reload(delivery).ring_at is None:
            return reload(delivery)
    raise AssertionError("never done")


def test_every_channel_goes_out_over_its_provider(client_row, wire):
    recipient = RecipientFactory(devices=["t-1"], phone="+15005550199", email="someone@example.com")
    deliveries = accept(client_row.id, recipient.user_id, channels=ALL)
    dispatch.deliver([delivery.id for delivery in deliveries])
    assert sorted(wire.addresses) == ["+15005550199", "someone@example.com", "t-1"]
    rows = [reload(delivery) for delivery in deliveries]
    assert [row.status for row in rows] == [Status.SENT] * 3
    assert [row.provider for row in rows] == [1, 3, 5]
    assert all(row.provider_message_id and row.sent_at and row.attempts == 1 for row in rows)
    assert Attempt.objects.count() == 0


def test_single_urgent_deliveries_say_how_long_we_took(client_row, wire, monkeypatch):
    noted = []
    monkeypatch.setattr(dispatch, "note_urgent", lambda kind, seconds: noted.append((kind, seconds)))
    recipient = RecipientFactory(devices=["t-1", "t-2"], phone="+15005550199")
    [urgent] = accept(client_row.id, recipient.user_id, channels=(Channel.SMS,), lane=Lane.HIGH)
    others = accept(client_row.id, recipient.user_id, channels=(Channel.PUSH,), lane=Lane.HIGH)
    others += accept(client_row.id, recipient.user_id, channels=(Channel.SMS,), lane=Lane.BULK)
    for ids in ([urgent.id], [one.id for one in others[:2]], [others[2].id]):
        dispatch.deliver(ids)
    assert {reload(one).status for one in (urgent, *others)} == {Status.SENT}
    [(kind, seconds)] = noted
    assert kind == "sms"
    assert 0 < seconds < 5


def test_duplicate_message_sends_once(client_row, wire):
    (delivery,) = accept(client_row.id, RecipientFactory().user_id)
    for _ in range(3):
        dispatch.deliver([delivery.id])
    assert len(wire.requests) == 1


def test_refused_call_is_retried_and_dies_after_its_attempts(client_row, wire):
    wire.answer = lambda provider, request: REFUSED
    (delivery,) = accept(client_row.id, RecipientFactory().user_id)
    dispatch.deliver([delivery.id])
    row = reload(delivery)
    assert (row.status, row.reason, row.attempts) == (Status.QUEUED, Reason.RETRY_AFTER_FAILURE, 1)
    row = dispatch_until_done(delivery)
    assert (row.status, row.reason, row.attempts) == (Status.DEAD, Reason.ATTEMPTS_USED_UP, 5)
    assert len(wire.requests) == 5
    attempts = Attempt.objects.filter(delivery_id=delivery.id)
    assert {attempt.outcome for attempt in attempts} == {AttemptOutcome.TRANSIENT}
    assert len(attempts) == 5


def test_recovered_provider_gets_the_retry(client_row, wire):
    answers = iter([REFUSED, NEVER_LEFT, ACCEPTED["twilio"]])
    wire.answer = lambda provider, request: next(answers)
    (delivery,) = accept(client_row.id, RecipientFactory().user_id)
    row = dispatch_until_done(delivery)
    assert (row.status, row.attempts, row.error_code) == (Status.SENT, 2, None)  # what never left cost no attempt


def test_call_without_an_answer_is_retried_and_ends_as_unknown(client_row, wire):
    wire.answer = lambda provider, request: NO_ANSWER
    (delivery,) = accept(client_row.id, RecipientFactory().user_id)
    dispatch.deliver([delivery.id])
    assert reload(delivery).reason == Reason.RETRY_AFTER_UNKNOWN
    row = dispatch_until_done(delivery)
    assert (row.status, row.reason) == (Status.UNKNOWN, Reason.NO_ANSWER)


def test_dead_number_fails_at_once_and_is_suppressed(client_row, wire):
    body = b'{"code": 21211, "message": "invalid", "status": 400}'
    wire.answer = lambda provider, request: ProviderResponse(400, {"content-type": "application/json"}, body)
    recipient = RecipientFactory()
    (delivery,) = accept(client_row.id, recipient.user_id)
    dispatch.deliver([delivery.id])
    row = reload(delivery)
    assert (row.status, row.reason, row.error_code) == (Status.FAILED, Reason.INVALID_RECIPIENT, "21211")
    (again,) = accept(client_row.id, recipient.user_id)
    assert (again.status, again.reason) == (Status.SUPPRESSED, PolicyReason.ADDRESS_SUPPRESSED)


def test_unregistered_token_switches_its_device_off(client_row, wire):
    body = (
        b'{"error": {"code": 404, "status": "NOT_FOUND", "details": [{"@type": '
        b'"type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": "UNREGISTERED"}]}}'
    )
    wire.answer = lambda provider, request: ProviderResponse(404, {"content-type": "application/json"}, body)
    recipient = RecipientFactory(devices=["gone"])
    (delivery,) = accept(client_row.id, recipient.user_id, channels=(Channel.PUSH,))
    dispatch.deliver([delivery.id])
    assert reload(delivery).reason == Reason.INVALID_RECIPIENT
    (again,) = accept(client_row.id, recipient.user_id, channels=(Channel.PUSH,))
    assert (again.status, again.reason) == (Status.SUPPRESSED, PolicyReason.NO_ADDRESS)


def test_opt_out_after_acceptance_is_obeyed(client_row, wire):
    recipient = RecipientFactory()
    deliveries = accept(client_row.id, recipient.user_id, channels=ALL)
    update_preferences(user_id=recipient.user_id, channels={Channel.SMS: False})
    suppress_address(channel=Channel.EMAIL, user_id=recipient.user_id, source="test", reason="test")
    dispatch.deliver([delivery.id for delivery in deliveries])
    rows = [reload(delivery) for delivery in deliveries]
    assert [row.status for row in rows] == [Status.SENT, Status.SUPPRESSED, Status.SUPPRESSED]
    assert [row.reason for row in rows[1:]] == [PolicyReason.CHANNEL_OPT_OUT, PolicyReason.ADDRESS_SUPPRESSED]


def test_erased_recipient_gets_nothing(client_row, wire):
    recipient = RecipientFactory()
    deliveries = accept(client_row.id, recipient.user_id, channels=ALL)
    erase_recipient(user_id=recipient.user_id)
    dispatch.deliver([delivery.id for delivery in deliveries])
    assert {reload(delivery).status for delivery in deliveries} == {Status.SUPPRESSED}
    assert wire.requests == []


def test_expired_delivery_is_not_sent(client_row, wire):
    soon = datetime.now(UTC) + timedelta(seconds=30)
    (delivery,) = accept(client_row.id, RecipientFactory().user_id, expires_at=soon)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE notification SET expires_at = now() - interval '1 second'")
    dispatch.deliver([delivery.id])
    assert (reload(delivery).status, reload(delivery).reason) == (Status.EXPIRED, Reason.EXPIRED)
    assert wire.requests == []


def test_unreadable_content_dies_alone(client_row, wire):
    recipient = RecipientFactory()
    (broken,) = accept(client_row.id, recipient.user_id)
    (healthy,) = accept(client_row.id, recipient.user_id)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE notification SET content_ct = 'x' WHERE id = %s", [broken.notification_id])
    dispatch.deliver([broken.id, healthy.id])
    assert (reload(broken).status, reload(broken).reason) == (Status.DEAD, Reason.POISON)
    assert reload(healthy).status == Status.SENT


def test_bug_is_isolated_to_the_row_that_trips_it(client_row, wire, monkeypatch):
    real = sending.to_message

    def trip(words, envelope):
        if words.title == "trip":
            raise RuntimeError("a bug of ours")
        return real(words, envelope)

    monkeypatch.setattr(sending, "to_message", trip)  # the bug cannot come from outside
    recipient = RecipientFactory()
    (bad,) = accept(
        client_row.id, recipient.user_id, channels=(Channel.EMAIL,), content=Content(title="trip", body="b")
    )
    (good,) = accept(client_row.id, recipient.user_id, channels=(Channel.EMAIL,))
    dispatch.deliver([bad.id, good.id])
    assert {reload(one).status for one in (bad, good)} == {Status.QUEUED}
    dispatch.deliver([good.id])
    assert reload(good).status == Status.SENT
    row = dispatch_until_done(bad)
    assert (row.status, row.reason, row.attempts) == (Status.DEAD, Reason.POISON, 5)


def test_row_whose_workers_keep_dying_is_put_aside(client_row, wire):
    (delivery,) = accept(client_row.id, RecipientFactory().user_id)
    for _ in range(dispatch.MAX_LAPSES):
        assert len(claim_deliveries([delivery.id], lease_s=30)) == 1
        make_due(delivery)
    dispatch.deliver([delivery.id])
    assert (reload(delivery).status, reload(delivery).reason) == (Status.DEAD, Reason.POISON)
    assert wire.requests == []


def test_row_that_may_kill_takes_no_other_along(client_row, wire):
    """Its doorbell names them all, as the sweep finds them all due at once."""
    rows = [accept(client_row.id, RecipientFactory().user_id)[0] for _ in range(3)]
    fresh, *suspects = rows
    for _ in range(dispatch.SUSPECT_LAPSES + 1):  # a lapse is counted by the claim that finds it
        assert len(claim_deliveries([row.id for row in suspects], lease_s=30)) == 2
        for row in suspects:
            make_due(row)
    dispatch.deliver([row.id for row in rows])
    assert reload(fresh).status == Status.SENT
    assert {reload(row).status for row in suspects} == {Status.QUEUED}
    for row in suspects:
        dispatch.deliver([row.id])
        assert reload(row).status == Status.SENT


def test_channel_without_a_provider_waits_without_using_attempts(client_row, wire, settings):
    settings.ROUTES = {**settings.ROUTES, "sms": []}
    (delivery,) = accept(client_row.id, RecipientFactory().user_id)
    dispatch.deliver([delivery.id])
    row = reload(delivery)
    assert (row.status, row.reason, row.attempts) == (Status.QUEUED, Reason.PROVIDER_UNAVAILABLE, 0)


def test_lane_and_expiry_reach_the_provider(client_row, wire):
    expires_at = datetime.now(UTC) + timedelta(seconds=100)
    (delivery,) = accept(
        client_row.id, RecipientFactory().user_id, channels=(Channel.PUSH,), lane=Lane.BULK, expires_at=expires_at
    )
    dispatch.deliver([delivery.id])
    ((_, request),) = wire.requests
    (message,) = request.messages
    assert not message.is_high
    assert 95 <= message.ttl_s <= 100


@pytest.mark.django_db(transaction=True)
def test_database_restart_after_the_call_does_not_lose_the_outcome(client_row, wire, monkeypatch):
    failures = iter([OperationalError("the database is starting up")])
    real = outcomes.record_outcomes

    def flaky(batch):
        for error in failures:
            raise error
        return real(batch)

    monkeypatch.setattr(recording, "record_outcomes", flaky)  # stands for a server that restarts at this moment
    (delivery,) = accept(client_row.id, RecipientFactory().user_id)
    dispatch.deliver([delivery.id])
    assert reload(delivery).status == Status.SENT
    assert len(wire.requests) == 1


def test_gateway_is_asked_once_per_provider(client_row, wire, monkeypatch):
    calls = []
    real = gateway.send_messages
    monkeypatch.setattr(
        sending, "send_messages", lambda provider, messages: calls.append(provider.alias) or real(provider, messages)
    )
    recipient = RecipientFactory()
    ids = [one.id for _ in range(5) for one in accept(client_row.id, recipient.user_id, channels=ALL)]
    dispatch.deliver(ids)
    assert sorted(calls) == ["fcm", "sendgrid", "twilio"]


def test_what_was_accepted_is_recorded_although_something_breaks_afterwards(client_row, wire, monkeypatch):
    """A row lock, a restart or a bug between the provider's answer and the record must not send anything twice."""
    body = b'{"code": 21211, "message": "invalid", "status": 400}'
    bad = RecipientFactory(phone="+15005550111")
    wire.answer = lambda provider, request: (
        ProviderResponse(400, {"content-type": "application/json"}, body)
        if request.messages[0].address == "+15005550111"
        else ACCEPTED[provider]
    )

    def fail(**fields):
        raise OperationalError("canceling statement due to lock timeout")

    monkeypatch.setattr(hygiene, "suppress_address", fail)  # stands for a recipient's row that somebody holds
    deliveries = [accept(client_row.id, recipient.user_id)[0] for recipient in (RecipientFactory(), bad)]
    dispatch.deliver([one.id for one in deliveries])
    assert [reload(one).status for one in deliveries] == [Status.SENT, Status.FAILED]
    dispatch.deliver([one.id for one in deliveries])
    assert len(wire.requests) == 2


def test_bug_after_the_answer_keeps_the_answer(client_row, wire, monkeypatch):
    def fail(alias, results):
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(sending.quotas, "obey", fail)  # the bug cannot come from outside
    deliveries = [accept(client_row.id, RecipientFactory().user_id)[0] for _ in range(3)]
    dispatch.deliver([one.id for one in deliveries])
    assert {reload(one).status for one in deliveries} == {Status.SENT}
    assert len(wire.requests) == 3


def test_database_hiccup_before_the_call_is_nobodys_fault(client_row, wire, monkeypatch):
    def fail(*args):
        raise OperationalError("the database is starting up")

    monkeypatch.setattr(dispatch, "prepare", fail)  # stands for a server that restarts at this moment
    (delivery,) = accept(client_row.id, RecipientFactory().user_id)
    for _ in range(7):
        dispatch.deliver([delivery.id])
    row = reload(delivery)
    assert (row.status, row.attempts) == (Status.QUEUED, 0)
    monkeypatch.undo()


def test_row_that_cannot_even_be_loaded_dies_alone(client_row, wire):
    """A timestamp that Python's calendar does not hold: nothing intake lets through, but rows are for ever."""
    recipient = RecipientFactory()
    (poison,) = accept(client_row.id, recipient.user_id)
    (healthy,) = accept(client_row.id, recipient.user_id)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE notification SET expires_at = 'infinity' WHERE id = %s", [poison.notification_id])
    dispatch.deliver([poison.id, healthy.id])
    dispatch.deliver([healthy.id])
    assert reload(healthy).status == Status.SENT
    row = dispatch_until_done(poison)
    assert (row.status, row.reason) == (Status.DEAD, Reason.POISON)


def test_outage_of_a_provider_nobody_can_reach_costs_no_attempt(client_row, wire):
    wire.answer = lambda provider, request: NEVER_LEFT
    (delivery,) = accept(client_row.id, RecipientFactory().user_id)
    for _ in range(10):
        make_due(delivery)
        dispatch.deliver([delivery.id])
    row = reload(delivery)
    assert (row.status, row.reason, row.attempts) == (Status.QUEUED, Reason.PROVIDER_UNAVAILABLE, 0)
    wire.answer = lambda provider, request: ACCEPTED[provider]
    breaker_alias = "twilio"
    sending.breaker.report(breaker_alias, 100, 0)
    assert dispatch_until_done(delivery).status == Status.SENT

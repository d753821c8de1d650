import base64
import hashlib
import hmac
import json
import time
from datetime import timedelta
from unittest import mock
from urllib.parse import urlencode

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from django.conf import settings as django_settings
from django.db import DataError, transaction
from django.utils import timezone
from rest_framework.test import APIClient

from apps.channels import Channel
from apps.delivery import dispatch, receipts
from apps.delivery.models import ReceiptEvent
from apps.delivery.outcomes import Outcome, claim_deliveries, record_outcomes
from apps.delivery.statuses import Status
from apps.preferences.policy import Reason as PolicyReason
from apps.providers.messages import ReceiptKind
from apps.providers.receipts import ack_token
from tests.delivery.conftest import NO_ANSWER
from tests.delivery.factories import accept, reload
from tests.preferences.factories import RecipientFactory

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("accounts")]


def twilio(delivery, status, *, sid="SM1", token="twilio-token", **extra):
    """Twilio's status callback, signed as https://www.twilio.com/docs/usage/webhooks/webhooks-security says."""
    path = f"/v1/webhooks/twilio?delivery_id={delivery.id}"
    fields = {"MessageSid": sid, "MessageStatus": status, **extra}
    signed = django_settings.PUBLIC_URL + path + "".join(f"{name}{fields[name]}" for name in sorted(fields))
    signature = base64.b64encode(hmac.digest(token.encode(), signed.encode(), hashlib.sha1)).decode()
    return APIClient().generic(
        "POST",
        path,
        urlencode(fields),
        content_type="application/x-www-form-urlencoded",
        headers={"X-Twilio-Signature": signature},
    )


def sendgrid(key, events):
    """SendGrid's event webhook, signed as its documentation says: ECDSA over timestamp and raw body."""
    raw = json.dumps(events).encode()
    timestamp = str(int(time.time()))
    signature = base64.b64encode(key.sign(timestamp.encode() + raw, ec.ECDSA(SHA256()))).decode()
    return APIClient().generic(
        "POST",
        "/v1/webhooks/sendgrid",
        raw,
        content_type="application/json",
        headers={
            "X-Twilio-Email-Event-Webhook-Signature": signature,
            "X-Twilio-Email-Event-Webhook-Timestamp": timestamp,
        },
    )


def acknowledge(delivery, ack=None):
    body = {"delivery_id": str(delivery.id), "ack": ack or ack_token(str(delivery.id)), "event": "delivered"}
    body["at"] = int(time.time() * 1000)
    return APIClient().generic("POST", "/v1/webhooks/fcm", json.dumps(body), content_type="application/json")


@pytest.fixture
def recipient():
    return RecipientFactory()


@pytest.fixture
def sent(client_row, recipient, wire):
    (delivery,) = accept(client_row.id, recipient.user_id)
    dispatch.deliver([delivery.id])
    return delivery


def test_receipt_is_stored_first_and_applied_by_the_task(sent):
    assert twilio(sent, "delivered").status_code == 204
    assert reload(sent).status == Status.SENT
    assert receipts.apply_pending() == 1
    row = reload(sent)
    assert row.status == Status.DELIVERED
    assert row.delivered_at is not None
    event = ReceiptEvent.objects.get()
    assert event.is_matched
    assert event.applied_at is not None


def test_repeated_receipt_counts_once(sent):
    for _ in range(5):
        assert twilio(sent, "delivered").status_code == 204
    assert ReceiptEvent.objects.count() == 1
    assert (receipts.apply_pending(), receipts.apply_pending()) == (1, 0)


def test_device_acknowledges_a_push(client_row, recipient, wire):
    (delivery,) = accept(client_row.id, recipient.user_id, channels=(Channel.PUSH,))
    dispatch.deliver([delivery.id])
    assert acknowledge(delivery).status_code == 204
    receipts.apply_pending()
    assert reload(delivery).status == Status.DELIVERED


@pytest.mark.parametrize("provider", ["twilio", "sendgrid", "fcm"])
def test_forged_receipt_is_refused_and_not_stored(sent, provider):
    response = {
        "twilio": lambda: twilio(sent, "delivered", token="wrong"),
        "sendgrid": lambda: sendgrid(ec.generate_private_key(ec.SECP256R1()), [{"event": "delivered"}]),
        "fcm": lambda: acknowledge(sent, ack="A" * 22),
    }[provider]()
    assert response.status_code == 403
    assert response["content-type"].startswith("application/problem+json")
    assert ReceiptEvent.objects.count() == 0


@pytest.mark.parametrize(("accept", "query"), [("text/html", ""), ("image/png", ""), ("*/*", "?format=xml")])
def test_receipt_is_taken_whatever_form_of_answer_is_asked_for(sent, accept, query):
    body = {"delivery_id": str(sent.id), "ack": ack_token(str(sent.id)), "event": "delivered"}
    body["at"] = int(time.time() * 1000)
    response = APIClient().generic(
        "POST",
        f"/v1/webhooks/fcm{query}",
        json.dumps(body),
        content_type="application/json",
        headers={"Accept": accept},
    )
    assert response.status_code == 204


def test_call_for_an_unknown_provider_is_a_404():
    assert APIClient().post("/v1/webhooks/pigeon", {}, format="json").status_code == 404


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b'[{"event": 5}]', b"\xff", b'[{"event": "delivered"}]'])
def test_garbage_with_a_good_signature_is_never_an_error_of_ours(sendgrid_key, body):
    timestamp = str(int(time.time()))
    signature = base64.b64encode(sendgrid_key.sign(timestamp.encode() + body, ec.ECDSA(SHA256()))).decode()
    response = APIClient().generic(
        "POST",
        "/v1/webhooks/sendgrid",
        body,
        content_type="application/json",
        headers={
            "X-Twilio-Email-Event-Webhook-Signature": signature,
            "X-Twilio-Email-Event-Webhook-Timestamp": timestamp,
        },
    )
    assert response.status_code in (204, 400)


def test_status_never_moves_back(sent):
    twilio(sent, "delivered")
    receipts.apply_pending()
    twilio(sent, "sent")
    twilio(sent, "undelivered")
    receipts.apply_pending()
    assert reload(sent).status == Status.DELIVERED


def test_late_delivered_corrects_an_unknown(client_row, recipient, wire, settings):
    settings.DELIVERY_MAX_ATTEMPTS = 1
    wire.answer = lambda provider, request: NO_ANSWER
    (delivery,) = accept(client_row.id, recipient.user_id)
    dispatch.deliver([delivery.id])
    assert reload(delivery).status == Status.UNKNOWN
    twilio(delivery, "delivered")
    receipts.apply_pending()
    assert reload(delivery).status == Status.DELIVERED


def test_delivered_makes_a_waiting_retry_unnecessary(client_row, recipient, wire):
    wire.answer = lambda provider, request: NO_ANSWER
    (delivery,) = accept(client_row.id, recipient.user_id)
    dispatch.deliver([delivery.id])
    assert reload(delivery).status == Status.QUEUED
    twilio(delivery, "delivered")
    receipts.apply_pending()
    row = reload(delivery)
    assert (row.status, row.ring_at, row.next_attempt_at) == (Status.DELIVERED, None, None)
    dispatch.deliver([delivery.id])
    assert len(wire.requests) == 1


def test_receipt_that_overtakes_its_own_record_stands(client_row, recipient):
    (delivery,) = accept(client_row.id, recipient.user_id)
    (claim,) = claim_deliveries([delivery.id], lease_s=30)
    twilio(delivery, "delivered", sid="SM7")
    receipts.apply_pending()
    assert reload(delivery).status == Status.DELIVERED
    outcome = Outcome(claim, Status.SENT, has_tried=True, provider_id=3, provider_message_id="SM7")
    assert record_outcomes([outcome]) == {delivery.id}
    row = reload(delivery)
    assert (row.status, row.provider, row.provider_message_id, row.attempts) == (Status.DELIVERED, 3, "SM7", 1)
    assert (row.ring_at, row.next_attempt_at) == (None, None)


def test_receipt_for_something_never_sent_changes_nothing(client_row, recipient):
    (delivery,) = accept(client_row.id, recipient.user_id)
    twilio(delivery, "delivered")
    receipts.apply_pending()
    assert reload(delivery).status == Status.QUEUED


def test_hard_bounce_suppresses_the_address(client_row, recipient, wire, sendgrid_key):
    (delivery,) = accept(client_row.id, recipient.user_id, channels=(Channel.EMAIL,))
    dispatch.deliver([delivery.id])
    event = {
        "event": "bounce",
        "type": "bounce",
        "sg_event_id": "event-1",
        "timestamp": int(time.time()),
        "delivery_id": str(delivery.id),
        "email": "someone@example.com",
    }
    assert sendgrid(sendgrid_key, [event]).status_code == 204
    receipts.apply_pending()
    assert reload(delivery).status == Status.BOUNCED
    (again,) = accept(client_row.id, recipient.user_id, channels=(Channel.EMAIL,))
    assert (again.status, again.reason) == (Status.SUPPRESSED, PolicyReason.ADDRESS_SUPPRESSED)


def test_old_applied_receipts_are_forgotten(sent):
    twilio(sent, "delivered")
    receipts.apply_pending()
    assert receipts.forget_applied(retention_days=1) == 0
    ReceiptEvent.objects.update(received_at=timezone.now() - timedelta(days=2))
    assert receipts.forget_applied(retention_days=1) == 1


def test_receipt_of_a_provider_no_longer_configured_holds_up_no_other(sent):
    ReceiptEvent.objects.create(
        delivery_id=sent.id,
        occurred_at=timezone.now(),
        received_at=timezone.now(),
        provider=99,
        kind=4,
        event_id="of-a-provider-that-is-gone",
    )
    twilio(sent, "delivered")
    assert receipts.apply_pending() == 2
    assert ReceiptEvent.objects.filter(applied_at=None).count() == 0


def test_failure_that_overtakes_its_record_is_parked_and_applied(client_row, recipient):
    (delivery,) = accept(client_row.id, recipient.user_id)
    (claim,) = claim_deliveries([delivery.id], lease_s=30)
    twilio(delivery, "undelivered", sid="SM7", ErrorCode="30003")
    assert receipts.apply_pending() == 0
    record_outcomes([Outcome(claim, Status.SENT, has_tried=True, provider_id=3, provider_message_id="SM7")])
    assert receipts.apply_pending() == 1
    assert reload(delivery).status == Status.FAILED


def test_failure_of_an_earlier_attempt_does_not_end_a_later_one(client_row, recipient):
    (delivery,) = accept(client_row.id, recipient.user_id)
    (claim,) = claim_deliveries([delivery.id], lease_s=30)
    record_outcomes([Outcome(claim, Status.SENT, has_tried=True, provider_id=3, provider_message_id="SM-second")])
    twilio(delivery, "undelivered", sid="SM-first", ErrorCode="30003")
    receipts.apply_pending()
    assert reload(delivery).status == Status.SENT


@pytest.mark.parametrize("status", [Status.CANCELLED, Status.EXPIRED, Status.SUPPRESSED])
def test_delivered_corrects_what_ended_after_a_call_without_an_answer(client_row, recipient, status):
    (delivery,) = accept(client_row.id, recipient.user_id)
    (claim,) = claim_deliveries([delivery.id], lease_s=30)
    record_outcomes([Outcome(claim, status, provider_id=3)])
    twilio(delivery, "delivered")
    receipts.apply_pending()
    assert reload(delivery).status == Status.DELIVERED


def row_of(delivery, event_id, *, code=""):
    return receipts._Row(1, event_id, delivery.id, timezone.now(), int(ReceiptKind.DELIVERED), None, code)


def test_calls_at_the_same_time_share_a_statement_and_each_is_told_what_was_new_of_it(sent):
    one, other = row_of(sent, "a"), row_of(sent, "b")
    assert receipts._store_calls([[one], [one, other], [one]]) == [1, 1, 0]
    assert receipts._store_calls([[other]]) == [0]
    assert ReceiptEvent.objects.count() == 2


def test_what_cannot_be_stored_does_not_take_along_what_came_at_the_same_time(sent):
    bad = row_of(sent, "bad", code="\0")
    with pytest.raises(DataError), transaction.atomic():
        receipts._store_calls([[bad]])
    with mock.patch.object(receipts, "_insert", side_effect=DataError):
        assert receipts._store_calls([[bad], [row_of(sent, "good")]]) == [None, None]  # each then tries alone

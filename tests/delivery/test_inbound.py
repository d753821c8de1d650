import base64
import hashlib
import hmac
from urllib.parse import urlencode

import pytest
from django.conf import settings as django_settings
from rest_framework.test import APIClient

from apps.channels import Channel
from apps.delivery import dispatch
from apps.delivery.models import ReceiptEvent
from apps.delivery.statuses import Status
from apps.preferences.policy import Reason as PolicyReason
from apps.preferences.services import suppress_address
from tests.delivery.factories import accept, reload
from tests.preferences.factories import RecipientFactory

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("accounts")]
PATH = "/v1/webhooks/twilio"


def text(phone, body, *, sid):
    """A person's SMS as Twilio passes it on: https://www.twilio.com/docs/messaging/guides/webhook-request"""
    fields = {"MessageSid": sid, "SmsStatus": "received", "From": phone, "To": "+15005550006", "Body": body}
    signed = django_settings.PUBLIC_URL + PATH + "".join(f"{name}{fields[name]}" for name in sorted(fields))
    signature = base64.b64encode(hmac.digest(b"twilio-token", signed.encode(), hashlib.sha1)).decode()
    return APIClient().generic(
        "POST",
        PATH,
        urlencode(fields),
        content_type="application/x-www-form-urlencoded",
        headers={"X-Twilio-Signature": signature},
    )


@pytest.fixture
def recipient():
    return RecipientFactory(phone="+15005550123")


def sms_reason(client_row, recipient):
    (delivery,) = accept(client_row.id, recipient.user_id)
    return delivery.reason


def test_stop_suppresses_and_start_lifts_within_one_call_each(client_row, recipient):
    assert text("+15005550123", "Stop", sid="SM" + "1" * 32).status_code == 204
    assert sms_reason(client_row, recipient) == PolicyReason.ADDRESS_SUPPRESSED
    assert text("+15005550123", "START", sid="SM" + "2" * 32).status_code == 204
    assert sms_reason(client_row, recipient) == 0


def test_stop_holds_back_what_was_accepted_before(client_row, recipient, wire):
    (delivery,) = accept(client_row.id, recipient.user_id)
    text("+15005550123", "STOP", sid="SM" + "1" * 32)
    dispatch.deliver([delivery.id])
    assert reload(delivery).status == Status.SUPPRESSED
    assert wire.requests == []


def test_old_stop_that_comes_again_does_not_undo_a_start(client_row, recipient):
    text("+15005550123", "STOP", sid="SM" + "1" * 32)
    text("+15005550123", "START", sid="SM" + "2" * 32)
    text("+15005550123", "STOP", sid="SM" + "1" * 32)
    assert sms_reason(client_row, recipient) == 0
    assert ReceiptEvent.objects.count() == 2


def test_start_does_not_lift_what_stop_did_not_suppress(client_row, recipient):
    suppress_address(channel=Channel.SMS, user_id=recipient.user_id, source="admin", reason="complaint")
    text("+15005550123", "START", sid="SM" + "3" * 32)
    assert sms_reason(client_row, recipient) == PolicyReason.ADDRESS_SUPPRESSED


def test_other_words_change_nothing(client_row, recipient):
    assert text("+15005550123", "thank you", sid="SM" + "4" * 32).status_code == 204
    assert text("+15005550123", "HELP", sid="SM" + "5" * 32).status_code == 204
    assert sms_reason(client_row, recipient) == 0
    assert ReceiptEvent.objects.count() == 0

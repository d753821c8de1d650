import pytest
from django.core.management import call_command
from django.utils import timezone

from apps.channels import Channel
from apps.delivery import dispatch
from apps.delivery.content import Content, open_content
from apps.delivery.models import Notification
from apps.delivery.statuses import Status
from apps.preferences import exports
from apps.preferences.services import erase_recipient
from tests.delivery.factories import accept, reload
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db
WORDS = Content(title="Your order", body="A very private matter")


@pytest.fixture
def recipient():
    return RecipientFactory()


@pytest.fixture
def delivery(client_row, recipient):
    return accept(client_row.id, recipient.user_id, content=WORDS)[0]


def test_export_holds_what_was_sent_and_what_it_said(client_row, recipient, delivery):
    accept(client_row.id, RecipientFactory().user_id)
    exported = exports.export_person(recipient.user_id, now=timezone.now())["notifications"]
    assert exported["is_complete"]
    (item,) = exported["items"]
    assert item["id"] == delivery.notification_id
    assert item["content"]["body"] == "A very private matter"
    assert [one["channel"] for one in item["deliveries"]] == ["sms"]


def test_erasure_takes_the_words_and_what_waits(client_row, recipient, delivery, wire):
    other = accept(client_row.id, RecipientFactory().user_id, content=WORDS)[0]
    erase_recipient(user_id=recipient.user_id)
    contents = {str(row.id): bytes(row.content_ct) for row in Notification.objects.all()}
    assert contents[delivery.notification_id] == b""
    assert len(contents[other.notification_id]) > 0
    dispatch.deliver([delivery.id])
    assert reload(delivery).status == Status.SUPPRESSED
    assert wire.requests == []


@pytest.mark.django_db(transaction=True)
def test_rotation_reaches_the_words_of_what_was_sent(client_row, settings):
    (delivery,) = accept(client_row.id, RecipientFactory().user_id, content=WORDS, channels=(Channel.SMS,))
    settings.PII_KEYS = {**settings.PII_KEYS, "2": "MDAwMTAyMDMwNDA1MDYwNzA4MDkwYTBiMGMwZDBlMGZ="[:43] + "="}
    settings.PII_ACTIVE_KEY = "2"
    call_command("rotate_keys")
    row = Notification.objects.get(id=delivery.notification_id)
    assert bytes(row.content_ct)[1] == 2
    assert open_content(bytes(row.content_ct), row.id) == WORDS

from uuid import UUID

import pytest

from apps.channels import Channel
from apps.delivery.content import (
    Content,
    EmailContent,
    Envelope,
    PoisonContentError,
    PushContent,
    SmsContent,
    open_content,
    seal_content,
    to_message,
    words_of,
)
from apps.delivery.ids import new_notification_id

CONTENT = Content(
    title="Title",
    body="Body",
    html="<p>Body</p>",
    data={"a": "1", "b": "2"},
    collapse_key="key",
    push=PushContent(title="Push title", data={"b": "3"}, badge=4, sound="ping.caf"),
    sms=SmsContent(body="Text"),
    email=EmailContent(title="Subject", html="<b>Mail</b>", from_name="Shop"),
)
ENVELOPE = Envelope(delivery_id=str(UUID(int=1)), address="x", is_high=True)


def test_sealed_content_opens_under_its_own_notification_only():
    notification_id = new_notification_id()
    blob = seal_content(CONTENT, notification_id)
    assert b"Title" not in blob
    assert open_content(blob, notification_id) == CONTENT
    with pytest.raises(PoisonContentError):
        open_content(blob, new_notification_id())


def test_channels_own_words_win():
    push = to_message(words_of(CONTENT, Channel.PUSH), ENVELOPE)
    assert (push.title, push.body, push.data) == ("Push title", "Body", {"a": "1", "b": "3"})
    assert (push.badge, push.sound, push.collapse_key, push.html) == (4, "ping.caf", "key", None)
    assert to_message(words_of(CONTENT, Channel.SMS), ENVELOPE).body == "Text"
    email = to_message(words_of(CONTENT, Channel.EMAIL), ENVELOPE)
    assert (email.title, email.body, email.html, email.from_name) == ("Subject", "Body", "<b>Mail</b>", "Shop")


def test_mail_without_a_title_takes_its_subject_from_the_body():
    content = Content(body="First line\nsecond line " + "x" * 100)
    subject = to_message(words_of(content, Channel.EMAIL), ENVELOPE).title
    assert subject.startswith("First line second line x")
    assert len(subject) == 78

"""What a notification says, as stored: one encrypted JSON blob a notification."""

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple
from uuid import UUID

import msgspec
from msgspec import Meta

from apps.channels import Channel
from apps.preferences import cipher
from apps.providers.messages import Message

SMS_BODY_MAX = 1_600  # Twilio, error 21617: https://www.twilio.com/docs/api/errors/21617
# FCM and APNs carry 4,096 bytes, of which APNs spends some 60 more on its own words; Web Push leaves 3,993 before
# encryption (RFC 8291, 4). What is accepted fits all three.
PUSH_PAYLOAD_MAX = 3_950

SUBJECT_MAX = 78  # RFC 5322, 2.1.1: what a line should not exceed

LINE = r"^[^\x00-\x1f\x7f]*\Z"  # one line: it may become a mail header
Title = Annotated[str, Meta(max_length=1_000, pattern=LINE)]
Body = Annotated[str, Meta(min_length=1, max_length=100_000)]
DataKey = Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_.-]+\Z")]
Data = Annotated[dict[DataKey, Annotated[str, Meta(max_length=4_096)]], Meta(max_length=64)]


class PushContent(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a push says differently, and what only a push has."""

    title: Title | None = None
    body: Body | None = None
    data: Data = {}
    badge: Annotated[int, Meta(ge=0, le=99_999)] | None = None
    sound: Annotated[str, Meta(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_. -]+\Z")] | None = None


class SmsContent(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What an SMS says differently."""

    body: Body | None = None


class EmailContent(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What an e-mail says differently, and what only an e-mail has."""

    title: Title | None = None
    body: Body | None = None
    html: Annotated[str, Meta(min_length=1, max_length=500_000)] | None = None
    from_name: Annotated[str, Meta(min_length=1, max_length=100, pattern=LINE)] | None = None


class Content(msgspec.Struct, frozen=True, omit_defaults=True):
    """The words of a notification, already validated; a channel's own words win. With a ``template`` (a version's id)
    the words are that version's, filled from ``context`` by ``rendering`` right before sending."""

    title: str = ""
    body: str = ""
    html: str | None = None
    data: dict[str, str] = {}
    collapse_key: str | None = None
    push: PushContent = PushContent()
    sms: SmsContent = SmsContent()
    email: EmailContent = EmailContent()
    template: int | None = None
    context: dict[str, Any] = {}
    ordering_key: str | None = None  # in here because it may name somebody; the rows have its hash

    @property
    def push_title(self) -> str:
        return self.title if self.push.title is None else self.push.title

    @property
    def push_body(self) -> str:
        return self.body if self.push.body is None else self.push.body

    @property
    def push_data(self) -> dict[str, str]:
        return {**self.data, **self.push.data}

    @property
    def sms_body(self) -> str:
        """The text of an SMS: the body, or the title where there is no body."""
        return self.sms.body or self.body or self.title

    @property
    def email_subject(self) -> str:
        """The subject: the title, or the beginning of the body where there is no title."""
        title = self.title if self.email.title is None else self.email.title
        return title.strip() or " ".join(self.email_body.split())[:SUBJECT_MAX]

    @property
    def email_body(self) -> str:
        return self.body if self.email.body is None else self.email.body


class PoisonContentError(Exception):
    """Stored content that can be neither decrypted nor decoded."""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Content)


def aad_of(notification_id: UUID) -> str:
    """The associated data of a notification's content: a ciphertext opens in its own row only."""
    return f"notification|content|{notification_id}"


def seal_content(content: Content, notification_id: UUID) -> bytes:
    """The ciphertext to store with the notification."""
    return seal_for(content, aad_of(notification_id))


def seal_for(content: Content, aad: str) -> bytes:
    """The ciphertext with this associated data."""
    return cipher.encrypt(_encoder.encode(content), aad)


def open_content(blob: bytes, notification_id: UUID) -> Content:
    """The stored content; raises ``PoisonContentError``."""
    return unseal_content(blob, aad_of(notification_id))


def unseal_content(blob: bytes, aad: str) -> Content:
    """The content in a blob with this associated data; raises ``PoisonContentError``."""
    try:
        return _decoder.decode(cipher.decrypt(bytes(blob), aad))
    except (cipher.CipherError, msgspec.MsgspecError) as error:
        raise PoisonContentError(type(error).__name__) from error


_OWN_DATA = {"notify_delivery_id": str(UUID(int=1)), "notify_ack": "x" * 22}


def push_payload_bytes(content: Content) -> int:
    """The size of the push payload a provider will see, in bytes, our own two data fields included."""
    payload: Mapping[str, Any] = {
        "notification": {"title": content.push_title, "body": content.push_body},
        "data": {**content.push_data, **_OWN_DATA},
    }
    return len(_encoder.encode(payload))


_SURROUNDINGS_BYTES = push_payload_bytes(Content())


def find_oversize(content: Content, channels: set[Channel]) -> tuple[str, str] | None:
    """The field that is too large for one of the channels, as (JSON pointer, what to do), or ``None``."""
    if Channel.PUSH in channels and _may_be_oversize(content):
        size = push_payload_bytes(content)
        if size > PUSH_PAYLOAD_MAX:
            return _largest_push_field(content), (
                f"a push carries at most {PUSH_PAYLOAD_MAX} bytes; title, body and data make {size}: shorten it"
            )
    if Channel.SMS in channels and len(content.sms_body) > SMS_BODY_MAX:
        pointer = "/content/body" if content.sms.body is None else "/content/sms/body"
        return pointer, f"an SMS carries at most {SMS_BODY_MAX} characters; shorten it"
    return None


def _may_be_oversize(content: Content) -> bool:
    """Whether a push has to be measured: short words alone, of six bytes a character at most, are never too much."""
    characters = len(content.push_title) + len(content.push_body)
    return bool(content.data or content.push.data) or _SURROUNDINGS_BYTES + 6 * characters > PUSH_PAYLOAD_MAX


def _largest_push_field(content: Content) -> str:
    sizes = {
        "/data": len(msgspec.json.encode(content.data)),
        "/content/push/data": len(msgspec.json.encode(content.push.data)),
        "/content/body" if content.push.body is None else "/content/push/body": len(content.push_body.encode()),
        "/content/title" if content.push.title is None else "/content/push/title": len(content.push_title.encode()),
    }
    return max(sizes, key=lambda pointer: sizes[pointer])


class Envelope(NamedTuple):
    """Everything about one message but its words. See ``Message`` for the fields."""

    delivery_id: str
    address: str
    is_high: bool
    ttl_s: int | None = None
    ack: str | None = None
    callback_url: str | None = None
    platform: str = ""
    unsubscribe_url: str | None = None


class Words(NamedTuple):
    """What a message says, the same for all who get it. See ``Message`` for the fields."""

    title: str = ""
    body: str = ""
    data: Mapping[str, str] = {}
    html: str | None = None
    badge: int | None = None
    sound: str | None = None
    from_name: str | None = None
    collapse_key: str | None = None


def words_of(content: Content, channel: Channel) -> Words:
    """What ``content`` says on a channel."""
    if channel is Channel.PUSH:
        return Words(
            title=content.push_title,
            body=content.push_body,
            data=content.push_data,
            badge=content.push.badge,
            sound=content.push.sound,
            collapse_key=content.collapse_key,
        )
    if channel is Channel.SMS:
        return Words(body=content.sms_body, collapse_key=content.collapse_key)
    return Words(
        title=content.email_subject,
        body=content.email_body,
        html=content.email.html or content.html,
        from_name=content.email.from_name,
        collapse_key=content.collapse_key,
    )


def to_message(words: Words, envelope: Envelope) -> Message:
    """The message an adapter gets for one delivery."""
    delivery_id, address, is_high, ttl_s, ack, callback_url, platform, unsubscribe_url = envelope
    title, body, data, html, badge, sound, from_name, collapse_key = words
    # In the order of its fields, which is quicker than by name: this is done for every message there is.
    return Message(
        delivery_id, address, title, body, data, html, is_high, ttl_s, collapse_key, callback_url, ack, platform,
        badge, sound, from_name, unsubscribe_url,
    )  # fmt: skip

"""What a notification says, as stored: one encrypted JSON blob a notification."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import msgspec

from apps.channels import Channel
from apps.delivery.ids import delivery_range
from apps.preferences import cipher
from apps.providers.messages import Message

SMS_BODY_MAX = 1_600  # Twilio, error 21617: https://www.twilio.com/docs/api/errors/21617
FCM_PAYLOAD_MAX = 4_096  # https://firebase.google.com/docs/cloud-messaging/customize-messages/set-message-type


class Content(msgspec.Struct, frozen=True, omit_defaults=True):
    """The words of a notification, already validated."""

    title: str = ""
    body: str = ""
    html: str | None = None
    data: dict[str, str] = {}
    collapse_key: str | None = None


class PoisonContentError(Exception):
    """Stored content that can be neither decrypted nor decoded."""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Content)


def _aad(notification_id: UUID) -> str:
    return f"notification|content|{notification_id}"


def seal_content(content: Content, notification_id: UUID) -> bytes:
    """The ciphertext to store with the notification."""
    return cipher.encrypt(_encoder.encode(content), _aad(notification_id))


def open_content(blob: bytes, notification_id: UUID) -> Content:
    """The stored content; raises ``PoisonContentError``."""
    try:
        return _decoder.decode(cipher.decrypt(bytes(blob), _aad(notification_id)))
    except (cipher.CipherError, msgspec.MsgspecError) as error:
        raise PoisonContentError(type(error).__name__) from error


def push_payload_bytes(content: Content) -> int:
    """The size of the push payload a provider will see, in bytes, our own two data fields included."""
    low, _ = delivery_range(UUID(int=0))
    payload: Mapping[str, Any] = {
        "notification": {"title": content.title, "body": content.body},
        "data": {**content.data, "notify_delivery_id": str(low), "notify_ack": "x" * 22},
    }
    return len(msgspec.json.encode(payload))


def find_oversize(content: Content, channels: set[Channel]) -> tuple[str, str] | None:
    """The field that is too large for one of the channels, as (JSON pointer, what to do), or ``None``."""
    if Channel.PUSH in channels:
        size = push_payload_bytes(content)
        if size > FCM_PAYLOAD_MAX:
            field = "data" if len(msgspec.json.encode(content.data)) > FCM_PAYLOAD_MAX // 2 else "body"
            return f"/content/{field}", (
                f"a push carries at most {FCM_PAYLOAD_MAX} bytes, title, body and data together make {size}; shorten it"
            )
    if Channel.SMS in channels and len(sms_text(content)) > SMS_BODY_MAX:
        return "/content/body", f"an SMS carries at most {SMS_BODY_MAX} characters; shorten it"
    return None


def sms_text(content: Content) -> str:
    """The text of an SMS: the body, or the title where there is no body."""
    return content.body or content.title


def to_message(
    content: Content,
    *,
    channel: Channel,
    delivery_id: str,
    address: str,
    is_high: bool,
    ttl_s: int | None,
    ack: str | None,
    callback_url: str | None,
) -> Message:
    """The message an adapter gets for one delivery."""
    return Message(
        delivery_id=delivery_id,
        address=address,
        title=content.title,
        body=sms_text(content) if channel is Channel.SMS else content.body,
        html=content.html if channel is Channel.EMAIL else None,
        data=content.data,
        is_high=is_high,
        ttl_s=ttl_s,
        collapse_key=content.collapse_key,
        ack=ack,
        callback_url=callback_url,
    )

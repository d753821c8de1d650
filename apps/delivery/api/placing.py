"""From a request's decoded body to an order."""

from typing import Any

from apps.channels import CHANNEL_LABELS, Channel, Lane
from apps.delivery.api.requests import ContentBody, NotificationBody, to_utc
from apps.delivery.content import Content
from apps.delivery.orders import Order, fingerprint_of
from apps.problems import invalid_field
from apps.providers.adapters.fcm import RESERVED_DATA_KEYS, RESERVED_DATA_PREFIXES

# What FCM reserves, and what is ours.
RESERVED_DATA_NAMES = frozenset({*RESERVED_DATA_KEYS, "collapse_key"})
RESERVED_DATA_STARTS = (*RESERVED_DATA_PREFIXES, "notify_")


def to_order(client_id: int, key: str, raw: Any, body: NotificationBody, trace_id: str) -> Order:
    """The order of ``body``, decoded from ``raw`` (parsed JSON); raises a 422 ``Problem`` for what it cannot mean."""
    return Order(
        client_id=client_id,
        idempotency_key=key,
        fingerprint=fingerprint_of(raw),
        user_id=body.user_id,
        type=body.type,
        category=body.category,
        lane=Lane.from_label(body.priority),
        content=_content(body),
        trace_id=trace_id,
        channels=_channels(body),
        send_at=to_utc(body.send_at, "/send_at"),
        expires_at=to_utc(body.expires_at, "/expires_at"),
        is_dry_run=body.dry_run,
        ordering_key=body.ordering_key,
        template=body.template,
        context=body.context,
    )


def _content(body: NotificationBody) -> Content:
    if body.content is not None:
        return to_content(body.content, body.data, body.collapse_key)
    check_data(body.data, "/data")
    return Content(data=body.data, collapse_key=body.collapse_key)


def to_content(content: ContentBody, data: dict[str, str], collapse_key: str | None) -> Content:
    """The content to store; raises a 422 ``Problem`` for reserved names in the data."""
    check_data(data, "/data")
    check_data(content.push.data, "/content/push/data")
    return Content(
        title=content.title,
        body=content.body,
        html=content.html,
        data=data,
        collapse_key=collapse_key,
        push=content.push,
        sms=content.sms,
        email=content.email,
    )


def _channels(body: NotificationBody) -> tuple[Channel, ...] | None:
    """The channels asked for, each once; a type named like a channel chooses that one."""
    if body.channels is not None:
        return tuple(dict.fromkeys(map(Channel.from_label, body.channels)))
    return (Channel.from_label(body.type),) if body.type in CHANNEL_LABELS else None


def check_data(data: dict[str, str], pointer: str) -> None:
    """Raises a 422 ``Problem`` for a reserved name."""
    # Keys that FCM reserves: https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages (data)
    for name in data:
        if name in RESERVED_DATA_NAMES or name.startswith(RESERVED_DATA_STARTS):
            raise invalid_field(f"{pointer}/{name}", "this name is reserved; choose another")

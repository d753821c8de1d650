"""The shape of an order for a broadcast, and from it to the order."""

from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from apps.channels import Channel
from apps.delivery.api.placing import check_data, to_content
from apps.delivery.api.requests import ChannelName, ContentBody, Moment, to_utc
from apps.delivery.broadcasts.audience import MAX_USER_IDS, PLATFORMS
from apps.delivery.broadcasts.orders import BroadcastOrder, SendWindow
from apps.delivery.content import Content, Data
from apps.delivery.templating.resolving import Context, TemplateReference, resolve, with_data
from apps.preferences import profile
from apps.problems import invalid_field

RATE_MAX = 1_000_000
CANARY_MAX = 0.5
ERROR_RATE_DEFAULT = 0.1
_SCALAR = {"type": ["string", "number", "boolean", "null"]}
_CONDITION = {
    "type": "object",
    "description": "One of `all` and `any` (lists of conditions), `not` (a condition), `attribute` with a test, "
    "`locale`, `platform` and `category`; at most 50 of them, 5 levels deep.",
    "minProperties": 1,
    "properties": {
        "all": {"type": "array", "minItems": 1, "items": {"type": "object"}},
        "any": {"type": "array", "minItems": 1, "items": {"type": "object"}},
        "not": {"type": "object"},
        "attribute": {
            "description": "An attribute's name, or a list of names that lead to an inner one.",
            "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "maxItems": 5}],
        },
        "is": _SCALAR,
        "in": {"type": "array", "minItems": 1, "maxItems": 100, "items": _SCALAR},
        "exists": {"type": "boolean"},
        "at_least": {"type": "number"},
        "below": {"type": "number"},
        "locale": {"type": "string", "description": "`de` is also `de-AT`."},
        "platform": {"type": "string", "enum": list(PLATFORMS)},
        "category": {"type": "string", "description": "Who asked for this category on the channel."},
    },
    "additionalProperties": False,
}
AUDIENCE_SCHEMA: dict[str, Any] = {
    "description": "Who gets it: exactly one of these.",
    "minProperties": 1,
    "maxProperties": 1,
    "properties": {
        "everybody": {"type": "boolean", "const": True},
        "filter": _CONDITION,
        "user_ids": {"type": "array", "minItems": 1, "maxItems": MAX_USER_IDS, "items": {"type": "string"}},
        "upload_id": {"type": "string", "format": "uuid", "description": "From `POST /v1/audiences`."},
    },
    "additionalProperties": False,
}
Audience = Annotated[dict[str, Any], Meta(extra_json_schema=AUDIENCE_SCHEMA)]
RetriableName = Literal["dead", "failed"]
Share = Annotated[float, Meta(ge=0, le=1)]
TimeOfDay = Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]\Z")]


class SendWindowBody(msgspec.Struct, forbid_unknown_fields=True):
    """The hours in which anything leaves, on one clock for all. An `end` before the `start` is on the next day."""

    start: TimeOfDay
    end: TimeOfDay
    time_zone: Annotated[str, Meta(min_length=1, max_length=64, description="IANA, e.g. Europe/Berlin.")]


class CanaryBody(msgspec.Struct, forbid_unknown_fields=True):
    """`share` of the people get it first; only when all of them are done and went well it goes on. Beyond
    `max_error_rate` failed deliveries it halts by itself, then and later."""

    share: Annotated[float, Meta(ge=0, le=CANARY_MAX)]
    max_error_rate: Share = ERROR_RATE_DEFAULT


class BroadcastBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/broadcasts`: either `content`, or a `template` with its `context`."""

    name: Annotated[str, Meta(min_length=1, max_length=200, description="For people.")]
    type: Annotated[str, Meta(max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]*\Z")]
    channels: Annotated[list[ChannelName], Meta(min_length=1, max_length=3)]
    audience: Audience
    content: ContentBody | None = None
    template: TemplateReference | None = None
    context: Context = {}
    category: Annotated[str, Meta(max_length=64, pattern=r"^[a-z0-9_.-]*\Z")] = ""
    data: Data = {}
    collapse_key: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[\x21-\x7e]+\Z")] | None = None
    send_at: Moment | None = None
    expires_at: Moment | None = None
    rate_per_s: (
        Annotated[int, Meta(ge=1, le=RATE_MAX, description="Recipients a second, over all channels.")] | None
    ) = None
    send_window: SendWindowBody | None = None
    canary: CanaryBody | None = None
    trace_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z")] | None = None
    dry_run: Annotated[bool, Meta(description="Check everything, count the people, send nothing.")] = False


class PreviewBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/broadcasts/preview`."""

    audience: Audience
    channels: Annotated[list[ChannelName], Meta(min_length=1, max_length=3)] = msgspec.field(
        default_factory=lambda: list(get_args(ChannelName))
    )
    category: Annotated[str, Meta(max_length=64, pattern=r"^[a-z0-9_.-]*\Z")] = ""
    send_at: Moment | None = None
    expires_at: Moment | None = None


class RetryBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST …/retry-failed`, which may be left out."""

    statuses: Annotated[list[RetriableName], Meta(min_length=1, max_length=2)] = msgspec.field(
        default_factory=lambda: list(get_args(RetriableName))
    )


def to_channels(labels: list[ChannelName]) -> tuple[Channel, ...]:
    """The channels, each once."""
    return tuple(dict.fromkeys(Channel.from_label(label) for label in labels))


def to_broadcast_order(client_id: int, body: BroadcastBody, trace_id: str) -> BroadcastOrder:
    """The order of ``body``; raises a 422 ``Problem`` for what it cannot mean."""
    return BroadcastOrder(
        client_id=client_id,
        name=body.name,
        type=body.type,
        category=body.category,
        channels=to_channels(body.channels),
        content=_to_content(client_id, body),
        audience=body.audience,
        trace_id=trace_id,
        send_at=to_utc(body.send_at, "/send_at"),
        expires_at=to_utc(body.expires_at, "/expires_at"),
        rate_per_s=body.rate_per_s,
        send_window=None if body.send_window is None else _to_window(body.send_window),
        canary_share=0.0 if body.canary is None else body.canary.share,
        max_error_rate=None if body.canary is None else body.canary.max_error_rate,
    )


def _to_content(client_id: int, body: BroadcastBody) -> Content:
    if (body.content is None) == (body.template is None):
        raise invalid_field("/content", "give either content or a template", "required")
    if body.template is None:
        if body.context:
            raise invalid_field("/context", "a context goes with a template only")
        assert body.content is not None
        return to_content(body.content, body.data, body.collapse_key)
    resolution = resolve(client_id, body.template, body.context, to_channels(body.channels))
    check_data(body.data, "/data")
    return with_data(resolution.content, body.data, body.collapse_key)


def _to_window(body: SendWindowBody) -> SendWindow:
    try:
        zone = profile.check_time_zone(body.time_zone)
    except profile.InvalidValue as error:
        raise invalid_field("/send_window/time_zone", str(error)) from None
    return SendWindow(body.start, body.end, zone)

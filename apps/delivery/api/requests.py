"""The shape of what clients send, as typed structs: decoding checks every field and names the wrong one."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

import msgspec
from msgspec import Meta

from apps.delivery.content import Body, Data, EmailContent, PushContent, SmsContent, Title
from apps.delivery.templating.resolving import Context, TemplateReference
from apps.problems import FieldError, Problem, invalid_field

UserId = Annotated[str, Meta(min_length=1, max_length=128, description="Your name for the person.")]
Moment = Annotated[datetime, Meta(tz=True, description="RFC 3339 with an offset, e.g. 2026-11-22T18:30:00+01:00.")]
IDEMPOTENCY_KEY_MAX = 255
BATCH_ITEMS_MAX = 1_000
ChannelName = Literal["push", "sms", "email"]


class ContentBody(msgspec.Struct, forbid_unknown_fields=True):
    """The words. `title` is a push's title or an e-mail's subject; `html` is for e-mail only. Below `push`, `sms` and
    `email` stand the words that differ on that channel."""

    body: Body
    title: Title = ""
    html: Annotated[str, Meta(min_length=1, max_length=500_000)] | None = None
    push: PushContent = PushContent()
    sms: SmsContent = SmsContent()
    email: EmailContent = EmailContent()


class NotificationBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/notifications`. Its words are in `content`, or they are a `template`'s, filled in from
    `context`."""

    user_id: UserId
    type: Annotated[
        str,
        Meta(
            max_length=64,
            pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]*\Z",
            description="What it is, e.g. `otp`. The names `push`, `sms` and `email` also choose that channel.",
        ),
    ]
    priority: Annotated[Literal["high", "bulk"], Meta(description="The lane it travels in.")]
    content: ContentBody | None = None
    template: TemplateReference | None = None
    context: Context = {}
    category: Annotated[str, Meta(max_length=64, pattern=r"^[a-z0-9_.-]*\Z")] = ""
    channels: (
        Annotated[
            list[ChannelName],
            Meta(min_length=1, max_length=3, description="Default: every channel the person can be reached on."),
        ]
        | None
    ) = None
    data: Data = {}
    collapse_key: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[\x21-\x7e]+\Z")] | None = None
    send_at: Moment | None = None
    expires_at: Moment | None = None
    trace_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z")] | None = None
    dry_run: bool = False
    ordering_key: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=128,
                pattern=r"^[\x21-\x7e]+\Z",
                description="What you send one person under one key arrives at each channel's provider in the order in "
                "which it was accepted, one at a time. What was accepted at the same time has no order.",
            ),
        ]
        | None
    ) = None

    def __post_init__(self) -> None:
        if self.template is None and self.content is None:
            raise ValueError("Object missing required field `content`")
        if self.template is not None and self.content is not None:
            raise ValueError("give either content or a template")
        if self.template is None and self.context:
            raise ValueError("Object missing required field `template`")


class BatchItemBody(NotificationBody, kw_only=True):
    """One notification of a batch; `idempotency_key` is what the header `X-Idempotency-Key` is for a single one."""

    idempotency_key: Annotated[
        str,
        Meta(min_length=1, max_length=IDEMPOTENCY_KEY_MAX, pattern=r"^[\x21-\x7e]+\Z", description="Unique per item."),
    ]


class BatchBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/notifications/batch`."""

    items: Annotated[list[BatchItemBody], Meta(min_length=1, max_length=BATCH_ITEMS_MAX)]


class DeadLetterFilterBody(msgspec.Struct, forbid_unknown_fields=True):
    """Which dead deliveries; what is not given does not matter."""

    provider: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    channel: ChannelName | None = None
    reason: Literal["attempts_used_up", "poison"] | None = None
    error_code: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    since: Moment | None = None
    until: Moment | None = None


class ReplayBody(msgspec.Struct, forbid_unknown_fields=True):
    """The body of `POST /v1/dead-letters/replay`: either `ids` or `filter` (an empty one means all)."""

    ids: Annotated[list[UUID], Meta(min_length=1, max_length=1_000)] | None = None
    filter: DeadLetterFilterBody | None = None
    rate_per_s: Annotated[
        float, Meta(ge=0.1, le=10_000, description="How many of them are due in each second from now on.")
    ] = 100.0
    limit: Annotated[int, Meta(ge=1, le=100_000)] = 100_000


EARLIEST_YEAR, LATEST_YEAR = 2000, 2999
_Body = TypeVar("_Body")
_PATH = re.compile(r" - at (?:`key` in )?`\$(?P<path>[^`]*)`$")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<field>[^`]*)`")
_MISSING = re.compile(r"Object missing required field `(?P<field>[^`]*)`")


def decode_body(data: Any, shape: type[_Body]) -> _Body:
    """``data`` (parsed JSON) as ``shape``; raises a 422 ``Problem`` that points at the first wrong field."""
    try:
        return msgspec.convert(data, shape, strict=True)
    except msgspec.ValidationError as error:
        field_error = to_field_error(str(error))
        raise Problem(422, "invalid-request", field_error.detail, errors=[field_error]) from None


def to_utc(moment: datetime | None, pointer: str) -> datetime | None:
    """``moment`` in UTC; raises a 422 ``Problem`` for a year that no calendar of ours holds in every zone."""
    if moment is None:
        return None
    if not EARLIEST_YEAR <= moment.year <= LATEST_YEAR:
        raise invalid_field(pointer, f"the year must be {EARLIEST_YEAR} to {LATEST_YEAR}")
    return moment.astimezone(UTC)


def to_field_error(message: str) -> FieldError:
    """msgspec's words (``Expected `str`, got `int` - at `$.content.title```) as a pointer and a sentence."""
    match = _PATH.search(message)
    steps = [a or b for a, b in _STEP.findall(match["path"])] if match else []
    text = _PATH.sub("", message)
    code = "invalid"
    if named := _UNKNOWN.search(text):
        steps, text, code = [*steps, named["field"]], "there is no such field; remove it", "unknown_field"
    elif named := _MISSING.search(text):
        steps, text, code = [*steps, named["field"]], "this field is required", "required"
    pointer = "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps if step != "...")
    return FieldError(pointer, text[:300].replace("`", ""), code)

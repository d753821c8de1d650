"""The values that go into and come out of an adapter. Plain data: no socket, clock, ORM or settings."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import msgspec

from apps.labels import Labelled
from apps.providers.errors import ProviderError


class Message(msgspec.Struct, frozen=True, gc=False):
    """One message to one address. ``delivery_id`` is a UUID in canonical text form and comes back in the
    ``Result`` and, through the provider, in the receipt.

    ``address`` is a device token, an E.164 number or an e-mail address. ``ttl_s`` is how many seconds the
    message is still worth delivering (``None``: the provider's default). ``callback_url`` is where a
    provider that takes a URL per message (Twilio) shall send receipts. ``platform`` is a device's
    (``android``, ``ios``, ``web``), ``badge`` and ``sound`` are a push's, ``from_name`` is an e-mail's
    sender's name in place of the configured one, ``unsubscribe_url`` is what an e-mail's
    ``List-Unsubscribe`` (RFC 8058) names. ``ack`` authenticates a device's acknowledgement of a push (see
    ``apps.providers.receipts``)."""

    delivery_id: str
    address: str
    title: str = ""
    body: str = ""
    data: Mapping[str, str] = {}
    html: str | None = None
    is_high: bool = False
    ttl_s: int | None = None
    collapse_key: str | None = None
    callback_url: str | None = None
    ack: str | None = None
    platform: str = ""
    badge: int | None = None
    sound: str | None = None
    from_name: str | None = None
    unsubscribe_url: str | None = None


@dataclass(frozen=True, slots=True)
class BuildContext:
    """What an adapter needs from the outside to build requests: the time (aware, UTC) and, for providers
    with a token grant, the access token."""

    now: datetime
    access_token: str | None = None


MAX_BODY_BYTES = 65_536  # of an answer


class ProviderRequest(msgspec.Struct, frozen=True, gc=False):
    """One HTTP request and the messages it carries. ``headers`` are (name, value) pairs.
    A request with ``rejected`` set is never sent: the adapter already knows the answer
    (payload too large, unsupported feature)."""

    messages: tuple[Message, ...]
    url: str = ""
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    rejected: ProviderError | None = None


class ProviderResponse(msgspec.Struct, frozen=True, gc=False):
    """A complete HTTP answer. Header names are lower case; ``latency_s`` is first byte out to last byte in."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    latency_s: float = 0.0


class TransportFailure(msgspec.Struct, frozen=True, gc=False):
    """No answer. ``has_left`` says whether the request may have reached the provider:
    ``False`` is safe to repeat, ``True`` is an unknown outcome. ``was_started`` is ``False`` if our own time was up
    before the request's turn came."""

    has_left: bool
    detail: str
    latency_s: float = 0.0
    was_started: bool = True


Outcome = ProviderResponse | TransportFailure


class Result(msgspec.Struct, frozen=True, gc=False):
    """What became of one message: ``error`` is ``None`` when the provider accepted it. ``segments`` is how many parts
    an SMS takes, which is what it costs; ``None`` for other channels."""

    delivery_id: str
    provider_message_id: str | None = None
    error: ProviderError | None = None
    latency_s: float = 0.0
    segments: int | None = None


class ReceiptKind(Labelled):
    """What a receipt says about a delivery. The numbers are stored; never reuse one."""

    ACCEPTED = 1  # the carrier or mail server took it; not yet with the person
    DELIVERED = 2
    FAILED = 3  # the provider gave up for good
    BOUNCED = 4  # the address does not exist (hard bounce)
    COMPLAINED = 5
    UNSUBSCRIBED = 6
    STOPPED = 7  # the person answered STOP
    STARTED = 8  # the person answered START


class WebhookCall(msgspec.Struct, frozen=True, gc=False):
    """A provider's call as it came in: ``url`` is our configured public URL including the query (never
    rebuilt from the Host header), ``headers`` have lower-case names, ``body`` is the raw bytes. ``certificates`` are
    PEM files by URL: those that the adapter asked for and the control plane fetched (see ``SubscribedAdapter``)."""

    url: str
    headers: Mapping[str, str]
    body: bytes
    certificates: Mapping[str, bytes] = {}


@dataclass(frozen=True, slots=True)
class Receipt:
    """One event of a webhook call. ``event_id`` is unique within the provider; ``delivery_id`` is ours,
    as the provider echoed it, or ``None`` if it did not. Holds no personal data."""

    event_id: str
    kind: ReceiptKind
    occurred_at: datetime
    delivery_id: str | None = None
    provider_message_id: str | None = None
    code: str = ""


Keyword = Literal["", "stop", "start", "help"]


@dataclass(frozen=True, slots=True)
class InboundMessage:
    """A message that a person sent to us. ``event_id`` is unique within the provider, its receipts included.
    ``address`` is the person's E.164 number, and stays out of ``repr``; ``keyword`` is what the text asks for, ``""``
    if it is no keyword. The text itself goes no further."""

    event_id: str
    address: str = field(repr=False)
    keyword: Keyword
    occurred_at: datetime

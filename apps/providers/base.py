"""The contract of a provider adapter. Sans-I/O: an adapter computes, the transport sends."""

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Protocol, runtime_checkable

from apps.channels import Channel
from apps.providers.grants import Grant
from apps.providers.messages import (
    BuildContext,
    InboundMessage,
    Message,
    ProviderRequest,
    ProviderResponse,
    Receipt,
    Result,
    TransportFailure,
    WebhookCall,
)


class Adapter(Protocol):
    """One provider account. Built once per process from its settings entry, as ``Adapter(alias, options)``, which
    raises ``ConfigurationError``; stateless and thread-safe. ``grant`` says how to get an access token, if
    it takes one.

    ``build`` and ``parse`` are total: whatever the messages or the answer, every message of the input
    comes back exactly once, as part of a request or as a ``Result``; they never raise."""

    channel: ClassVar[Channel]
    alias: str
    grant: Grant | None

    def build(self, messages: Sequence[Message], context: BuildContext) -> list[ProviderRequest]:
        """The requests that carry all ``messages``."""

    def parse(self, request: ProviderRequest, response: ProviderResponse | TransportFailure) -> list[Result]:
        """One ``Result`` per message of ``request``."""

    def verify_receipt(self, call: WebhookCall, now: datetime) -> None:
        """Raises ``ForgedReceipt`` unless the raw bytes carry the provider's valid, fresh signature."""

    def parse_receipts(self, call: WebhookCall, now: datetime) -> list[Receipt]:
        """The events of a verified call; raises ``MalformedReceipt``."""


@runtime_checkable
class InboundAdapter(Protocol):
    """An adapter whose provider also brings what people write to us, in calls signed like its receipts."""

    def parse_inbound(self, call: WebhookCall, now: datetime) -> list[InboundMessage]:
        """The messages in a verified call, none if it brings receipts; raises ``MalformedReceipt``."""


@runtime_checkable
class SubscribedAdapter(Protocol):
    """An adapter whose provider signs with a certificate to be fetched, and asks whether its calls are welcome."""

    def find_certificate_url(self, call: WebhookCall) -> str | None:
        """Where the certificate is that ``call`` claims to be signed with; ``None`` unless the place is the provider's
        own. ``verify_receipt`` looks for it in ``call.certificates``."""

    def find_confirmation_url(self, call: WebhookCall) -> str | None:
        """What to GET to agree to further calls, if that is what a verified ``call`` asks for; a place of the
        provider's own."""

"""The contract of a provider adapter. Sans-I/O: an adapter computes, the transport sends."""

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Protocol

from apps.channels import Channel
from apps.providers.grants import Grant
from apps.providers.messages import (
    BuildContext,
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

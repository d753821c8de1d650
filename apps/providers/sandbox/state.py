"""What the provider modules share: the credentials, and the one place where an accepted message is recorded."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from apps.providers.sandbox.credentials import Credentials
from apps.providers.sandbox.exchange import Answer, Request
from apps.providers.sandbox.faults import Faults, Rule
from apps.providers.sandbox.inbox import Inbox, InboxMessage, Shown
from apps.providers.sandbox.ledger import Ledger, hash_address
from apps.providers.sandbox.posting import Poster, Receipt
from apps.providers.sandbox.receipts import ReceiptOffice


class Provider(Protocol):
    """One provider. To add one: a module with a class like this, and a line in ``server.PROVIDERS``.

    ``name`` is the prefix of its paths, ``channel`` is ``push``, ``sms`` or ``email``."""

    name: str
    channel: str
    poster: Poster

    def handle(self, request: Request) -> Answer:
        """The answer to a call below ``/<name>/``. Never blocks."""

    def show(self, source: Any) -> Shown:
        """An accepted message as a person sees it."""

    def check_rule(self, rule: Rule) -> None:
        """Raises ``InvalidRuleError`` if the provider knows no such status or code."""


@dataclass(slots=True)
class Traffic:
    """``accepted`` messages are in the ledger; ``rejected`` calls were answered with an error, ``errors`` by code;
    ``dropped`` calls had their connection cut, recorded before or not."""

    accepted: int = 0
    rejected: int = 0
    dropped: int = 0
    errors: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Accepted:
    """One message a provider has taken on. ``size`` is the request's body in bytes, ``source`` what ``Provider.show``
    needs to show it."""

    delivery_id: str
    message_id: str
    address: str
    size: int
    source: Any = None


class Sandbox:
    """Ledger, inbox, faults, receipts and counts of all providers. Used by the server's one thread. A provider may add
    calls of its own to ``controls``, by method and path below ``/_sandbox/``, and what it forgets to ``on_reset``."""

    def __init__(self, credentials: Credentials, ledger: Ledger) -> None:
        self.credentials = credentials
        self.ledger = ledger
        self.inbox = Inbox()
        self.receipts = ReceiptOffice()
        self.providers: dict[str, Provider] = {}
        self.faults: dict[str, Faults] = {}
        self.traffic: dict[str, Traffic] = {}
        self.controls: dict[tuple[str, str], Callable[[Request], Answer]] = {}
        self.on_reset: list[Callable[[], None]] = []

    def register(self, provider: Provider) -> None:
        self.providers[provider.name] = provider
        self.faults[provider.name] = Faults()
        self.traffic[provider.name] = Traffic()
        self.receipts.register(provider.name, provider.poster)

    def accept(self, provider: Provider, message: Accepted, receipts: Sequence[Receipt] = ()) -> None:
        """Records ``message`` and sends ``receipts`` on their way."""
        at_ms = time.time_ns() // 1_000_000
        number = self.ledger.append(
            at_ms=at_ms,
            provider=provider.name,
            delivery_id=message.delivery_id,
            message_id=message.message_id,
            address_sha256=hash_address(message.address),
            size=message.size,
        )
        self.traffic[provider.name].accepted += 1
        self.inbox.add(
            InboxMessage(
                n=number,
                at=at_ms,
                provider=provider.name,
                delivery_id=message.delivery_id,
                provider_message_id=message.message_id,
                to=message.address,
                source=message.source,
            )
        )
        if receipts:
            self.receipts.schedule(provider.name, receipts)

    def reject(self, provider: Provider, code: str, answer: Answer) -> Answer:
        """Counts an error answer."""
        traffic = self.traffic[provider.name]
        traffic.rejected += 1
        traffic.errors[code] += 1
        return answer

    def drop(self, provider: Provider, answer: Answer) -> Answer:
        """Counts a connection about to be cut."""
        self.traffic[provider.name].dropped += 1
        return answer

    def reset(self) -> None:
        """As freshly started with an empty data directory, credentials apart."""
        self.ledger.clear()
        self.inbox.clear()
        self.receipts.clear()
        for forget in self.on_reset:
            forget()
        for name in self.providers:
            self.faults[name].replace(())
            self.traffic[name] = Traffic()

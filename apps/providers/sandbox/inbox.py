"""The last messages as a person would see them, in memory only: they hold addresses and content."""

import secrets
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CAPACITY = 1_000


@dataclass(frozen=True, slots=True)
class Shown:
    """What a person sees of a message."""

    sender: str = ""
    title: str = ""
    body: str = ""
    html: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InboxMessage:
    """``n`` and ``at`` (Unix ms) are those of the ledger. ``source`` is what the provider needs to show the message:
    few are ever looked at, so none is rendered before."""

    n: int
    at: int
    provider: str
    delivery_id: str
    provider_message_id: str
    to: str
    source: Any


class Inbox:
    """Keeps the newest ``CAPACITY`` messages. ``epoch`` changes when it is cleared, so that a page starts over."""

    def __init__(self) -> None:
        self._messages: deque[InboxMessage] = deque(maxlen=CAPACITY)
        self.epoch = secrets.token_hex(4)

    def add(self, message: InboxMessage) -> None:
        self._messages.append(message)

    def newer_than(self, after: int, *, limit: int) -> list[InboxMessage]:
        """The newest ``limit`` messages numbered above ``after``, oldest first."""
        found: list[InboxMessage] = []
        for message in reversed(self._messages):
            if message.n <= after or len(found) == limit:
                break
            found.append(message)
        return found[::-1]

    def clear(self) -> None:
        self._messages.clear()
        self.epoch = secrets.token_hex(4)

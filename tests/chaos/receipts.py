"""Receipts of SendGrid, made and signed as the sandbox does, but posted by the harness: as often as it likes, in any
order, and with any signature."""

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import requests

from apps.providers.sandbox.credentials import load_credentials
from apps.providers.sandbox.ledger import Ledger
from apps.providers.sandbox.posting import Poster, Receipt
from apps.providers.sandbox.sendgrid import SendGridProvider
from apps.providers.sandbox.state import Sandbox

EVENTS_PER_CALL = 100
TRIES = 20


@dataclass(frozen=True, slots=True)
class Event:
    """What is said about a delivery, e.g. ``delivered`` or ``bounce``; a forged one has a wrong signature."""

    delivery_id: str
    word: str
    is_forged: bool = False

    @property
    def event_id(self) -> str:
        """The same event has the same id however often it is told."""
        return f"{self.word}-{self.delivery_id}"


class ReceiptPoster:
    """Posts events to ``url``; ``answers`` counts the statuses by whether the call was forged."""

    def __init__(self, sandbox_home: Path, scratch: Path, web_url: str) -> None:
        ledger = Ledger(scratch / "receipts-scratch.jsonl")  # a sandbox has one; nothing is written here
        self._poster: Poster = SendGridProvider(Sandbox(load_credentials(sandbox_home), ledger)).poster
        self._url = f"{web_url}/v1/webhooks/sendgrid"
        self.answers: Counter[tuple[bool, int]] = Counter()

    def post(self, events: Sequence[Event], dice: random.Random) -> None:
        """Everything, shuffled, in calls of ``EVENTS_PER_CALL``, a few at a time."""
        calls = [
            part for is_forged in (False, True) for part in _cut([one for one in events if one.is_forged is is_forged])
        ]
        dice.shuffle(calls)
        with ThreadPoolExecutor(4) as pool:
            for is_forged, status in pool.map(self._post_call, calls):
                self.answers[is_forged, status] += 1

    def _post_call(self, events: Sequence[Event]) -> tuple[bool, int]:
        """A provider tries again while nobody answers."""
        is_forged = events[0].is_forged
        receipts = [Receipt(payload=_payload(event), url=self._url, occurred_at=time.time()) for event in events]
        status = 0
        for _ in range(TRIES):
            call = self._poster.build(receipts, is_forged)
            try:
                status = requests.post(call.url, data=call.body, headers=dict(call.headers), timeout=10).status_code
            except requests.RequestException:
                status = 0
            if 0 < status < 500 and status not in (408, 429):
                break
            time.sleep(0.5)
        return is_forged, status


def _cut(events: Sequence[Event]) -> Iterator[Sequence[Event]]:
    return (events[start : start + EVENTS_PER_CALL] for start in range(0, len(events), EVENTS_PER_CALL))


def _payload(event: Event) -> dict[str, str]:
    extra = {"type": "bounce", "status": "5.1.1"} if event.word == "bounce" else {}
    return {
        "delivery_id": event.delivery_id,
        "email": "chaos@example.com",
        "sg_event_id": event.event_id,
        "event": event.word,
        **extra,
    }

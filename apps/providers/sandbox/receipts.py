"""Receipts on their way back to the product: scheduled by the server, posted by a background thread."""

import copy
import random
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from apps.providers.sandbox.faults import InvalidRuleError, Latency, parse_latency, parse_number
from apps.providers.sandbox.posting import MAX_PENDING, Counts, Line, Poster, Receipt

GIVE_UP_AFTER_S = 600.0
CLEAR_TIMEOUT_S = 1.0
DEFAULT_DELAY = Latency(60.0, 60.0)


@dataclass(frozen=True, slots=True)
class Control:
    """The knobs of one provider's receipts. ``delay`` lies before each event of a message; ``duplicate``,
    ``drop_rate`` and ``forge`` are shares of events, ``fail_rate`` of messages, from 0 to 1."""

    is_enabled: bool = True
    delay: Latency = DEFAULT_DELAY
    duplicate: float = 0.0
    drop_rate: float = 0.0
    fail_rate: float = 0.0
    forge: float = 0.0
    is_shuffled: bool = False
    source: Mapping[str, Any] = field(default_factory=dict)


_SHARES = {"duplicate", "drop_rate", "fail_rate", "forge"}
_FIELDS = _SHARES | {"enabled", "delay_ms", "shuffle"}


def parse_control(source: object) -> Control:
    """The knobs from their JSON form; ``true`` stands for a share of 1. Raises ``InvalidRuleError``."""
    if not isinstance(source, dict):
        raise InvalidRuleError("the body must be a JSON object")
    for name in source:
        if name not in _FIELDS:
            raise InvalidRuleError(f"{name}: unknown field; known are {', '.join(sorted(_FIELDS))}")
    for name in ("enabled", "shuffle"):
        if not isinstance(source.get(name, False), bool):
            raise InvalidRuleError(f"{name}: must be true or false")
    plain = {name: float(value) if isinstance(value, bool) else value for name, value in source.items()}
    shares = {name: parse_number(plain, name, 0.0, 1.0) or 0.0 for name in _SHARES}
    return Control(
        is_enabled=source.get("enabled", True),
        delay=parse_latency(source.get("delay_ms"), "delay_ms") or DEFAULT_DELAY,
        is_shuffled=source.get("shuffle", False),
        source=source,
        **shares,
    )


class ReceiptOffice:
    """Takes receipts from the server's thread (``schedule``) and posts them from its own (``start`` … ``stop``)."""

    def __init__(self) -> None:
        self.posters: dict[str, Poster] = {}
        self.controls: dict[str, Control] = {}
        self.counts: dict[str, Counts] = {}
        self._arrivals: deque[Receipt] = deque()
        self._wake = threading.Event()
        self._is_stopping = False
        self._generation = 0
        self._settled_generation = 0  # none of an earlier one is on the wire
        self._settled = threading.Condition()
        self._dice = random.Random()  # noqa: S311 (dice)
        self._thread = threading.Thread(target=self._run, name="receipts", daemon=True)

    def register(self, provider: str, poster: Poster) -> None:
        self.posters[provider] = poster
        self.controls[provider] = Control()
        self.counts[provider] = Counts()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; what is still pending is forgotten."""
        self._is_stopping = True
        self._wake.set()
        self._thread.join(timeout=1.0)

    def clear(self) -> None:
        """Forgets everything pending, zeroes the counts and restores the default knobs. What is on the wire has then
        arrived, if its receiver answers within ``CLEAR_TIMEOUT_S``."""
        self._generation += 1
        if self._thread.is_alive():
            self._wake.set()
            with self._settled:
                self._settled.wait_for(lambda: self._settled_generation == self._generation, CLEAR_TIMEOUT_S)
        for provider in self.posters:
            self.controls[provider] = Control()
            self.counts[provider] = Counts()

    def draws_failure(self, provider: str) -> bool:
        """Whether the message just accepted shall end badly although nothing about its address says so."""
        rate = self.controls[provider].fail_rate
        return rate > 0 and self._dice.random() < rate

    def schedule(self, provider: str, receipts: Sequence[Receipt]) -> None:
        """Queues the events of one message, in the order in which they happen."""
        control = self.controls[provider]
        counts = self.counts[provider]
        if not control.is_enabled:
            return
        counts.scheduled += len(receipts)
        if len(self._arrivals) >= MAX_PENDING:
            counts.lost += len(receipts)
            return
        now, clock, elapsed_s = time.monotonic(), time.time(), 0.0
        for receipt in receipts:
            elapsed_s += control.delay.draw_s(self._dice)
            receipt.provider = provider
            receipt.occurred_at = clock + elapsed_s
            receipt.due = now + elapsed_s
            receipt.expires = receipt.due + GIVE_UP_AFTER_S
            receipt.generation = self._generation
        if control.is_shuffled:
            self._shuffle(receipts)
        for receipt in receipts:
            self._enqueue(receipt, control, counts)
        if not self._wake.is_set():
            self._wake.set()

    def _shuffle(self, receipts: Sequence[Receipt]) -> None:
        moments = [receipt.due for receipt in receipts]
        self._dice.shuffle(moments)
        for receipt, moment in zip(receipts, moments, strict=True):
            receipt.due = moment

    def _enqueue(self, receipt: Receipt, control: Control, counts: Counts) -> None:
        if control.drop_rate and self._dice.random() < control.drop_rate:
            counts.dropped += 1
            return
        receipt.is_forged = control.forge > 0 and self._dice.random() < control.forge
        self._arrivals.append(receipt)
        if control.duplicate and self._dice.random() < control.duplicate:
            counts.scheduled += 1
            self._arrivals.append(copy.copy(receipt))

    def _run(self) -> None:
        line = Line(self.posters, self.counts, lambda receipt: receipt.generation == self._generation)
        while not self._is_stopping:
            generation = self._generation
            while self._arrivals:
                line.add(self._arrivals.popleft())
            pause_s = line.step()
            if generation != self._settled_generation and line.is_idle:
                with self._settled:
                    self._settled_generation = generation
                    self._settled.notify_all()
            if pause_s > 0:
                self._wake.wait(pause_s)
                self._wake.clear()
        line.close()

"""Faults switched on over HTTP: which calls are slow, fail, are throttled, or find the provider gone."""

import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from apps.providers.sandbox.ledger import hash_address


class Mode(StrEnum):
    DELAY = "delay"  # answer late, but well
    ERROR = "error"  # answer with an error
    THROTTLE = "throttle"  # answer that there were too many calls
    DROP = "drop"  # accept, then cut the connection: the caller cannot know
    OUTAGE = "outage"  # cut the connection before anything is accepted
    BROWNOUT = "brownout"  # slow, and some calls fail


class InvalidRuleError(ValueError):
    """A rule that cannot be used; the text names the field and the mend."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds: fixed, or log-normal through a median and a 99th percentile."""

    p50_ms: float
    p99_ms: float

    def draw_s(self, dice: random.Random) -> float:
        if self.p99_ms <= self.p50_ms:
            return self.p50_ms / 1000
        spread = math.log(self.p99_ms / self.p50_ms) / 2.3263  # the normal distribution's 99 % point
        return self.p50_ms * math.exp(spread * dice.gauss(0.0, 1.0)) / 1000


@dataclass(frozen=True, slots=True)
class Match:
    """All given conditions must hold. ``operation`` is ``send`` unless said otherwise (FCM also has ``token``)."""

    address: str | None = None
    address_prefix: str | None = None
    address_sha256: str | None = None
    operation: str = "send"

    def find(self, addresses: Sequence[str]) -> int | None:
        """Index of the first address that meets the conditions; 0 when there is no condition on the address."""
        if self.address is None and self.address_prefix is None and self.address_sha256 is None:
            return 0
        for index, address in enumerate(addresses):
            if (
                (self.address is None or address == self.address)
                and (self.address_prefix is None or address.startswith(self.address_prefix))
                and (self.address_sha256 is None or hash_address(address) == self.address_sha256)
            ):
                return index
        return None


@dataclass(slots=True)
class Rule:
    """One programmed fault. ``source`` is the JSON it came from. ``latency`` holds for every matching call,
    ``error_rate`` is the share of them that fail; after ``times`` hits the rule is spent.
    ``rate_per_s`` lets that many matching calls through per second and fires only above."""

    source: Mapping[str, Any]
    mode: Mode
    match: Match
    error_rate: float
    status: int | None
    code: str | None
    latency: Latency | None
    retry_after_s: float | None
    rate_per_s: float | None
    times: int | None
    dice: random.Random
    hits: int = 0
    _allowance: float = field(default=1.0)
    _refilled_at: float = field(default=0.0)

    @property
    def is_spent(self) -> bool:
        return self.times is not None and self.hits >= self.times

    def fires(self, now: float) -> bool:
        if self.rate_per_s is not None and self._take_allowance(now, self.rate_per_s):
            return False
        return self.error_rate >= 1.0 or self.dice.random() < self.error_rate

    def _take_allowance(self, now: float, rate: float) -> bool:
        burst = max(1.0, rate)
        self._allowance = min(burst, self._allowance + (now - self._refilled_at) * rate)
        self._refilled_at = now
        if self._allowance < 1.0:
            return False
        self._allowance -= 1.0
        return True


@dataclass(frozen=True, slots=True)
class Fault:
    """What shall happen to one call. ``mode`` is ``None`` when it is only late (``delay_s``).
    ``index`` is the address, of those the call carries, that the rule met."""

    delay_s: float = 0.0
    mode: Mode | None = None
    status: int | None = None
    code: str | None = None
    retry_after_s: float | None = None
    index: int = 0

    @property
    def is_refused(self) -> bool:
        """Whether the call is turned away, so that nothing may be recorded."""
        return self.mode is not None and self.mode is not Mode.DROP


NO_FAULT = Fault()


class Faults:
    """The rules of one provider, tried in order: delays add up, the first rule that fires decides the rest."""

    def __init__(self) -> None:
        self._rules: tuple[Rule, ...] = ()

    def replace(self, rules: Sequence[Rule]) -> None:
        self._rules = tuple(rules)

    def describe(self) -> list[dict[str, Any]]:
        return [{**rule.source, "hits": rule.hits} for rule in self._rules]

    def decide(self, addresses: Sequence[str], operation: str = "send") -> Fault:
        """The fault for a call that carries ``addresses``."""
        return self._decide(addresses, operation) if self._rules else NO_FAULT

    def _decide(self, addresses: Sequence[str], operation: str) -> Fault:
        now = time.monotonic()
        delay_s = 0.0
        for rule in self._rules:
            if rule.is_spent or rule.match.operation != operation:
                continue
            index = rule.match.find(addresses)
            if index is None:
                continue
            if rule.latency is not None:
                delay_s += rule.latency.draw_s(rule.dice)
            if not rule.fires(now):
                continue
            rule.hits += 1
            if rule.mode is not Mode.DELAY:
                return Fault(delay_s, rule.mode, rule.status, rule.code, rule.retry_after_s, index)
        return Fault(delay_s)


_FIELDS = {
    "match", "mode", "error_rate", "status", "code", "latency_ms", "retry_after_s", "rate_per_s", "times", "seed"
}  # fmt: skip
_MATCH_FIELDS = {"address", "address_prefix", "address_sha256", "operation"}
MAX_LATENCY_MS = 600_000
_BROWNOUT_LATENCY = Latency(800.0, 5_000.0)
_BROWNOUT_ERROR_RATE = 0.3


def parse_rule(source: object) -> Rule:
    """A rule from its JSON form; raises ``InvalidRuleError``."""
    if not isinstance(source, dict):
        raise InvalidRuleError("a rule must be a JSON object")
    _refuse_unknown(source, _FIELDS, "")
    match = source.get("match") or {}
    if not isinstance(match, dict) or not all(isinstance(value, str) for value in match.values()):
        raise InvalidRuleError("match: must be an object of strings")
    _refuse_unknown(match, _MATCH_FIELDS, "match.")
    mode = _parse_mode(source)
    seed = source.get("seed")
    latency = parse_latency(source.get("latency_ms"), "latency_ms")
    error_rate = parse_number(source, "error_rate", 0.0, 1.0)
    if mode is Mode.BROWNOUT:
        latency = latency or _BROWNOUT_LATENCY
        error_rate = _BROWNOUT_ERROR_RATE if error_rate is None else error_rate
    if mode is Mode.DELAY and latency is None:
        raise InvalidRuleError("latency_ms: a rule without mode, status, code or error_rate must at least delay")
    status = parse_number(source, "status", 400, 599)
    times = parse_number(source, "times", 1, 1e9)
    return Rule(
        source=source,
        mode=mode,
        match=Match(**match),
        error_rate=1.0 if error_rate is None else error_rate,
        status=None if status is None else int(status),
        code=None if source.get("code") is None else str(source["code"]),
        latency=latency,
        retry_after_s=parse_number(source, "retry_after_s", 0.0, 86_400.0),
        rate_per_s=parse_number(source, "rate_per_s", 0.1, 1e9),
        times=None if times is None else int(times),
        dice=random.Random(seed if isinstance(seed, int | float | str) else None),  # noqa: S311 (dice)
    )


def _parse_mode(source: Mapping[str, Any]) -> Mode:
    name = source.get("mode")
    if name is None:
        return Mode.ERROR if source.keys() & {"status", "code", "error_rate"} else Mode.DELAY
    try:
        return Mode(name)
    except ValueError:
        raise InvalidRuleError(f"mode: must be one of {', '.join(Mode)}") from None


def _refuse_unknown(source: Mapping[str, Any], known: set[str], prefix: str) -> None:
    for name in source:
        if name not in known:
            raise InvalidRuleError(f"{prefix}{name}: unknown field; known are {', '.join(sorted(known))}")


def parse_number(source: Mapping[str, Any], name: str, low: float, high: float) -> float | None:
    """The number called ``name`` if given; raises ``InvalidRuleError`` unless ``low <= number <= high``."""
    value = source.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InvalidRuleError(f"{name}: must be a number from {low:g} to {high:g}")
    return value


def parse_latency(value: object, name: str) -> Latency | None:
    """``None``, a number of ms, or ``{"p50": ms, "p99": ms}``; raises ``InvalidRuleError``."""
    if value is None:
        return None
    pair: dict[str, Any] = value if isinstance(value, dict) else {"p50": value, "p99": value}
    if pair.keys() != {"p50", "p99"} or any(
        isinstance(part, bool) or not isinstance(part, int | float) for part in pair.values()
    ):
        raise InvalidRuleError(f"{name}: must be a number of ms or an object with p50 and p99")
    p50, p99 = pair["p50"], pair["p99"]
    if not (0 <= p50 <= MAX_LATENCY_MS and 0 <= p99 <= MAX_LATENCY_MS):
        raise InvalidRuleError(f"{name}: must be from 0 to {MAX_LATENCY_MS}")
    if p99 > p50 == 0:
        raise InvalidRuleError(f"{name}: p50 must be above 0 when p99 is larger")
    return Latency(p50, p99)

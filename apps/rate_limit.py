"""Token buckets shared by all processes: GCRA as one Lua script in Redis, on the server's clock.

A bucket refills at ``rate_per_s`` and holds ``burst`` tokens; it is stored as one number, the time at which it will be
full again (GCRA's theoretical arrival time). While Redis is away each process keeps buckets of its own at
``settings.RATE_LIMIT_LOCAL_SHARE`` of the rate, so that a limit is still a limit and no caller waits or fails.
"""

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from django.conf import settings

from apps.redis_script import RedisScript

KEY_PREFIX = "bucket:"
MAX_LOCAL_BUCKETS = 10_000
_US = 1_000_000

# KEYS: buckets. ARGV: items wanted, 1 if fewer will do, then per bucket: µs per token, burst, tokens per item.
# Answer: items granted, index of the tightest bucket, its remaining tokens, µs until a retry passes, µs until full.
# `decide` below is the same in Python; tests hold the two together.
_LUA = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local wanted, partial = tonumber(ARGV[1]), ARGV[2] == '1'
local granted, tightest, retry = wanted, 0, 0
local values, debts = redis.call('MGET', unpack(KEYS)), {}
for i = 1, #KEYS do
  local per_token, burst, cost = tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1]), tonumber(ARGV[3 * i + 2])
  debts[i] = math.max(tonumber(values[i] or 0) - now, 0)
  local free = burst - debts[i] / per_token + 1e-6
  local needed = math.min(partial and cost or wanted * cost, burst)
  if free < needed then
    granted = 0
    local wait = (needed - free) * per_token
    if wait > retry then retry, tightest = wait, i end
  elseif partial then
    local fits = math.max(1, math.floor(free / cost))
    if fits < granted then granted, tightest = fits, i end
  end
end
local remaining, least = {}, 1
for i = 1, #KEYS do
  local per_token, burst, cost = tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1]), tonumber(ARGV[3 * i + 2])
  if granted > 0 then
    debts[i] = debts[i] + granted * cost * per_token
    redis.call('SET', KEYS[i], string.format('%.0f', now + debts[i]), 'PX', math.ceil(debts[i] / 1000) + 1000)
  end
  remaining[i] = math.max(0, math.floor(burst - debts[i] / per_token + 1e-6))
  if remaining[i] < remaining[least] then least = i end
end
if tightest == 0 then tightest = least end
return {granted, tightest, remaining[tightest], math.ceil(retry), math.ceil(debts[tightest])}
"""
_TAKE = RedisScript(_LUA)

# KEYS: a bucket. ARGV: µs of debt to put it into, unless it is deeper in debt already.
_DRAIN = RedisScript("""
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full_at = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now + ARGV[1])
redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', math.ceil((full_at - now) / 1000) + 1000)
return 1
""")

# KEYS: a bucket. Answer: µs until it is full.
_LOOK = RedisScript("""
local time = redis.call('TIME')
return math.max(tonumber(redis.call('GET', KEYS[1]) or 0) - (time[1] * 1000000 + time[2]), 0)
""")


@dataclass(frozen=True, slots=True)
class Quota:
    """One limit. ``key`` names the bucket (ids only, nothing personal); an item costs ``cost`` tokens.

    A cost above ``burst`` passes when the bucket is full and is paid off before the next: the average rate holds.
    """

    key: str
    rate_per_s: float
    burst: int
    cost: int = 1

    def __post_init__(self) -> None:
        if not (self.rate_per_s > 0 and self.burst >= 1 and self.cost >= 1):
            raise ValueError(f"quota {self.key}: rate_per_s, burst and cost must be positive")


@dataclass(frozen=True, slots=True)
class Decision:
    """What the buckets said: ``granted`` items may go. The other figures are those of ``key``, the tightest quota.

    ``retry_after_s`` is the wait until a refused call can pass (0 when allowed), ``reset_s`` the time until the bucket
    is full again.
    """

    allowed: bool
    granted: int
    remaining: int
    retry_after_s: float
    reset_s: float
    key: str


def take(key: str, cost: int, rate_per_s: float, burst: int) -> Decision:
    """Take ``cost`` tokens from bucket ``key``, all or none. Never raises for Redis trouble."""
    return take_many([Quota(key, rate_per_s, burst, cost)])


def take_many(quotas: Sequence[Quota], *, count: int = 1, partial: bool = False) -> Decision:
    """Take tokens for ``count`` items from every quota at once, in one round trip; if one refuses nothing is taken.

    With ``partial`` as many items are granted as every quota has room for. Never raises for Redis trouble.
    """
    if not quotas or count < 1:
        raise ValueError("take_many needs at least one quota and a positive count")
    answer = _take_shared(quotas, count, partial) or _local.take(quotas, count, partial)
    granted, tightest, remaining, retry_us, reset_us = answer
    return Decision(granted > 0, granted, remaining, retry_us / _US, reset_us / _US, quotas[tightest - 1].key)


def drain(quota: Quota, seconds: float) -> None:
    """Let nothing pass ``quota`` for ``seconds``, and then no more than its rate. Never raises for Redis trouble."""
    debt_us = math.ceil(seconds * _US + (quota.burst - 1) * _US / quota.rate_per_s)
    _DRAIN.run([KEY_PREFIX + quota.key], [debt_us])
    _local.drain(quota, seconds)


def look(quota: Quota) -> int | None:
    """How many tokens are left, taking none; ``None`` while Redis is away."""
    debt_us: int | None = _LOOK.run([KEY_PREFIX + quota.key], [])
    return None if debt_us is None else _left(quota, debt_us)


def _take_shared(quotas: Sequence[Quota], count: int, partial: bool) -> Sequence[int] | None:
    """The script's answer, or None while Redis is away."""
    arguments: list[str | float] = [count, int(partial)]
    for quota in quotas:
        arguments += [_US / quota.rate_per_s, quota.burst, quota.cost]
    answer: Sequence[int] | None = _TAKE.run([KEY_PREFIX + quota.key for quota in quotas], arguments)
    return answer


def decide(
    quotas: Sequence[Quota], debts_us: Sequence[float], count: int, partial: bool
) -> tuple[int, int, int, int, int]:
    """The script's arithmetic: ``debts_us`` are the µs until each bucket is full. Returns what the script returns."""
    granted, tightest, retry_us = count, 0, 0.0
    for index, (quota, debt_us) in enumerate(zip(quotas, debts_us, strict=True), 1):
        free = quota.burst - debt_us * quota.rate_per_s / _US + 1e-6
        needed = min(quota.cost if partial else count * quota.cost, quota.burst)
        if free < needed:
            granted = 0
            wait_us = (needed - free) * _US / quota.rate_per_s
            if wait_us > retry_us:
                retry_us, tightest = wait_us, index
        elif partial and (fits := max(1, math.floor(free / quota.cost))) < granted:
            granted, tightest = fits, index
    after_us = [debt + granted * q.cost * _US / q.rate_per_s for q, debt in zip(quotas, debts_us, strict=True)]
    remaining = [_left(quota, debt_us) for quota, debt_us in zip(quotas, after_us, strict=True)]
    tightest = tightest or remaining.index(min(remaining)) + 1
    return granted, tightest, remaining[tightest - 1], math.ceil(retry_us), math.ceil(after_us[tightest - 1])


def _left(quota: Quota, debt_us: float) -> int:
    return max(0, math.floor(quota.burst - debt_us * quota.rate_per_s / _US + 1e-6))


class _LocalBuckets:
    """This process's own buckets, at its share of each rate."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._full_at_us: dict[str, float] = {}

    def take(self, quotas: Sequence[Quota], count: int, partial: bool) -> tuple[int, int, int, int, int]:
        share: float = settings.RATE_LIMIT_LOCAL_SHARE
        own = [Quota(q.key, q.rate_per_s * share, max(1, math.ceil(q.burst * share)), q.cost) for q in quotas]
        now_us = time.monotonic() * _US
        with self._lock:
            debts_us = [max(0.0, self._full_at_us.get(quota.key, 0.0) - now_us) for quota in own]
            answer = decide(own, debts_us, count, partial)
            if answer[0]:
                self._make_room(now_us)
                for quota, debt_us in zip(own, debts_us, strict=True):
                    cost_us = answer[0] * quota.cost * _US / quota.rate_per_s
                    self._full_at_us[quota.key] = now_us + debt_us + cost_us
        return answer

    def drain(self, quota: Quota, seconds: float) -> None:
        share: float = settings.RATE_LIMIT_LOCAL_SHARE
        burst = max(1, math.ceil(quota.burst * share))
        full_at_us = time.monotonic() * _US + seconds * _US + (burst - 1) * _US / (quota.rate_per_s * share)
        with self._lock:
            self._full_at_us[quota.key] = max(self._full_at_us.get(quota.key, 0.0), full_at_us)

    def _make_room(self, now_us: float) -> None:
        if len(self._full_at_us) >= MAX_LOCAL_BUCKETS:
            self._full_at_us = {key: at for key, at in self._full_at_us.items() if at > now_us}
        if len(self._full_at_us) >= MAX_LOCAL_BUCKETS:
            self._full_at_us.clear()


_local = _LocalBuckets()

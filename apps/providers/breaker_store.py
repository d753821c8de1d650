"""What the breakers count, and when they open: ten buckets of a second each, shared by every process.

One Lua script on the cache's Redis does everything, on the server's clock and in one round trip; nothing is held while
a provider is called. Who may try a provider that was open is settled there too: one caller in the whole fleet gets the
probe, and loses it after ``PROBE_S`` if it never reports. While Redis is away each process counts for itself by the
same arithmetic (``step`` below; tests hold the two together).
"""

import threading
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from enum import StrEnum

from pybreaker import STATE_CLOSED, STATE_HALF_OPEN, STATE_OPEN

from apps.redis_script import RedisScript

WINDOW_S = 10
MIN_VOLUME = 20  # fewer prove nothing
# Not 50: of a provider that fails every other call, half the windows show less than half, and the breaker would open by
# chance only (`make bench-faults`).
OPEN_AT_PERCENT = 40
PROBE_S = 15.0  # longer than a call of the gateway can take
RELAPSE_S = 60.0  # opening again this soon after having closed counts as not having recovered
KEY_PREFIX = "breaker:"
REMEMBER_MS = 3_600_000
_STATES = (STATE_CLOSED, STATE_HALF_OPEN, STATE_OPEN)


class Operation(StrEnum):
    LOOK = "look"
    ADMIT = "admit"  # may I call?
    REPORT = "report"  # it went like this
    PROBED = "probed"  # the one call that was let through went like this
    TRIP = "trip"
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class Times:
    """How long a breaker stays open, in seconds: the first time, and at most."""

    open_s: float
    max_open_s: float


@dataclass(frozen=True, slots=True)
class View:
    """A breaker as it was just now: ``successes`` and ``failures`` are those of the last ``WINDOW_S`` seconds,
    ``retry_after_s`` is when it is worth asking again (0 when allowed)."""

    state: str
    is_allowed: bool
    is_probe: bool
    retry_after_s: float
    successes: int
    failures: int

    @property
    def failure_rate(self) -> float:
        """From 0 to 1; 0 when nothing was counted."""
        volume = self.successes + self.failures
        return self.failures / volume if volume else 0.0


# KEYS: one hash. ARGV: operation, ms of the open time, ms of the longest, successes, failures, now in ms (0: the
# server's clock). Fields: until (ms; 0 is closed), span (ms of the last opening), ended (ms), probe (ms until which it
# is taken), t0..t9 (the second a bucket is of), s0..s9, f0..f9.
# Answer: state (0 closed, 1 half open, 2 open), allowed, probe, ms until asking again makes sense, successes, failures.
_SCRIPT = RedisScript(f"""
local op, open_ms, max_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local successes, failures, now = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
end
local second = math.floor(now / 1000)
local raw, seen, changed = redis.call('HGETALL', KEYS[1]), {{}}, {{}}
for i = 1, #raw, 2 do seen[raw[i]] = tonumber(raw[i + 1]) end
local function get(name) return seen[name] or 0 end
local function put(name, value)
  seen[name] = value
  changed[#changed + 1] = name
  changed[#changed + 1] = string.format('%.0f', value)
end
local function sum(name)
  local total = 0
  for i = 0, {WINDOW_S - 1} do
    if get('t' .. i) > second - {WINDOW_S} then total = total + get(name .. i) end
  end
  return total
end
local function open(span)
  put('span', span)
  put('until', now + span)
  put('probe', 0)
end
local function close()
  put('until', 0)
  put('ended', now)
  put('probe', 0)
  for i = 0, {WINDOW_S - 1} do put('t' .. i, 0) end
end
if op == 'probed' and get('until') == 0 then op = 'report' end
if op == 'report' and get('until') == 0 then
  local slot = second % {WINDOW_S}
  if get('t' .. slot) ~= second then
    put('t' .. slot, second)
    seen['s' .. slot], seen['f' .. slot] = 0, 0
  end
  put('s' .. slot, get('s' .. slot) + successes)
  put('f' .. slot, get('f' .. slot) + failures)
  local bad, volume = sum('f'), sum('f') + sum('s')
  if failures > 0 and volume >= {MIN_VOLUME} and bad * 100 >= volume * {OPEN_AT_PERCENT} then
    local span = open_ms
    if get('ended') > 0 and now - get('ended') < {RELAPSE_S * 1000:.0f} then
      span = math.max(open_ms, get('span') * 2)
    end
    open(math.min(span, max_ms))
  end
elseif op == 'probed' then
  if successes + failures == 0 then
    put('probe', 0)
  elseif failures * 100 >= (successes + failures) * {OPEN_AT_PERCENT} then
    open(math.min(math.max(open_ms, get('span') * 2), max_ms))
  else
    close()
  end
elseif op == 'trip' then
  open(open_ms)
elseif op == 'reset' then
  close()
end
local state, allowed, probe, wait = 0, 1, 0, 0
if get('until') > 0 then
  state, allowed, wait = 2, 0, get('until') - now
  if wait <= 0 then
    state, wait = 1, math.max(get('probe') - now, 0)
    if op == 'admit' and wait == 0 then
      allowed, probe = 1, 1
      put('probe', now + {PROBE_S * 1000:.0f})
    end
  end
end
if #changed > 0 then
  redis.call('HSET', KEYS[1], unpack(changed))
  redis.call('PEXPIRE', KEYS[1], {REMEMBER_MS})
end
return {{state, allowed, probe, wait, sum('s'), sum('f')}}
""")


def step(
    seen: MutableMapping[str, int], op: Operation, times: Times, successes: int, failures: int, now_ms: int
) -> list[int]:
    """The script's arithmetic upon ``seen``, the hash's fields. Returns what the script returns."""
    second, slot = now_ms // 1000, now_ms // 1000 % WINDOW_S
    open_ms, max_ms = round(times.open_s * 1000), round(times.max_open_s * 1000)

    def total(name: str) -> int:
        return sum(seen.get(f"{name}{i}", 0) for i in range(WINDOW_S) if seen.get(f"t{i}", 0) > second - WINDOW_S)

    def open_for(span_ms: int) -> None:
        seen.update(span=span_ms, until=now_ms + span_ms, probe=0)

    def close() -> None:
        seen.update({"until": 0, "ended": now_ms, "probe": 0, **{f"t{i}": 0 for i in range(WINDOW_S)}})

    if op is Operation.PROBED and not seen.get("until"):
        op = Operation.REPORT
    if op is Operation.REPORT and not seen.get("until"):
        if seen.get(f"t{slot}") != second:
            seen.update({f"t{slot}": second, f"s{slot}": 0, f"f{slot}": 0})
        seen[f"s{slot}"] += successes
        seen[f"f{slot}"] += failures
        bad, volume = total("f"), total("f") + total("s")
        if failures and volume >= MIN_VOLUME and bad * 100 >= volume * OPEN_AT_PERCENT:
            is_relapse = seen.get("ended", 0) > 0 and now_ms - seen["ended"] < RELAPSE_S * 1000
            open_for(min(max(open_ms, seen.get("span", 0) * 2) if is_relapse else open_ms, max_ms))
    elif op is Operation.PROBED:
        if successes + failures == 0:
            seen["probe"] = 0
        elif failures * 100 >= (successes + failures) * OPEN_AT_PERCENT:
            open_for(min(max(open_ms, seen.get("span", 0) * 2), max_ms))
        else:
            close()
    elif op is Operation.TRIP:
        open_for(open_ms)
    elif op is Operation.RESET:
        close()
    state, is_allowed, is_probe, wait_ms = 0, 1, 0, 0
    if seen.get("until"):
        state, is_allowed, wait_ms = 2, 0, seen["until"] - now_ms
        if wait_ms <= 0:
            state, wait_ms = 1, max(seen.get("probe", 0) - now_ms, 0)
            if op is Operation.ADMIT and wait_ms == 0:
                is_allowed, is_probe = 1, 1
                seen["probe"] = now_ms + round(PROBE_S * 1000)
    return [state, is_allowed, is_probe, wait_ms, total("s"), total("f")]


class BreakerStore:
    """The breakers' memory: Redis, or this process while Redis is away. ``clock`` gives Unix seconds; without one it is
    the server's. Safe between threads; never raises for Redis trouble."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._local: dict[str, dict[str, int]] = {}

    def run(self, alias: str, op: Operation, times: Times, successes: int = 0, failures: int = 0) -> View:
        """Do ``op`` to the breaker of ``alias`` and return how it is then."""
        arguments: list[str | float] = [op.value, round(times.open_s * 1000), round(times.max_open_s * 1000)]
        arguments += [successes, failures, round(self._clock() * 1000) if self._clock else 0]
        answer = _SCRIPT.run([KEY_PREFIX + alias], arguments)
        now_ms = round((self._clock or time.time)() * 1000)
        with self._lock:
            if answer is None:
                answer = step(self._local.setdefault(alias, {}), op, times, successes, failures, now_ms)
            elif answer[0]:
                self._local[alias] = {"until": now_ms + answer[3]}  # what to go on with, should Redis go away now
            else:
                self._local.pop(alias, None)
        state, is_allowed, is_probe, wait_ms, good, bad = answer
        return View(_STATES[state], bool(is_allowed), bool(is_probe), wait_ms / 1000, good, bad)

"""The last codes that each provider account answered with instead of a yes, for people who look. Best effort."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from apps.redis_script import RedisScript

KEY_PREFIX = "provider-errors:"
KEPT_CODES = 10
KEPT_S = 86_400

# KEYS: a sorted set of codes by when they were last seen. ARGV: codes.
_NOTE = RedisScript(f"""
local now = redis.call('TIME')[1]
for _, code in ipairs(ARGV) do redis.call('ZADD', KEYS[1], now, code) end
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, {-KEPT_CODES - 1})
redis.call('EXPIRE', KEYS[1], {KEPT_S})
return 1
""")
_READ = RedisScript("return redis.call('ZRANGE', KEYS[1], 0, -1, 'REV', 'WITHSCORES')")


@dataclass(frozen=True, slots=True)
class RecentError:
    """A provider's code (or ours for it) and when it last came up."""

    code: str
    at: datetime


def note_errors(alias: str, codes: Collection[str]) -> None:
    """Remember that account ``alias`` came up with ``codes`` just now. Never raises for Redis trouble."""
    if codes:
        _NOTE.run([KEY_PREFIX + alias], list(codes)[:KEPT_CODES])


def select_recent_errors(alias: str) -> list[RecentError]:
    """The last ``KEPT_CODES`` codes of account ``alias``, the latest first; none while Redis is away."""
    answer: list[bytes] = _READ.run([KEY_PREFIX + alias], []) or []
    pairs = zip(answer[::2], answer[1::2], strict=True)
    return [RecentError(code.decode(), datetime.fromtimestamp(float(at), UTC)) for code, at in pairs]

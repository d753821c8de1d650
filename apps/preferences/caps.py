"""Frequency caps: how many messages of a category a recipient has had lately on a channel, counted in Redis.

One sorted set for each recipient, channel and category holds the messages of the cap's period, so "3 a day" means 3 in
any 24 hours. A message is counted once, however often it is tried and on however many devices, and stays counted if its
provider refuses it in the end. While Redis is away nothing is counted and nothing is capped; a flushed Redis begins
anew: a cap spares a person's patience, it is not their word.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from apps.channels import Channel
from apps.preferences.categories import CategoryRules
from apps.preferences.policy import Usage
from apps.redis_script import RedisScript

# KEYS: one set for each message. ARGV: now in ms, then for each: the message's id (blank: only look), the cap's limit
# and its period in ms. Answer for each: other messages within the period, ms at which the next fits (0: now).
_COUNT: Final = RedisScript(
    """
local now, answer = tonumber(ARGV[1]), {}
for i, key in ipairs(KEYS) do
  local message, limit, period = ARGV[3 * i - 1], tonumber(ARGV[3 * i]), tonumber(ARGV[3 * i + 1])
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now - period)
  local count, frees_at = redis.call('ZCARD', key), 0
  if message ~= '' and redis.call('ZSCORE', key, message) then
    count = math.min(count, limit) - 1
  elseif count >= limit then
    frees_at = redis.call('ZRANGE', key, count - limit, count - limit, 'WITHSCORES')[2] + period
  elseif message ~= '' then
    redis.call('ZADD', key, now, message)
    redis.call('PEXPIRE', key, period)
  end
  answer[2 * i - 1], answer[2 * i] = count, frees_at
end
return answer
"""
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)


class CapRequest(NamedTuple):
    """A message that a recipient is to get. ``message_id`` is the notification's: all its devices are one message."""

    recipient_id: int
    channel: Channel
    category: CategoryRules
    message_id: UUID | None = None


def take_caps(requests: Sequence[CapRequest], now: datetime) -> list[Usage | None]:
    """Count these messages where their category's cap has room, at ``now`` (aware). Returns for each what others had
    used of the cap before it, ``None`` where nothing is known (no cap, or Redis is away): ``policy.decide`` says what
    that means, and a message it lets through has been counted. One round trip. Never raises for Redis."""
    return _ask(requests, now, is_taking=True)


def peek_usage(requests: Sequence[CapRequest], now: datetime) -> list[Usage | None]:
    """The same without counting; ``message_id`` is not looked at."""
    return _ask(requests, now, is_taking=False)


def _ask(requests: Sequence[CapRequest], now: datetime, *, is_taking: bool) -> list[Usage | None]:
    usages: list[Usage | None] = [None] * len(requests)
    limited = [index for index, request in enumerate(requests) if request.category.obeys_cap]
    if not limited:
        return usages
    keys: list[str] = []
    arguments: list[str | float] = [(now - _EPOCH) // _MS]
    for index in limited:
        request = requests[index]
        if request.category.cap is not None:
            keys.append(f"cap:{request.category.id}:{request.channel.value}:{request.recipient_id}")
            message = request.message_id.hex if is_taking and request.message_id is not None else ""
            arguments += [message, request.category.cap.limit, request.category.cap.period // _MS]
    answer = _COUNT.run(keys, arguments)
    if answer is None:
        return usages
    for index, count, frees_at_ms in zip(limited, answer[::2], answer[1::2], strict=True):
        usages[index] = Usage(count, _EPOCH + frees_at_ms * _MS if frees_at_ms else None)
    return usages

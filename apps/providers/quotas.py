"""How fast a provider account lets us go: its quotas per second and per minute, for the whole fleet.

``settings.PROVIDERS[alias]["quota"]`` is ``{"per_second": n, "per_minute": n}``; either may be missing or 0. One call
takes for a whole group from both. A provider's ``Retry-After`` puts its bucket into debt, so every process obeys it,
and what follows starts at the quota's rate and not with a burst. While Redis is away each process keeps to
``settings.RATE_LIMIT_LOCAL_SHARE`` of it (``apps.rate_limit``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog
from django.conf import settings

from apps import rate_limit
from apps.providers.errors import RateLimited, RecipientRateLimited
from apps.providers.messages import Result
from apps.rate_limit import Quota

log = structlog.get_logger(__name__)

UNLIMITED_PER_S = 1_000_000  # of an account without quotas, which can still be paused
DEFAULT_PAUSE_S = 1.0
MAX_PAUSE_S = 3_600.0
PAUSE_AT_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class QuotaGrant:
    """``granted`` messages may go now. The next may after ``retry_after_s``, and one more every ``interval_s``."""

    granted: int
    retry_after_s: float = 0.0
    interval_s: float = 0.0

    def delay_s(self, position: int) -> float:
        """When the message that is ``position``-th (from 0) among those that got nothing is worth trying, in seconds
        from now: spread out, they do not all come back for the same few tokens."""
        return self.retry_after_s + position * self.interval_s


def quotas_of(alias: str) -> tuple[Quota, ...]:
    """The buckets of account ``alias``, at least one. Raises ``KeyError`` for no such account.

    Per second: a burst of a second's worth. Per minute: a tenth of it at once and the rest at its pace, which never
    exceeds it, whenever the provider's minute begins."""
    limits: Mapping[str, int] = settings.PROVIDERS[alias].get("quota") or {}
    per_second, per_minute = limits.get("per_second") or 0, limits.get("per_minute") or 0
    quotas = [Quota(f"provider:{alias}:s", per_second or UNLIMITED_PER_S, per_second or UNLIMITED_PER_S)]
    if per_minute:
        burst = max(1, per_minute // 10)
        quotas.append(Quota(f"provider:{alias}:m", max(per_minute - burst, 1) / 60, burst))
    return tuple(quotas)


def take(alias: str, n: int) -> QuotaGrant:
    """Take tokens for up to ``n`` messages to account ``alias``. Never raises for Redis trouble."""
    quotas = quotas_of(alias)
    decision = rate_limit.take_many(quotas, count=n, partial=True)
    if decision.granted >= n:
        return QuotaGrant(n)
    interval_s = 1 / min(quota.rate_per_s for quota in quotas)
    return QuotaGrant(decision.granted, decision.retry_after_s or interval_s, interval_s)


def pause(alias: str, seconds: float) -> None:
    """Let nothing go to account ``alias`` for ``seconds`` (an hour at most), anywhere. Never raises for Redis
    trouble."""
    seconds = min(max(seconds, 0.0), MAX_PAUSE_S)
    rate_limit.drain(quotas_of(alias)[0], seconds)
    log.warning("provider_paused", provider=alias, seconds=round(seconds, 1))


def obey(alias: str, results: Sequence[Result]) -> None:
    """Pause account ``alias`` for as long as it asked, if ``results`` of one call say that the account is throttled.

    It is when at least half of them are: some providers answer 429 for one busy device or number as well, and not all
    of them so that it can be told (``RecipientRateLimited``)."""
    throttled = [
        result.error
        for result in results
        if isinstance(result.error, RateLimited) and not isinstance(result.error, RecipientRateLimited)
    ]
    if throttled and len(throttled) >= len(results) * PAUSE_AT_SHARE:
        pause(alias, max(DEFAULT_PAUSE_S if e.retry_after_s is None else e.retry_after_s for e in throttled))


def used_share(alias: str) -> float | None:
    """How much of account ``alias``'s tightest quota is used up now, from 0 to 1; ``None`` while Redis is away."""
    shares = []
    for quota in quotas_of(alias):
        left = rate_limit.look(quota)
        if left is None:
            return None
        shares.append(1 - left / quota.burst)
    return max(shares)

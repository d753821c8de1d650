"""How the provider accounts are doing, for the API, the admin and ``/metrics``."""

from collections.abc import Mapping
from dataclasses import dataclass

from django.conf import settings
from pybreaker import STATE_CLOSED, STATE_HALF_OPEN, STATE_OPEN

from apps.providers import breaker, quotas
from apps.providers.breaker import BreakerView
from apps.providers.recent_errors import RecentError, select_recent_errors
from apps.providers.registry import get_provider, provider_aliases
from apps.providers.routing import routed_aliases

_STATE_NUMBERS = {STATE_CLOSED: 0.0, STATE_HALF_OPEN: 1.0, STATE_OPEN: 2.0}


@dataclass(frozen=True, slots=True)
class ProviderState:
    """One account. ``quota_used`` is the used share of its tightest quota (``None``: no quota, or not known now);
    ``per_second`` and ``per_minute`` are 0 without a limit."""

    alias: str
    channel: str
    is_configured: bool
    is_routed: bool
    breaker: BreakerView
    per_second: int
    per_minute: int
    quota_used: float | None
    recent_errors: tuple[RecentError, ...]

    @property
    def quota_percent(self) -> int | None:
        return None if self.quota_used is None else round(self.quota_used * 100)


def select_provider_states() -> list[ProviderState]:
    """Every account of the settings, in their order."""
    routed = routed_aliases()
    return [_describe(alias, is_routed=alias in routed) for alias in provider_aliases()]


def _describe(alias: str, *, is_routed: bool) -> ProviderState:
    provider = get_provider(alias)
    quota: Mapping[str, int] = settings.PROVIDERS[alias].get("quota") or {}
    per_second, per_minute = quota.get("per_second") or 0, quota.get("per_minute") or 0
    return ProviderState(
        alias=alias,
        channel=provider.channel.label,
        is_configured=provider.is_configured,
        is_routed=is_routed,
        breaker=breaker.look(alias),
        per_second=per_second,
        per_minute=per_minute,
        quota_used=quotas.used_share(alias) if per_second or per_minute else None,
        recent_errors=tuple(select_recent_errors(alias)),
    )


def breaker_states() -> dict[tuple[str, ...], float]:
    """Per configured account 0 (closed), 1 (half open) or 2 (open), for a gauge."""
    return {(alias,): _STATE_NUMBERS[breaker.look(alias).state] for alias in _configured()}


def failure_rates() -> dict[tuple[str, ...], float]:
    """Per configured account the failed share of what its breaker counted, for a gauge."""
    return {(alias,): breaker.look(alias).failure_rate for alias in _configured()}


def quotas_used() -> dict[tuple[str, ...], float]:
    """Per configured account the used share of its tightest quota, for a gauge."""
    shares = {(alias,): quotas.used_share(alias) for alias in _configured()}
    return {labels: share for labels, share in shares.items() if share is not None}


def _configured() -> list[str]:
    return [alias for alias in provider_aliases() if get_provider(alias).is_configured]

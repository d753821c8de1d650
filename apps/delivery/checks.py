"""Settings that would have two workers send the same message, found by ``manage.py check``."""

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

from apps.providers.gateway import longest_call_s, longest_request_s
from apps.providers.registry import Provider, get_provider, provider_aliases


@register("delivery")
def check_lease(**kwargs: Any) -> list[CheckMessage]:
    """A claim must outlive the provider call that it is for."""
    return list(_find_lease_problems(settings.DELIVERY_LEASE_S))


def _find_lease_problems(lease_s: float) -> Iterator[CheckMessage]:
    for provider in filter(None, map(_loadable, provider_aliases())):
        request_s, call_s = longest_request_s(provider), longest_call_s(provider)
        hint = f"Set DELIVERY_LEASE_S to more than {call_s:.0f}, or lower the time-outs of provider calls."
        if lease_s <= request_s:
            problem = f"DELIVERY_LEASE_S is {lease_s:g}, but one request to {provider.alias} may take {request_s:g} s."
            yield Error(
                f"{problem} Another worker would send the same message meanwhile.", hint=hint, id="delivery.E001"
            )
        elif lease_s < call_s:
            problem = f"DELIVERY_LEASE_S is {lease_s:g}, but a batch for {provider.alias} may take {call_s:g} s."
            yield Warning(f"{problem} What is slow may be sent twice.", hint=hint, id="delivery.W001")


def _loadable(alias: str) -> Provider | None:
    try:
        return get_provider(alias)
    except (KeyError, TypeError, ImportError, AttributeError):
        return None  # the check of the providers says so

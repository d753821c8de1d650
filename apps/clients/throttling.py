"""How fast a caller may go: its tier's token bucket, announced in every answer's headers."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from django.http import HttpRequest
from django.http.response import HttpResponseBase
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from apps.clients.models import Client, RateTier
from apps.problems import Problem
from apps.rate_limit import Decision, take

if TYPE_CHECKING:
    from rest_framework.views import APIView  # its import reads the settings that name this module

_META_KEY = "notify.rate_limit_headers"


class TierThrottle(BaseThrottle):
    """One request costs one token, or ``view.throttle_cost``; an unlimited tier and anonymous views cost nothing."""

    def __init__(self) -> None:
        self._retry_after_s: float | None = None

    def allow_request(self, request: Request, view: "APIView") -> bool:
        """Whether the caller's bucket had the tokens."""
        client = request.user
        if not isinstance(client, Client):
            return True
        decision = _take(request, client, getattr(view, "throttle_cost", 1))
        if decision is None or decision.allowed:
            return True
        self._retry_after_s = decision.retry_after_s
        return False

    def wait(self) -> float | None:
        """Seconds until the refused call can pass."""
        return self._retry_after_s


def charge(request: Request, cost: int) -> None:
    """Take ``cost`` more tokens, for a call that turns out to be worth several; raises ``Problem`` 429.

    A batch of n items costs n, one of which ``TierThrottle`` has taken already.
    """
    client = request.user
    if not isinstance(client, Client) or cost < 1:
        return
    decision = _take(request, client, cost)
    if decision is not None and not decision.allowed:
        raise throttled(decision.retry_after_s)


def throttled(retry_after_s: float | None) -> Problem:
    """The 429 for a caller that may come again after ``retry_after_s``."""
    wait_s = max(1, math.ceil(retry_after_s or 1))
    return Problem(
        429,
        "rate-limited",
        f"The client's rate limit is reached. Try again in {wait_s} s.",
        headers={"Retry-After": str(wait_s)},
    )


def _take(request: Request, client: Client, cost: int) -> Decision | None:
    tier = client.tier
    if tier.is_unlimited:
        return None
    decision = take(f"client:{client.pk}", cost, tier.requests_per_s, tier.burst)
    request.META[_META_KEY] = format_headers(tier, decision)
    return decision


def format_headers(tier: RateTier, decision: Decision) -> dict[str, str]:
    """The fields of draft-ietf-httpapi-ratelimit-headers-10.

    The policy: ``q`` requests in a window of ``w`` seconds, in which an empty bucket fills up; what is left of it:
    ``r`` requests now, full again in ``t`` seconds (after a refusal: ``t`` seconds until one passes).
    """
    window_s = max(1, math.ceil(tier.burst / tier.requests_per_s))
    reset_s = math.ceil(decision.reset_s if decision.allowed else decision.retry_after_s)
    name = "".join(char if char.isalnum() and char.isascii() else "-" for char in tier.name)
    return {
        "RateLimit-Policy": f'"{name}";q={tier.burst};w={window_s}',
        "RateLimit": f'"{name}";r={decision.remaining};t={reset_s}',
    }


class RateLimitHeadersMiddleware:
    """Puts the headers of the throttle's decision on the answer, whatever the answer is."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self._get_response(request)
        headers: dict[str, str] | None = request.META.get(_META_KEY)
        if headers is not None:
            for name, value in headers.items():
                response.headers[name] = value
        return response

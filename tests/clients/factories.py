"""Clients and their keys, made the way the product makes them."""

from collections.abc import Sequence
from itertools import count

from apps.clients import services
from apps.clients.models import Client, RateTier
from apps.clients.scopes import ALL_SCOPES

_numbers = count(1)


def make_client(*, name: str = "", scopes: Sequence[str] = ALL_SCOPES, tier: str = "unlimited") -> Client:
    """An active client with every scope and no rate limit, unless told otherwise."""
    RateTier.objects.get_or_create(name=tier, defaults={"is_unlimited": tier == "unlimited"})
    return services.create_client(name=name or f"client-{next(_numbers)}", scopes=scopes, tier=tier)


def make_api_key(client: Client) -> str:
    """A key as the client would send it."""
    return services.issue_api_key(client=client).text

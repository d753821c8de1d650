"""Which providers carry a message, best first.

The rows of ``Route`` decide, which operators edit in the admin while everything runs; a channel without any goes by
``settings.ROUTES`` (``{"sms": [...], "sms:+49": [...], "push:ios": [...]}``). Of several routes for a channel the one
for the device's platform, or the longest country prefix, counts, and no other: it says itself what to fail over to.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

from django.conf import settings

from apps.channels import CHANNEL_LABELS, Channel
from apps.providers.models import COUNTRY_PREFIX, Platform, Route
from apps.providers.registry import Provider, get_provider
from apps.providers.reloading import Reloading

REREAD_S = 3.0
MAX_PREFIX_LENGTH = 8


@dataclass(frozen=True, slots=True)
class Leg:
    """One provider of a route. Legs at the same ``position`` share the load by ``weight``."""

    alias: str
    position: int
    weight: int = 1


Legs = tuple[Leg, ...]  # in order of position
_Rows = Mapping[tuple[int, str], Legs]  # by channel and part: a platform, a country prefix or ""


def _load() -> _Rows:
    rows = Route.objects.filter(is_enabled=True).order_by("channel", "platform", "country_prefix", "position", "pk")
    return {
        key: tuple(Leg(row.provider, row.position, row.weight) for row in group)
        for key, group in groupby(rows, lambda row: (row.channel, row.platform or row.country_prefix))
    }


_rows: Reloading[_Rows] = Reloading(_load, initial={}, ttl_s=REREAD_S, name="routes")


def plan(channel: Channel, *, platform: str = "", address: str = "", key: str = "") -> tuple[Provider, ...]:
    """The providers to try for a message, in order; empty when none is configured.

    ``platform`` is a push device's, ``address`` an SMS's number. ``key`` settles who is first among providers that
    share the load: the same key, the same order; let it change with each attempt, and a retry may go elsewhere. A push
    has one provider at most, since a device's token means nothing to another."""
    return Planner(channel).plan(platform, address, lambda: key)


class Planner:
    """``plan`` for a batch of messages on one channel: what their routes have in common is found out once. Holds for
    the moment it is made in."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._routes = _routes(channel)
        self._plans: dict[str, tuple[Provider, ...] | None] = {}
        self._part_of: dict[str, str | None] = {}  # platforms, where the address does not matter

    def plan(self, platform: str, address: str, key: Callable[[], str]) -> tuple[Provider, ...]:
        """As ``plan``; ``key`` is only called where providers share the load."""
        part = self._find_part(platform, address)
        if part is None:
            return ()
        try:
            settled = self._plans[part]
        except KeyError:
            legs = self._routes[part]
            is_shared = len({leg.position for leg in legs}) < len(legs)
            settled = self._plans[part] = None if is_shared else self._usable(legs)
        if settled is not None:
            return settled
        drawn = key()
        return self._usable(sorted(self._routes[part], key=lambda leg: (leg.position, _lot(leg, drawn))))

    def _find_part(self, platform: str, address: str) -> str | None:
        if self._channel is Channel.SMS:
            return self._first_part(platform, address)
        if platform not in self._part_of:
            self._part_of[platform] = self._first_part(platform, address)
        return self._part_of[platform]

    def _first_part(self, platform: str, address: str) -> str | None:
        return next((part for part in _parts(self._channel, platform, address) if part in self._routes), None)

    def _usable(self, legs: Iterable[Leg]) -> tuple[Provider, ...]:
        providers = tuple(found for leg in legs if (found := _usable(leg.alias, self._channel)) is not None)
        return providers[:1] if self._channel is Channel.PUSH else providers


def route(channel: Channel) -> list[Provider]:
    """The providers of ``channel`` for a message of no particular platform or country."""
    return list(plan(channel))


def routed_aliases() -> tuple[str, ...]:
    """Every alias that a route leads to, of the rows and, for channels without any, of the settings."""
    aliases: dict[str, None] = {}
    for channel in Channel:
        for legs in _routes(channel).values():
            aliases.update(dict.fromkeys(leg.alias for leg in legs))
    return tuple(aliases)


def forget_routes() -> None:
    """Read the rows anew when next asked, as after a change made by this process."""
    _rows.forget()


class _Table:
    """All routes of the moment: by channel, then by part. Made anew when the rows or the settings are."""

    def __init__(self, rows: _Rows, routes: Mapping[str, list[str]]) -> None:
        self.made_of = (rows, routes)
        self.by_channel: dict[Channel, dict[str, Legs]] = {channel: {} for channel in Channel}
        for name, aliases in routes.items():
            label, _, part = name.partition(":")
            if label in CHANNEL_LABELS:
                legs = tuple(Leg(alias, position) for position, alias in enumerate(aliases, 1))
                self.by_channel[Channel.from_label(label)][part] = legs
        for channel in {Channel(number) for number, _ in rows}:
            self.by_channel[channel] = {part: legs for (number, part), legs in rows.items() if number == channel}


_table = _Table({}, {})


def _routes(channel: Channel) -> Mapping[str, Legs]:
    global _table
    rows, routes = _rows.get(), settings.ROUTES
    table = _table
    if table.made_of[0] is not rows or table.made_of[1] is not routes:
        table = _table = _Table(rows, routes)
    return table.by_channel[channel]


def is_part(channel: Channel, part: str) -> bool:
    """Whether there can be a route for ``part`` of ``channel``: a device's platform, a number's country prefix."""
    if channel is Channel.PUSH:
        return part in Platform.values
    return channel is Channel.SMS and COUNTRY_PREFIX.fullmatch(part) is not None


def _parts(channel: Channel, platform: str, address: str) -> Iterable[str]:
    """What a route may be for, the most particular first."""
    if channel is Channel.PUSH and platform:
        yield platform
    if channel is Channel.SMS and address:
        for length in range(min(MAX_PREFIX_LENGTH, len(address)), 1, -1):
            yield address[:length]
    yield ""


def _usable(alias: str, channel: Channel) -> Provider | None:
    try:
        provider = get_provider(alias)
    except KeyError:  # a row for an account that is no longer in the settings
        return None
    return provider if provider.channel is channel and provider.is_configured else None


def _lot(leg: Leg, key: str) -> float:
    """Weighted rendezvous hashing: the lowest comes first, each leg as often as its weight says."""
    if leg.weight == 0:
        return math.inf
    digest = hashlib.blake2b(f"{key}|{leg.alias}".encode(), digest_size=8).digest()
    chance = (int.from_bytes(digest) + 1) / (2**64 + 1)
    return -math.log(chance) / leg.weight

"""What a decision and a delivery need to know about one recipient, as plain data."""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from apps.channels import Channel
from apps.preferences.quiet_hours import NO_WINDOWS, Window

WISH_NO: Final = 1
WISH_YES: Final = 1 << 8
NO_CHANNELS: Final[frozenset[Channel]] = frozenset()


class DeviceSnapshot(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An active device. ``token_ct`` is encrypted for the recipient's user id."""

    id: int
    platform: str
    token_ct: bytes


class RecipientSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A recipient as of ``version``. Addresses are ciphertext; an address under suppression is listed in
    ``suppressed_channels`` (push: when no other device is left), and a suppressed device is left out.

    ``channel_wishes`` and, by category id, ``category_wishes`` are what the person said, as bit masks: bit ``n`` is
    "not on channel n", bit ``8 + n`` is "yes on channel n", neither is "nothing said"."""

    recipient_id: int
    user_id: str
    version: int
    is_opted_out: bool = False
    is_erased: bool = False
    channel_wishes: int = 0
    category_wishes: dict[int, int] = {}
    quiet_hours: tuple[Window, ...] = NO_WINDOWS
    suppressed_channels: frozenset[Channel] = NO_CHANNELS
    locale: str = ""
    time_zone: str = ""
    email_ct: bytes | None = None
    phone_ct: bytes | None = None
    devices: tuple[DeviceSnapshot, ...] = ()

    @property
    def disabled_channels(self) -> frozenset[Channel]:
        """The channels switched off as such; a word on a category may say otherwise for it."""
        return _CHANNEL_SETS[self.channel_wishes & 0xF]

    def has_address(self, channel: Channel) -> bool:
        """Whether there is anything to send to on ``channel``."""
        match channel:
            case Channel.PUSH:
                return bool(self.devices)
            case Channel.SMS:
                return self.phone_ct is not None
            case Channel.EMAIL:
                return self.email_ct is not None


def wishes_of(words: Mapping[Channel, bool]) -> int:
    """What was said about channels as a bit mask, as in ``RecipientSnapshot``."""
    return sum((WISH_YES if wish else WISH_NO) << channel for channel, wish in words.items())


# A set of channels travels as a bit mask; every possible set is made once.
_CHANNEL_SETS: Final = tuple(
    frozenset(channel for channel in Channel if mask & (1 << channel)) for mask in range(2 << max(Channel))
)


def mask_of(channels: Iterable[Channel]) -> int:
    """``channels`` as a bit mask, bit ``n`` for channel number ``n``."""
    return sum({1 << channel for channel in channels})


def channels_of(mask: int) -> frozenset[Channel]:
    """The inverse of ``mask_of``; unknown bits are an ``IndexError``."""
    return _CHANNEL_SETS[mask]

"""Whether a recipient gets a message, and why (not). Pure and total: no ORM, no clock, no settings.

The rules stand in order of precedence; the first that has something to say decides. Category preferences,
quiet hours and frequency caps belong between the channel's rule and the address's rules; their numbers are
reserved in ``Reason``, their arguments (``category``, ``now``) and their answer (``DEFER`` with ``not_before``)
are part of the signature.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Final

from apps.channels import Channel
from apps.preferences.snapshots import RecipientSnapshot


class Action(IntEnum):
    """What to do with a delivery now. The numbers are stored; never reuse one."""

    SEND = 1
    DEFER = 2
    SUPPRESS = 3


class Reason(IntEnum):
    """Why. The numbers are stored, 1-99 are this module's; never reuse one."""

    ALLOWED = 1
    GLOBAL_OPT_OUT = 2
    CHANNEL_OPT_OUT = 3
    CATEGORY_OPT_OUT = 4
    NO_ADDRESS = 5
    ADDRESS_SUPPRESSED = 6
    QUIET_HOURS = 7
    FREQUENCY_CAP = 8
    RECIPIENT_ERASED = 9

    @property
    def label(self) -> str:
        """The name for machines and metrics, e.g. ``channel_opt_out``."""
        return self.name.lower()


_SENTENCES: Final[dict[Reason, str]] = {
    Reason.ALLOWED: "Nothing speaks against it: the recipient can be reached on this channel and has not opted out.",
    Reason.GLOBAL_OPT_OUT: "The recipient has opted out of all notifications.",
    Reason.CHANNEL_OPT_OUT: "The recipient has switched this channel off.",
    Reason.CATEGORY_OPT_OUT: "The recipient has switched this category off.",
    Reason.NO_ADDRESS: "The recipient has no address or device on this channel.",
    Reason.ADDRESS_SUPPRESSED: "The address is on the suppression list: it bounced, complained or was blocked.",
    Reason.QUIET_HOURS: "It is quiet hours for the recipient; it goes out when they end.",
    Reason.FREQUENCY_CAP: "The recipient has already had as many messages of this category as allowed.",
    Reason.RECIPIENT_ERASED: "The recipient has been erased.",
}


def explain(reason: Reason) -> str:
    """One sentence for people."""
    return _SENTENCES[reason]


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, why, and for ``DEFER`` from when on (aware, UTC) to ask again."""

    action: Action
    reason: Reason
    not_before: datetime | None = None

    @property
    def rule(self) -> str:
        """The name of the rule that decided."""
        return self.reason.label


SEND: Final = Decision(Action.SEND, Reason.ALLOWED)
_SUPPRESS: Final = {reason: Decision(Action.SUPPRESS, reason) for reason in Reason if reason is not Reason.ALLOWED}

Rule = Callable[[RecipientSnapshot, Channel, str, datetime], Decision | None]


def _obey_erasure(snapshot: RecipientSnapshot, channel: Channel, category: str, now: datetime) -> Decision | None:
    return _SUPPRESS[Reason.RECIPIENT_ERASED] if snapshot.is_erased else None


def _obey_global_opt_out(
    snapshot: RecipientSnapshot, channel: Channel, category: str, now: datetime
) -> Decision | None:
    return _SUPPRESS[Reason.GLOBAL_OPT_OUT] if snapshot.is_opted_out else None


def _obey_channel_opt_out(
    snapshot: RecipientSnapshot, channel: Channel, category: str, now: datetime
) -> Decision | None:
    return _SUPPRESS[Reason.CHANNEL_OPT_OUT] if channel in snapshot.disabled_channels else None


def _obey_suppression(snapshot: RecipientSnapshot, channel: Channel, category: str, now: datetime) -> Decision | None:
    return _SUPPRESS[Reason.ADDRESS_SUPPRESSED] if channel in snapshot.suppressed_channels else None


def _need_address(snapshot: RecipientSnapshot, channel: Channel, category: str, now: datetime) -> Decision | None:
    return None if snapshot.has_address(channel) else _SUPPRESS[Reason.NO_ADDRESS]


RULES: Final[tuple[Rule, ...]] = (
    _obey_erasure,
    _obey_global_opt_out,
    _obey_channel_opt_out,
    _obey_suppression,
    _need_address,
)


def decide(snapshot: RecipientSnapshot, channel: Channel, category: str, now: datetime) -> Decision:
    """The decision for one recipient and channel at ``now`` (aware, UTC). Never raises.

    A decision is only as fresh as its snapshot: ask with the version just read from PostgreSQL."""
    for rule in RULES:
        decision = rule(snapshot, channel, category, now)
        if decision is not None:
            return decision
    return SEND

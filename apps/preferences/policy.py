"""Whether a recipient gets a message, now, later or never, and why. Pure and total: no ORM, no clock, no settings;
the same arguments give the same decision.

The rules stand in order of precedence; the first that has something to say decides:

1. an erased recipient and one who opted out of everything get nothing;
2. the recipient's word on the category and channel, else on the channel, else the category's default;
3. a suppressed address and a missing one cannot be used;
4. quiet hours and the frequency cap put off or stop what is not critical.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from zlib import crc32
from zoneinfo import ZoneInfo

from apps.channels import Channel
from apps.labels import Labelled
from apps.preferences.categories import ZONELESS_SEND, ZONELESS_SUPPRESS, CapRule, CategoryRules, Kind, QuietHoursRule
from apps.preferences.quiet_hours import allowed_minutes, find_allowed, find_zone
from apps.preferences.snapshots import WISH_NO, WISH_YES, RecipientSnapshot

# Everybody's quiet hours end at 07:00 or 08:00: what waited for that goes out over this many minutes.
SMEAR_MINUTES: Final = 10


class Action(Labelled):
    """What to do with a delivery now. The numbers are stored; never reuse one."""

    SEND = 1
    DEFER = 2
    SUPPRESS = 3


class Reason(Labelled):
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
    CATEGORY_OFF_BY_DEFAULT = 10
    QUIET_HOURS_NOT_WAITED_FOR = 11
    QUIET_HOURS_WITHOUT_ZONE = 12
    QUIET_HOURS_WITHOUT_END = 13


_SENTENCES: Final[dict[Reason, str]] = {
    Reason.ALLOWED: "Nothing speaks against it: the recipient can be reached on this channel and has not opted out.",
    Reason.GLOBAL_OPT_OUT: "The recipient has opted out of all notifications.",
    Reason.CHANNEL_OPT_OUT: "The recipient has switched this channel off.",
    Reason.CATEGORY_OPT_OUT: "The recipient has switched this category off on this channel.",
    Reason.NO_ADDRESS: "The recipient has no address or device on this channel.",
    Reason.ADDRESS_SUPPRESSED: "The address is on the suppression list: it bounced, complained or was blocked.",
    Reason.QUIET_HOURS: "It is quiet hours for the recipient; it goes out when they end.",
    Reason.FREQUENCY_CAP: "The recipient has already had as many messages of this category as allowed.",
    Reason.RECIPIENT_ERASED: "The recipient has been erased.",
    Reason.CATEGORY_OFF_BY_DEFAULT: "This category is off on this channel unless the recipient asks for it.",
    Reason.QUIET_HOURS_NOT_WAITED_FOR: "It was quiet hours for the recipient, and this category does not wait.",
    Reason.QUIET_HOURS_WITHOUT_ZONE: "The recipient has quiet hours but no time zone to read them in.",
    Reason.QUIET_HOURS_WITHOUT_END: "The recipient's quiet hours leave no time to send anything.",
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


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of a category's cap a recipient has used on a channel: other messages within the cap's period, and
    when the next one fits (aware, UTC), if it does not now."""

    count: int
    frees_at: datetime | None = None


SEND: Final = Decision(Action.SEND, Reason.ALLOWED)
_SUPPRESS: Final[dict[Reason, Decision]] = {
    reason: Decision(Action.SUPPRESS, reason) for reason in Reason if reason is not Reason.ALLOWED
}
_ZERO: Final = timedelta()


def decide(
    snapshot: RecipientSnapshot,
    channel: Channel,
    category: CategoryRules,
    now: datetime,
    *,
    usage: Usage | None = None,
    expires_at: datetime | None = None,
) -> Decision:
    """The decision for one recipient, channel and category at ``now`` (aware, UTC, year 2 to 9998). Never raises.

    ``usage`` is what has been counted for the category's cap, ``None`` if that is not known (then nothing is capped).
    ``expires_at`` only keeps the smear of a deferral from running past it: a decision whose ``not_before`` is not
    before ``expires_at`` means that the message expires in the meantime.
    A decision is only as fresh as its snapshot: ask with the version just read from PostgreSQL."""
    refusal = _find_refusal(snapshot, channel, category)
    if refusal is not None:
        return _SUPPRESS[refusal]
    if category.kind is Kind.CRITICAL:
        return SEND
    if snapshot.quiet_hours:
        decision = _keep_quiet(snapshot, category, now, expires_at)
        if decision is not None:
            return decision
    if usage is not None and category.cap is not None and usage.count >= category.cap.limit:
        return _cap(snapshot, category, now, usage, expires_at)
    return SEND


def is_wanted(
    category_wishes: int, channel_wishes: int, channel: Channel, category: CategoryRules
) -> tuple[bool, Reason]:
    """Whether the recipient wants ``category`` on ``channel``, and the rule that says so, by what they said about
    the category and about the channels (wishes as in ``RecipientSnapshot``): the more specific word counts."""
    no, yes = WISH_NO << channel, WISH_YES << channel
    if category_wishes & no:
        return False, Reason.CATEGORY_OPT_OUT
    if category_wishes & yes:
        return True, Reason.ALLOWED
    if channel_wishes & no:
        return False, Reason.CHANNEL_OPT_OUT
    if channel_wishes & yes or channel not in category.off_by_default:
        return True, Reason.ALLOWED
    return False, Reason.CATEGORY_OFF_BY_DEFAULT


def _find_refusal(snapshot: RecipientSnapshot, channel: Channel, category: CategoryRules) -> Reason | None:
    if snapshot.is_erased:
        return Reason.RECIPIENT_ERASED
    if snapshot.is_opted_out:
        return Reason.GLOBAL_OPT_OUT
    wishes = snapshot.category_wishes.get(category.id, 0)
    wanted, reason = is_wanted(wishes, snapshot.channel_wishes, channel, category)
    if not wanted:
        return reason
    if channel in snapshot.suppressed_channels:
        return Reason.ADDRESS_SUPPRESSED
    if not snapshot.has_address(channel):
        return Reason.NO_ADDRESS
    return None


def _keep_quiet(
    snapshot: RecipientSnapshot, category: CategoryRules, now: datetime, expires_at: datetime | None
) -> Decision | None:
    if category.quiet_hours is QuietHoursRule.SEND:
        return None
    zone = find_zone(snapshot.time_zone) if snapshot.time_zone else None
    if zone is None:
        if category.zoneless == ZONELESS_SEND:
            return None
        zone = None if category.zoneless == ZONELESS_SUPPRESS else find_zone(category.zoneless)
        if zone is None:
            return _SUPPRESS[Reason.QUIET_HOURS_WITHOUT_ZONE]
    allowed = find_allowed(snapshot.quiet_hours, zone, now)
    if allowed == now:
        return None
    if category.quiet_hours is QuietHoursRule.SUPPRESS:
        return _SUPPRESS[Reason.QUIET_HOURS_NOT_WAITED_FOR]
    if allowed is None:
        return _SUPPRESS[Reason.QUIET_HOURS_WITHOUT_END]
    return Decision(Action.DEFER, Reason.QUIET_HOURS, _smear(snapshot, zone, allowed, expires_at))


def _cap(
    snapshot: RecipientSnapshot, category: CategoryRules, now: datetime, usage: Usage, expires_at: datetime | None
) -> Decision:
    if category.cap is None or usage.frees_at is None or category.cap.rule is CapRule.SUPPRESS:
        return _SUPPRESS[Reason.FREQUENCY_CAP]
    not_before = max(now, usage.frees_at)
    if snapshot.quiet_hours:
        quiet = _keep_quiet(snapshot, category, not_before, expires_at)
        if quiet is not None and quiet.not_before is not None:
            not_before = quiet.not_before
    return Decision(Action.DEFER, Reason.FREQUENCY_CAP, not_before)


def _smear(snapshot: RecipientSnapshot, zone: ZoneInfo, allowed: datetime, expires_at: datetime | None) -> datetime:
    """A moment within the first minutes after ``allowed``, always the same for one recipient, before ``expires_at``
    and before it is quiet again."""
    room = timedelta(minutes=allowed_minutes(snapshot.quiet_hours, zone, allowed, SMEAR_MINUTES))
    if expires_at is not None:
        room = min(room, max(_ZERO, expires_at - allowed))
    share = crc32(snapshot.user_id.encode(errors="replace")) / 2**32
    return allowed + timedelta(seconds=int(room.total_seconds() * share))

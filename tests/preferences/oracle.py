"""The rules of deciding once more, written from their description and not from the policy: slowly, minute by minute,
with dates and times of day instead of arithmetic on minutes. Shares no code with ``apps``."""

from dataclasses import dataclass, field
from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo, available_timezones

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
WEEKDAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
ZONES = available_timezones()

# A window: days it starts on, start and end as "HH:MM".
Span = tuple[frozenset[str], str, str]


@dataclass
class Case:
    """Everything that a decision depends on, in words."""

    channel: str
    now: datetime
    is_erased: bool = False
    opted_out: bool = False
    said_of_channels: dict[str, bool] = field(default_factory=dict)
    said_of_category: dict[str, bool] = field(default_factory=dict)
    off_by_default: set[str] = field(default_factory=set)
    suppressed: set[str] = field(default_factory=set)
    reachable: set[str] = field(default_factory=lambda: {"push", "sms", "email"})
    kind: str = "general"
    in_quiet_hours: str = "defer"
    windows: list[Span] = field(default_factory=list)
    zone: str = ""
    zoneless: str = "UTC"
    cap_limit: int | None = None
    beyond_cap: str = "defer"
    used: int | None = None
    frees_at: datetime | None = None


@dataclass
class Verdict:
    """``send``, ``suppress`` or ``defer``; for ``defer`` the first instant that would do, before any smear."""

    action: str
    reason: str
    earliest: datetime | None = None


def judge(case: Case) -> Verdict:
    """What must become of the message."""
    if case.is_erased:
        return Verdict("suppress", "recipient_erased")
    if case.opted_out:
        return Verdict("suppress", "global_opt_out")
    words = [
        (case.said_of_category.get(case.channel), "category_opt_out"),
        (case.said_of_channels.get(case.channel), "channel_opt_out"),
        (case.channel not in case.off_by_default, "category_off_by_default"),
    ]
    word, rule = next((word, rule) for word, rule in words if word is not None)
    if not word:
        return Verdict("suppress", rule)
    if case.channel in case.suppressed:
        return Verdict("suppress", "address_suppressed")
    if case.channel not in case.reachable:
        return Verdict("suppress", "no_address")
    if case.kind == "critical":
        return Verdict("send", "allowed")
    return _judge_time(case, case.now) or _judge_cap(case) or Verdict("send", "allowed")


def _judge_time(case: Case, moment: datetime) -> Verdict | None:
    name = case.zone if case.zone in ZONES else case.zoneless
    if not case.windows or case.in_quiet_hours == "send" or name == "send":
        return None
    zone = zone_of(case)
    if zone is None:
        return Verdict("suppress", "quiet_hours_without_zone")
    earliest = first_loud_minute(case.windows, zone, moment)
    if earliest == moment:
        return None
    if case.in_quiet_hours == "suppress":
        return Verdict("suppress", "quiet_hours_not_waited_for")
    if earliest is None:
        return Verdict("suppress", "quiet_hours_without_end")
    return Verdict("defer", "quiet_hours", earliest)


def zone_of(case: Case) -> ZoneInfo | None:
    """The zone whose clocks count, if there is one."""
    name = case.zone if case.zone in ZONES else case.zoneless
    return ZoneInfo(name) if name in ZONES else None


def _judge_cap(case: Case) -> Verdict | None:
    if case.cap_limit is None or case.used is None or case.used < case.cap_limit:
        return None
    if case.beyond_cap == "suppress" or case.frees_at is None:
        return Verdict("suppress", "frequency_cap")
    moment = case.now if case.frees_at < case.now else case.frees_at
    later = _judge_time(case, moment)
    return Verdict("defer", "frequency_cap", later.earliest if later and later.earliest else moment)


def is_loud(windows: list[Span], zone: ZoneInfo, moment: datetime) -> bool:
    """Whether the clock on the wall in ``zone`` shows a time outside of every window."""
    wall = moment.astimezone(zone).replace(tzinfo=None)
    return not any(start <= wall < end for start, end in spell_out(windows, wall, wall))


def spell_out(windows: list[Span], first: datetime, last: datetime) -> list[tuple[datetime, datetime]]:
    """The windows as stretches on the wall's calendar, as far as they touch the days from ``first`` to ``last``."""
    stretches = []
    day = first.date() - DAY
    while day <= last.date():
        for days, start, end in windows:
            if WEEKDAYS[day.weekday()] in days:
                begin = datetime.combine(day, time.fromisoformat(start))
                is_next_day = end == "24:00" or end <= start
                over = datetime.combine(day, time.fromisoformat("00:00" if end == "24:00" else end))
                stretches.append((begin, over + DAY if is_next_day else over))
        day += DAY
    return stretches


def first_loud_minute(windows: list[Span], zone: ZoneInfo, moment: datetime) -> datetime | None:
    """``moment`` itself, or the beginning of the first minute after it that is not quiet; none for eight days: never.
    Windows begin and end on the minute, and so do today's changes of the clocks."""
    wall = moment.astimezone(zone).replace(tzinfo=None)
    stretches = spell_out(windows, wall, wall + 10 * DAY)
    at = moment
    while at < moment + 8 * DAY + MINUTE:
        wall = at.astimezone(zone).replace(tzinfo=None)
        if not any(start <= wall < end for start, end in stretches):
            return at
        at += MINUTE if at is not moment else MINUTE - timedelta(seconds=at.second, microseconds=at.microsecond)
    return None

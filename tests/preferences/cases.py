"""Random cases for the oracle, and the same cases in the words of the policy."""

from datetime import UTC, datetime, timedelta
from functools import cache
from random import Random
from zoneinfo import ZoneInfo, available_timezones

from apps.channels import CHANNEL_LABELS, Channel
from apps.preferences.categories import Cap, CapRule, CategoryRules, Kind, QuietHoursRule
from apps.preferences.policy import Decision, Usage, decide
from apps.preferences.quiet_hours import Window, days_mask, parse_minute
from apps.preferences.snapshots import DeviceSnapshot, RecipientSnapshot, wishes_of
from tests.preferences.oracle import WEEKDAYS, Case, Span

CATEGORY_ID = 7
ZONES = sorted(available_timezones())
START, END = datetime(2025, 1, 1, tzinfo=UTC), datetime(2029, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


@cache
def changes_of(name: str, start: datetime = START, end: datetime = END) -> list[datetime]:
    """Moments between ``start`` and ``end`` at which the UTC offset of a zone has just changed, to the minute."""
    zone, found, at = ZoneInfo(name), [], start
    while at < end:
        old, new = at, at + timedelta(days=7)  # nowhere do the clocks change twice within a week
        if old.astimezone(zone).utcoffset() != new.astimezone(zone).utcoffset():
            while new - old > timedelta(minutes=1):
                middle = old + (new - old) // timedelta(minutes=2) * timedelta(minutes=1)
                if middle.astimezone(zone).utcoffset() == at.astimezone(zone).utcoffset():
                    old = middle
                else:
                    new = middle
            found.append(new)
        at += timedelta(days=7)
    return found


def make_case(random: Random) -> Case:
    """One case. Everything is likely enough to happen, and to happen together."""
    zone = random.choice(ZONES) if random.random() < 0.85 else random.choice(["", "Mars/Olympus"])
    case = Case(channel=random.choice(CHANNEL_LABELS), now=_make_moment(random, zone), zone=zone)
    case.is_erased = random.random() < 0.02
    case.opted_out = random.random() < 0.05
    case.said_of_channels = _make_words(random)
    case.said_of_category = _make_words(random)
    case.off_by_default = {label for label in CHANNEL_LABELS if random.random() < 0.2}
    case.suppressed = {label for label in CHANNEL_LABELS if random.random() < 0.05}
    case.reachable = {label for label in CHANNEL_LABELS if random.random() < 0.95}
    case.kind = random.choice(["general", "transactional", "marketing", "marketing", "critical"])
    case.in_quiet_hours = random.choice(["defer"] * 6 + ["suppress", "send"])
    case.windows = [_make_span(random) for _ in range(random.choice([0, 1, 1, 2, 2, 3, 5]))]
    case.zoneless = random.choice(["UTC", "Europe/Berlin", "suppress", "send"])
    if random.random() < 0.4:
        case.cap_limit = random.randint(1, 5)
        case.beyond_cap = random.choice(["defer", "suppress"])
        case.used = random.choice([None, random.randint(0, 7)])
        if case.used is not None and case.used >= case.cap_limit and random.random() < 0.95:
            case.frees_at = case.now + timedelta(minutes=random.randint(-5, 3000))
    return case


def _make_words(random: Random) -> dict[str, bool]:
    return {label: random.random() < 0.6 for label in CHANNEL_LABELS if random.random() < 0.35}


def _make_span(random: Random) -> Span:
    days = frozenset(WEEKDAYS if random.random() < 0.4 else random.sample(WEEKDAYS, random.randint(1, 6)))
    match random.random():
        case chance if chance < 0.012:
            return frozenset(WEEKDAYS), "00:00", "24:00"
        case chance if chance < 0.05:
            return frozenset(random.sample(WEEKDAYS, 1)), "00:00", "24:00"
        case chance if chance < 0.5:
            return days, random.choice(["20:00", "22:00", "22:30", "23:59"]), random.choice(["06:00", "07:00", "02:30"])
        case _:
            start = random.randrange(1440)
            end = (start + random.randrange(1, 720)) % 1440
            return days, _clock(start), _clock(end)


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


def _make_moment(random: Random, zone: str) -> datetime:
    moment = START + (END - START) * random.random()
    changes = changes_of(zone) if zone in ZONES else []
    if changes and random.random() < 0.4:
        moment = random.choice(changes) + random.uniform(-30, 30) * HOUR
    if random.random() < 0.3:
        moment = moment.replace(second=0, microsecond=0)
    return moment


def to_snapshot(case: Case, user_id: str = "user-1") -> RecipientSnapshot:
    """The recipient of ``case``."""
    category_wishes = wishes_of({Channel.from_label(label): on for label, on in case.said_of_category.items()})
    return RecipientSnapshot(
        recipient_id=1,
        user_id=user_id,
        version=1,
        is_opted_out=case.opted_out,
        is_erased=case.is_erased,
        channel_wishes=wishes_of({Channel.from_label(label): on for label, on in case.said_of_channels.items()}),
        category_wishes={CATEGORY_ID: category_wishes} if category_wishes else {CATEGORY_ID + 1: 0xFFFF},
        quiet_hours=tuple(to_window(span) for span in case.windows),
        suppressed_channels=frozenset(Channel.from_label(label) for label in case.suppressed),
        time_zone=case.zone,
        email_ct=b"x" if "email" in case.reachable else None,
        phone_ct=b"x" if "sms" in case.reachable else None,
        devices=(DeviceSnapshot(1, "android", b"x"),) if "push" in case.reachable else (),
    )


def to_window(span: Span) -> Window:
    """The window of the oracle's ``span``."""
    days, start, end = span
    return Window(days_mask(days), parse_minute(start), parse_minute(end))


def to_rules(case: Case) -> CategoryRules:
    """The category of ``case``."""
    return CategoryRules(
        id=CATEGORY_ID,
        key="offers",
        kind=Kind(case.kind),
        off_by_default=frozenset(Channel.from_label(label) for label in case.off_by_default),
        quiet_hours=QuietHoursRule(case.in_quiet_hours),
        cap=None if case.cap_limit is None else Cap(case.cap_limit, timedelta(days=1), CapRule(case.beyond_cap)),
        zoneless=case.zoneless,
    )


def decide_case(case: Case, user_id: str = "user-1", expires_at: datetime | None = None) -> Decision:
    """What the policy makes of ``case``."""
    usage = None if case.used is None else Usage(case.used, case.frees_at)
    return decide(
        to_snapshot(case, user_id),
        Channel.from_label(case.channel),
        to_rules(case),
        case.now,
        usage=usage,
        expires_at=expires_at,
    )

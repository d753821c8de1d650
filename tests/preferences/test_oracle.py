"""The policy against the oracle: by chance, and in every zone on the days its clocks change."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import cache
from random import Random
from zoneinfo import ZoneInfo

import pytest

from apps.preferences.policy import SMEAR_MINUTES, Reason
from apps.preferences.quiet_hours import find_allowed
from tests.preferences.cases import ZONES, changes_of, decide_case, make_case, to_window
from tests.preferences.oracle import MINUTE, Case, Span, is_loud, judge, spell_out, zone_of
from tests.preferences.scale import IS_FULL, scaled

SEED = 2026
CHUNKS = 10
EVERY_DAY = frozenset(["mon", "tue", "wed", "thu", "fri", "sat", "sun"])
SMEAR = timedelta(minutes=SMEAR_MINUTES)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_policy_and_oracle_agree_on_random_cases(chunk: int) -> None:
    random = Random(f"{SEED}/{chunk}")
    seen: Counter[str] = Counter()
    for number in range(scaled(100_000, 10_000) // CHUNKS):
        case = make_case(random)
        user_id = f"user-{random.randrange(10_000)}"
        verdict, decision = judge(case), decide_case(case, user_id)
        seen[verdict.reason] += 1
        assert (decision.action.name.lower(), decision.rule) == (verdict.action, verdict.reason), (number, case)
        if verdict.earliest is None:
            assert decision.not_before is None, (number, case)
        else:
            assert decision.not_before is not None
            check_smear(case, verdict.earliest, decision.not_before)
        assert decision == decide_case(case, user_id)
    assert set(seen) == {reason.label for reason in Reason}, "some reason never came up"


def check_smear(case: Case, earliest: datetime, not_before: datetime) -> None:
    """``not_before`` is soon after ``earliest``, and it has not become quiet in between."""
    assert earliest <= not_before < earliest + SMEAR, case
    zone, at = zone_of(case), earliest
    while zone is not None and case.in_quiet_hours == "defer" and at <= not_before:
        assert is_loud(case.windows, zone, at), case
        at += MINUTE


# Night, a short night within it, the hour that is skipped or doubled in most places, around midnight, two that meet,
# weekends, and one that leaves an hour a day.
SPANS: list[list[Span]] = [
    [(EVERY_DAY, "22:00", "07:00")],
    [(EVERY_DAY, "01:30", "02:30")],
    [(EVERY_DAY, "02:00", "03:00")],
    [(EVERY_DAY, "23:30", "00:30"), (EVERY_DAY, "00:30", "01:15")],
    [(frozenset(["sat"]), "00:00", "24:00"), (frozenset(["sun"]), "00:00", "24:00")],
    [(EVERY_DAY, "13:00", "12:00")],
]
QUARTER = timedelta(minutes=15)
YEARS = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2028, 1, 1, tzinfo=UTC))
# Zones whose clocks do not change are tried on these days.
ORDINARY_DAYS = [datetime(2026, 3, 29, tzinfo=UTC), datetime(2027, 10, 31, tzinfo=UTC)]


@pytest.mark.parametrize("spans", SPANS, ids=lambda spans: "+".join(f"{start}-{end}" for _, start, end in spans))
def test_quiet_hours_end_at_the_right_instant_in_every_zone_whenever_clocks_change(spans: list[Span]) -> None:
    changing, checked = 0, set()
    for name in ZONES:
        changes = changes_of(name, *YEARS)
        changing += bool(changes)
        for change in changes or ORDINARY_DAYS:
            clock = (change, clock_around(name, change))
            if IS_FULL or clock not in checked:
                check_around(name, spans, change)
                checked.add(clock)
    assert changing > 150, "this machine's time zone database knows hardly any change"


@cache
def clock_around(name: str, change: datetime) -> tuple[timedelta | None, ...]:
    """The zone's UTC offsets in the days that ``check_around`` looks at: zones that share them need but one check."""
    zone, first = ZoneInfo(name), change - timedelta(days=1)
    return tuple((first + number * QUARTER).astimezone(zone).utcoffset() for number in range(7 * 96))


def check_around(name: str, spans: list[Span], change: datetime) -> None:
    """Every quarter of an hour for a day and a half around ``change``. All changes and all windows of these tests are
    on the quarter, so the oracle need not look at other minutes."""
    zone = ZoneInfo(name)
    windows = tuple(to_window(span) for span in spans)
    first, last = change - 18 * 4 * QUARTER, change + 18 * 4 * QUARTER
    quarters = [first + number * QUARTER for number in range((last + timedelta(days=4) - first) // QUARTER)]
    wall = first.astimezone(zone).replace(tzinfo=None)
    stretches = spell_out(spans, wall, wall + timedelta(days=7))
    expected: dict[datetime, datetime] = {}
    next_loud = None
    for at in reversed(quarters):
        wall = at.astimezone(zone).replace(tzinfo=None)
        if not any(start <= wall < end for start, end in stretches):
            next_loud = at
        if next_loud is not None:
            expected[at] = next_loud
    for at in quarters:
        if at > last:
            break
        assert find_allowed(windows, zone, at) == expected[at], (name, at)
        odd = at + timedelta(seconds=61.5)
        is_quiet = expected[at] != at
        assert find_allowed(windows, zone, odd) == (expected[at] if is_quiet else odd), (name, odd)

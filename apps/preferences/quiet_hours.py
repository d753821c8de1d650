"""When a recipient does not want to be disturbed. Pure: no clock, no ORM, no settings.

A window is a stretch of the clock on the recipient's wall: it is quiet whenever that clock shows a time within it.
So in the hour that a change to summer time skips nothing is quiet, and an hour that comes twice is quiet twice.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from apps.preferences.profile import InvalidValue

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
EVERY_DAY: Final = (1 << len(DAYS)) - 1
DAY_MINUTES: Final = 1440
MAX_WINDOWS: Final = 14
# A week without a quiet minute's end has none at all; one day more for what a change of the clocks may add.
HORIZON: Final = timedelta(days=8)
_MINUTE: Final = timedelta(minutes=1)
_MAX_STEPS: Final = 10 * MAX_WINDOWS * len(DAYS)


class Window(msgspec.Struct, frozen=True, array_like=True, gc=False, order=True):
    """Quiet from ``start_minute`` to before ``end_minute`` (minutes of the day, the end up to 1440) on the days of
    the bit mask ``days`` (bit 0 is Monday). An end before the start is on the next day."""

    days: int
    start_minute: int
    end_minute: int


NO_WINDOWS: Final[tuple[Window, ...]] = ()


def pack_window(window: Window) -> int:
    """``window`` as one number, as PostgreSQL hands it over."""
    return window.days << 22 | window.start_minute << 11 | window.end_minute


def unpack_window(number: int) -> Window:
    """The inverse of ``pack_window``."""
    return Window(number >> 22, number >> 11 & 0x7FF, number & 0x7FF)


def parse_minute(text: str) -> int:
    """``HH:MM`` as a minute of the day; ``24:00`` is the day's end (1440). Raises ``InvalidValue``."""
    if len(text) == 5 and text.isascii() and text[2] == ":" and (text[:2] + text[3:]).isdigit():
        hour, minute = int(text[:2]), int(text[3:])
        if minute < 60 and (hour < 24 or (hour, minute) == (24, 0)):
            return hour * 60 + minute
    raise InvalidValue("Enter a time of the day as HH:MM, such as 22:00.")


def format_minute(minute: int) -> str:
    """The inverse of ``parse_minute``."""
    return f"{minute // 60:02}:{minute % 60:02}"


def days_mask(names: Iterable[str]) -> int:
    """Names of ``DAYS`` as a bit mask. Raises ``InvalidValue``."""
    mask = 0
    for name in names:
        if name not in DAYS:
            raise InvalidValue(f"Enter one of {', '.join(DAYS)}.")
        mask |= 1 << DAYS.index(name)
    return mask


def day_names(mask: int) -> list[str]:
    """The inverse of ``days_mask``, in the order of the week."""
    return [name for bit, name in enumerate(DAYS) if mask & 1 << bit]


def check_windows(windows: Iterable[Window]) -> tuple[Window, ...]:
    """``windows`` sorted and without doubles. Raises ``InvalidValue`` for a window without a day or length, for more
    than 14 windows, and for windows that leave no minute of the week: that is an opt-out, and to be said as one."""
    unique = tuple(sorted(set(windows)))
    if len(unique) > MAX_WINDOWS:
        raise InvalidValue(f"There can be at most {MAX_WINDOWS} windows.")
    for window in unique:
        if not 0 < window.days <= EVERY_DAY:
            raise InvalidValue("A window needs at least one day.")
        if not (0 <= window.start_minute < DAY_MINUTES and 0 <= window.end_minute <= DAY_MINUTES):
            raise InvalidValue("A window starts between 00:00 and 23:59 and ends between 00:00 and 24:00.")
        if window.start_minute == window.end_minute:
            raise InvalidValue("A window's start and end are the same; a whole day is 00:00 to 24:00.")
    if unique and not _leave_a_gap(unique):
        raise InvalidValue("The windows cover the whole week; to get nothing at all, opt out instead.")
    return unique


def _leave_a_gap(windows: Sequence[Window]) -> bool:
    """Whether some minute of the week is not quiet: then one right after some window's end is not."""
    for window in windows:
        crosses = window.end_minute <= window.start_minute
        for day in range(len(DAYS)):
            if window.days & 1 << day:
                shift, minute = divmod(window.end_minute, DAY_MINUTES)
                if not _minutes_left(windows, (day + crosses + shift) % len(DAYS), minute):
                    return True
    return False


def _minutes_left(windows: Iterable[Window], weekday: int, minute: int) -> int:
    """How many minutes the longest of the windows that cover this minute goes on; 0 if none covers it."""
    today, yesterday = 1 << weekday, 1 << (weekday - 1) % 7
    left = 0
    for window in windows:
        start, end = window.start_minute, window.end_minute
        if start < end:
            if window.days & today and start <= minute < end:
                left = max(left, end - minute)
        else:
            if window.days & today and minute >= start:
                left = max(left, end + DAY_MINUTES - minute)
            if window.days & yesterday and minute < end:
                left = max(left, end - minute)
    return left


@lru_cache(maxsize=1024)
def find_zone(name: str) -> ZoneInfo | None:
    """The IANA zone called ``name``; ``None`` if this machine's time zone database has none."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # what zoneinfo raises for odd keys depends on the files it finds
        return None


def is_quiet(windows: Iterable[Window], zone: tzinfo, moment: datetime) -> bool:
    """Whether it is quiet at ``moment`` (aware) for someone in ``zone``."""
    local = moment.astimezone(zone)
    return _minutes_left(windows, local.weekday(), local.hour * 60 + local.minute) > 0


def find_allowed(windows: Sequence[Window], zone: tzinfo, moment: datetime) -> datetime | None:
    """The first instant from ``moment`` (aware, UTC) on at which it is not quiet in ``zone``: ``moment`` itself if
    it is not quiet then, ``None`` if it stays quiet for more than a week."""
    at = moment
    for _ in range(_MAX_STEPS):
        local = at.astimezone(zone)
        minutes = _minutes_left(windows, local.weekday(), local.hour * 60 + local.minute)
        if not minutes:
            return at
        if at - moment > HORIZON:
            return None
        until = at + timedelta(minutes=minutes, seconds=-local.second, microseconds=-local.microsecond)
        has_changed = until.astimezone(zone).utcoffset() != local.utcoffset()
        # If the clocks change before the window's end, or just then, look again right after the change.
        at = _find_change(zone, at, until) if has_changed else until
    return None


def _find_change(zone: tzinfo, start: datetime, end: datetime) -> datetime:
    """The first instant, to the second, with another UTC offset than at ``start``; it is at ``end`` at the latest."""
    offset = start.astimezone(zone).utcoffset()
    low = start.replace(microsecond=0)
    # Seconds after `low`: at `before` the offset is still the old one, at `after` it is not.
    before, after = 0, -((low - end) // timedelta(seconds=1))
    while after - before > 1:
        middle = (before + after) // 2
        if (low + timedelta(seconds=middle)).astimezone(zone).utcoffset() == offset:
            before = middle
        else:
            after = middle
    return low + timedelta(seconds=after)


def allowed_minutes(windows: Sequence[Window], zone: tzinfo, moment: datetime, limit: int) -> int:
    """For how many whole minutes from ``moment`` on, at which it is not quiet, it stays so; at most ``limit``."""
    local = moment.astimezone(zone)
    minute = local.hour * 60 + local.minute
    is_far = all((window.start_minute - minute) % DAY_MINUTES >= limit for window in windows)
    # No window begins so soon, on whatever day, unless the clocks are put forward into one.
    if is_far and (moment + limit * _MINUTE).astimezone(zone).utcoffset() == local.utcoffset():
        return limit
    for minutes in range(1, limit):
        if is_quiet(windows, zone, moment + minutes * _MINUTE):
            return minutes
    return limit

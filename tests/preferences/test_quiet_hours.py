from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from apps.preferences.profile import InvalidValue
from apps.preferences.quiet_hours import (
    DAYS,
    EVERY_DAY,
    MAX_WINDOWS,
    Window,
    allowed_minutes,
    check_windows,
    day_names,
    days_mask,
    find_allowed,
    find_zone,
    format_minute,
    is_quiet,
    pack_window,
    parse_minute,
    unpack_window,
)

BERLIN, NEW_YORK, LORD_HOWE, APIA = (
    ZoneInfo(name) for name in ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia")
)


def every_day(start: str, end: str) -> tuple[Window, ...]:
    return (Window(EVERY_DAY, parse_minute(start), parse_minute(end)),)


def local(zone: ZoneInfo, text: str, *, fold: int = 0) -> datetime:
    """What the clock in ``zone`` shows, as UTC; ``fold=1`` is the second of two."""
    return datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).astimezone(UTC)


@pytest.mark.parametrize(
    ("zone", "window", "now", "expected"),
    [
        # an ordinary night, both sides of midnight, its very edges
        (BERLIN, ("22:00", "07:00"), "2026-06-10 21:59:59.999999", None),
        (BERLIN, ("22:00", "07:00"), "2026-06-10 22:00", "2026-06-11 07:00"),
        (BERLIN, ("22:00", "07:00"), "2026-06-11 06:59:59.999999", "2026-06-11 07:00"),
        (BERLIN, ("22:00", "07:00"), "2026-06-11 07:00", None),
        (BERLIN, ("13:00", "14:00"), "2026-06-10 13:30:15", "2026-06-10 14:00"),
        (BERLIN, ("22:00", "00:00"), "2026-06-10 23:00", "2026-06-11 00:00"),
        (BERLIN, ("22:00", "24:00"), "2026-06-10 23:00", "2026-06-11 00:00"),
        # 2026-03-29 02:00 -> 03:00: the night is an hour shorter, the hour that is skipped is nobody's
        (BERLIN, ("22:00", "07:00"), "2026-03-28 23:00", "2026-03-29 07:00"),
        (BERLIN, ("22:00", "02:30"), "2026-03-28 23:00", "2026-03-29 03:00"),
        (BERLIN, ("22:00", "02:00"), "2026-03-28 23:00", "2026-03-29 03:00"),
        (BERLIN, ("02:00", "03:00"), "2026-03-29 01:59", None),
        (BERLIN, ("02:00", "03:00"), "2026-03-29 03:00", None),
        (BERLIN, ("01:00", "04:00"), "2026-03-29 01:59", "2026-03-29 04:00"),
        # 2026-10-25 03:00 -> 02:00: the night is an hour longer
        (BERLIN, ("22:00", "07:00"), "2026-10-24 23:00", "2026-10-25 07:00"),
        (BERLIN, ("22:00", "03:00"), "2026-10-24 23:00", "2026-10-25 03:00"),
        # New York, 2026-03-08 and 2026-11-01
        (NEW_YORK, ("22:00", "02:15"), "2026-03-08 01:00", "2026-03-08 03:00"),
        (NEW_YORK, ("22:00", "08:00"), "2026-10-31 22:00", "2026-11-01 08:00"),
        # half an hour, 2026-10-04 02:00 -> 02:30
        (LORD_HOWE, ("22:00", "02:10"), "2026-10-03 23:00", "2026-10-04 02:30"),
        # a day that never was, 2011-12-30: its night is there all the same
        (APIA, ("22:00", "07:00"), "2011-12-29 23:00", "2011-12-31 07:00"),
        (APIA, ("22:00", "23:30"), "2011-12-29 23:00", "2011-12-29 23:30"),
    ],
)
def test_first_allowed_instant(zone: ZoneInfo, window: tuple[str, str], now: str, expected: str | None) -> None:
    windows, at = every_day(*window), local(zone, now)
    allowed = find_allowed(windows, zone, at)
    assert allowed == (at if expected is None else local(zone, expected))
    assert is_quiet(windows, zone, at) is (expected is not None)


def test_hour_that_comes_twice_is_quiet_twice() -> None:
    windows = every_day("22:00", "02:30")
    before = local(BERLIN, "2026-10-25 02:10")
    between = local(BERLIN, "2026-10-25 02:40")
    again = local(BERLIN, "2026-10-25 02:10", fold=1)
    assert find_allowed(windows, BERLIN, before) == local(BERLIN, "2026-10-25 02:30")
    assert find_allowed(windows, BERLIN, between) == between
    assert find_allowed(windows, BERLIN, again) == local(BERLIN, "2026-10-25 02:30", fold=1)


def test_days_are_those_a_window_starts_on() -> None:
    friday_night = (Window(days_mask(["fri"]), parse_minute("22:00"), parse_minute("08:00")),)
    assert is_quiet(friday_night, BERLIN, local(BERLIN, "2026-06-12 23:00"))
    assert is_quiet(friday_night, BERLIN, local(BERLIN, "2026-06-13 07:59"))
    for text in ("2026-06-12 07:00", "2026-06-13 08:00", "2026-06-13 23:00", "2026-06-11 23:00"):
        assert not is_quiet(friday_night, BERLIN, local(BERLIN, text)), text


def test_windows_that_meet_are_one() -> None:
    windows = (
        Window(EVERY_DAY, parse_minute("22:00"), parse_minute("01:00")),
        Window(EVERY_DAY, parse_minute("01:00"), parse_minute("06:00")),
        Window(days_mask(["sun"]), parse_minute("00:00"), parse_minute("24:00")),
    )
    assert find_allowed(windows, BERLIN, local(BERLIN, "2026-06-13 22:30")) == local(BERLIN, "2026-06-15 06:00")


def test_quiet_for_ever_has_no_end() -> None:
    assert find_allowed(every_day("00:00", "24:00"), BERLIN, local(BERLIN, "2026-06-13 22:30")) is None


def test_room_until_it_is_quiet_again() -> None:
    windows = (*every_day("22:00", "07:00"), *every_day("07:04", "08:00"))
    seven = local(BERLIN, "2026-06-13 07:00")
    assert allowed_minutes(windows, BERLIN, seven, 10) == 4
    assert allowed_minutes(windows, BERLIN, seven + timedelta(hours=1), 10) == 10


@pytest.mark.parametrize(
    "windows",
    [
        [Window(EVERY_DAY, 0, 1440)],
        [Window(EVERY_DAY, 720, 60), Window(EVERY_DAY, 60, 720)],
        [Window(1 << day, 0, 1440) for day in range(7)],
        [Window(1, 0, 0)],
        [Window(0, 0, 60)],
        [Window(128, 0, 60)],
        [Window(1, 1440, 60)],
        [Window(1, -1, 60)],
        [Window(1, 0, 1441)],
        [Window(1, 0, minute) for minute in range(1, MAX_WINDOWS + 2)],
    ],
)
def test_windows_that_make_no_sense_are_refused(windows: list[Window]) -> None:
    with pytest.raises(InvalidValue, match=r"\.$"):
        check_windows(windows)


def test_windows_that_leave_a_minute_are_taken_sorted_and_once() -> None:
    windows = [Window(EVERY_DAY, 720, 719), Window(1, 5, 9), Window(1, 5, 9)]
    assert check_windows(windows) == (Window(1, 5, 9), Window(EVERY_DAY, 720, 719))
    assert check_windows([Window(1 << day, 0, 1440) for day in range(6)])
    assert check_windows([]) == ()


@pytest.mark.parametrize("text", ["", "7:00", "24:01", "25:00", "12:60", "12.30", "12:3", "1２:30", "+1:30", "12:30 "])
def test_time_of_day_is_read_strictly(text: str) -> None:
    with pytest.raises(InvalidValue):
        parse_minute(text)


def test_words_and_numbers_go_there_and_back() -> None:
    assert [parse_minute(format_minute(minute)) for minute in range(1441)] == list(range(1441))
    assert [days_mask(day_names(mask)) for mask in range(128)] == list(range(128))
    for window in (Window(1, 0, 1), Window(127, 1439, 1440), Window(64, 1320, 420)):
        assert unpack_window(pack_window(window)) == window
    with pytest.raises(InvalidValue):
        days_mask(["Monday"])
    assert DAYS[datetime(2026, 6, 15, tzinfo=UTC).weekday()] == "mon"


@pytest.mark.parametrize(
    "name", ["", "Mars/Olympus", "America", "../etc/passwd", "/etc/localtime", "a\0b", "x" * 300, "\ud800"]
)
def test_zone_that_is_none_is_not_found(name: str) -> None:
    assert find_zone(name) is None

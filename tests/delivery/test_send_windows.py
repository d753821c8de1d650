from datetime import UTC, datetime

import pytest

from apps.delivery.broadcasts.windows import SendWindow


def utc(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


BERLIN = SendWindow("09:00", "20:00", "Europe/Berlin")


@pytest.mark.parametrize(
    ("window", "moment", "opens_at"),
    [
        (BERLIN, "2026-01-15 07:59:59", "2026-01-15 08:00:00"),
        (BERLIN, "2026-01-15 08:00:00", "2026-01-15 08:00:00"),
        (BERLIN, "2026-01-15 18:59:59", "2026-01-15 18:59:59"),
        (BERLIN, "2026-01-15 19:00:00", "2026-01-16 08:00:00"),
        (BERLIN, "2026-07-15 06:30:00", "2026-07-15 07:00:00"),  # summer time
        (BERLIN, "2026-03-28 22:00:00", "2026-03-29 07:00:00"),  # the clocks go forward in the night
        (BERLIN, "2026-10-24 22:00:00", "2026-10-25 08:00:00"),  # and back
        (SendWindow("22:00", "06:00", "UTC"), "2026-01-15 12:00:00", "2026-01-15 22:00:00"),
        (SendWindow("22:00", "06:00", "UTC"), "2026-01-15 03:00:00", "2026-01-15 03:00:00"),
        (SendWindow("00:00", "24:00", "UTC"), "2026-01-15 12:00:00", "2026-01-15 12:00:00"),
        (SendWindow("09:00", "09:00", "UTC"), "2026-01-15 12:00:00", "2026-01-15 12:00:00"),
        (SendWindow("18:00", "24:00", "UTC"), "2026-01-15 12:00:00", "2026-01-15 18:00:00"),
        # 02:00 to 03:00 does not exist that night: it opens the next.
        (SendWindow("02:00", "03:00", "Europe/Berlin"), "2026-03-28 23:30:00", "2026-03-30 00:00:00"),
    ],
)
def test_window_opens_on_the_clock_of_its_zone(window, moment, opens_at):
    assert window.opens_at(utc(moment)) == utc(opens_at)
    assert window.is_open(utc(moment)) == (moment == opens_at)


def test_unknown_zone_never_opens():
    assert SendWindow("09:00", "20:00", "Mars/Olympus").opens_at(utc("2026-01-15 12:00:00")) is None


def test_window_survives_storage():
    assert SendWindow.read(BERLIN.store()) == BERLIN
    assert SendWindow.read(None) is None

"""The hours of the day in which a broadcast may be sent. Pure: no clock, no ORM.

A send window is quiet hours turned inside out, on one clock for everybody: so it shares their arithmetic, which is
right on the days on which the clocks change."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from apps.preferences.quiet_hours import EVERY_DAY, Window, find_allowed, find_zone, parse_minute


@dataclass(frozen=True, slots=True)
class SendWindow:
    """From ``start`` to before ``end`` (``HH:MM``) on the clock of ``time_zone`` (IANA). An end before the start is on
    the next day; an end that is the start leaves the whole day."""

    start: str
    end: str
    time_zone: str

    @staticmethod
    def read(stored: Mapping[str, Any] | None) -> "SendWindow | None":
        """What ``store`` made."""
        return None if stored is None else SendWindow(**stored)

    def store(self) -> dict[str, str]:
        """The window as JSON."""
        return asdict(self)

    def opens_at(self, moment: datetime) -> datetime | None:
        """The first instant from ``moment`` (aware, UTC) on at which it is open, ``moment`` itself if it is now;
        ``None`` if that is never, or its zone is not known on this machine. Raises ``InvalidValue`` for odd times."""
        zone = self._zone
        if zone is None:
            return None
        start, end = parse_minute(self.start), parse_minute(self.end)
        if start == end % 1440:
            return moment
        return find_allowed((Window(EVERY_DAY, end % 1440, start),), zone, moment)

    def is_open(self, moment: datetime) -> bool:
        """Whether it is open at ``moment`` (aware, UTC)."""
        return self.opens_at(moment) == moment

    @property
    def _zone(self) -> ZoneInfo | None:
        return find_zone(self.time_zone)

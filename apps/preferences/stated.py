"""What a recipient said they want, as plain data."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from apps.channels import Channel
from apps.preferences.quiet_hours import Window


@dataclass(frozen=True, slots=True)
class StatedPreferences:
    """A recipient's own words; what is in neither mapping was not spoken of, and the category's default holds."""

    is_opted_out: bool
    time_zone: str
    channels: Mapping[Channel, bool]
    categories: Mapping[str, Mapping[Channel, bool]]
    quiet_hours: tuple[Window, ...]

    @property
    def fingerprint(self) -> str:
        """Equal for equal words, and practically only then; 22 characters."""
        words = [
            self.is_opted_out,
            self.time_zone,
            sorted(self.channels.items()),
            sorted((key, sorted(wishes.items())) for key, wishes in self.categories.items()),
            [(window.days, window.start_minute, window.end_minute) for window in sorted(self.quiet_hours)],
        ]
        return hashlib.sha256(json.dumps(words).encode()).hexdigest()[:22]

"""What a category of messages means for deciding, as plain data."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from apps.channels import Channel

KEY_MAX_LENGTH: Final = 64
KEY_PATTERN: Final = r"^[a-z0-9_.-]{0,64}$"
ZONELESS_SEND: Final = "send"
ZONELESS_SUPPRESS: Final = "suppress"
CAP_MAX: Final = 1000
CAP_MIN_PERIOD: Final = timedelta(minutes=1)
CAP_MAX_PERIOD: Final = timedelta(days=31)


class Kind(StrEnum):
    """What a category is for. ``critical`` passes quiet hours and frequency caps, but no opt-out, no switched-off
    channel and no suppression: nothing does."""

    GENERAL = "general"
    TRANSACTIONAL = "transactional"
    MARKETING = "marketing"
    CRITICAL = "critical"


class QuietHoursRule(StrEnum):
    """What becomes of a message that comes up in quiet hours."""

    DEFER = "defer"
    SUPPRESS = "suppress"
    SEND = "send"


class CapRule(StrEnum):
    """What becomes of a message beyond the frequency cap."""

    DEFER = "defer"
    SUPPRESS = "suppress"


@dataclass(frozen=True, slots=True)
class Cap:
    """At most ``limit`` messages in any stretch of ``period``, for each recipient and channel."""

    limit: int
    period: timedelta
    rule: CapRule = CapRule.DEFER


@dataclass(frozen=True, slots=True)
class CategoryRules:
    """The rules of one category. ``id`` is what recipients' wishes refer to.

    ``zoneless`` says what quiet hours mean for somebody whose time zone is not known: the name of the zone their
    hours are then read in, or ``suppress`` or ``send``. ``retries_unknown`` says whether a message whose provider did
    not answer is sent again."""

    id: int
    key: str
    kind: Kind = Kind.GENERAL
    off_by_default: frozenset[Channel] = frozenset()
    quiet_hours: QuietHoursRule = QuietHoursRule.DEFER
    cap: Cap | None = None
    zoneless: str = "UTC"
    is_active: bool = True
    retries_unknown: bool = True

    @property
    def obeys_cap(self) -> bool:
        """Whether messages of this category are counted and limited."""
        return self.cap is not None and self.kind is not Kind.CRITICAL


DEFAULT_KEY: Final = ""
# What holds if PostgreSQL has no row for the default category.
DEFAULT_RULES: Final = CategoryRules(id=0, key=DEFAULT_KEY)

# Categories every installation begins with: key, name, kind, description.
BUILT_IN: Final = (
    (DEFAULT_KEY, "Default", Kind.GENERAL, "What is sent without a category."),
    ("transactional", "Transactional", Kind.TRANSACTIONAL, "Orders, receipts, changes to an account."),
    ("marketing", "Marketing", Kind.MARKETING, "Offers and news."),
    (
        "critical",
        "Critical",
        Kind.CRITICAL,
        "One-time passwords and security alerts: sent in quiet hours and beyond caps, never against an opt-out.",
    ),
)

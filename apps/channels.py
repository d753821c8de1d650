"""The two words every app shares: the channel of a delivery and the lane it travels in."""

from apps.labels import Labelled


class Channel(Labelled):
    """How a person is reached. The numbers are stored; never reuse one."""

    PUSH = 1
    SMS = 2
    EMAIL = 3

    @classmethod
    def from_label(cls, label: str) -> "Channel":
        """The channel called ``label`` (``push``, ``sms``, ``email``); raises ``KeyError``."""
        return cls[label.upper()]


class Lane(Labelled):
    """Which queues and workers carry a delivery. The numbers are stored; never reuse one."""

    HIGH = 1
    BULK = 2

    @classmethod
    def from_label(cls, label: str) -> "Lane":
        """The lane called ``label`` (``high``, ``bulk``); raises ``KeyError``."""
        return cls[label.upper()]


CHANNEL_LABELS = tuple(channel.label for channel in Channel)
LANE_LABELS = tuple(lane.label for lane in Lane)

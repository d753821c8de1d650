"""Numbers with names: stored as the number, shown as the name in lower case."""

from enum import IntEnum


class Labelled(IntEnum):
    """An ``IntEnum`` whose members have a ``label`` for people and metrics, e.g. ``channel_opt_out``. It is made once:
    to ask an enum's member for its name takes longer than much of what is done with it."""

    label: str

    def __init__(self, number: int) -> None:
        self.label = self._name_.lower()

"""Whose chunk is next: weighted fair queuing over virtual time. Pure.

Each chunk that is taken moves its broadcast's virtual time on by its recipients, divided by the client's weight; the
broadcast that is furthest behind is next. So clients share a channel by their weights, whatever the sizes of their
broadcasts, and a small one is through before a large one is."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

# How many of the largest steps a broadcast may lie behind the others: a new one, or one that had nothing to send for a
# while, catches up with so much and no more. With less than one, weights would not be kept.
MAX_LAG_STEPS = 2.0


class Contender(NamedTuple):
    """A broadcast with a chunk that may be taken now; ``cost`` is that chunk's recipients."""

    id: UUID
    number: int
    client_id: int
    weight: int
    virtual_time: float
    cost: int
    started_at: datetime


class Turn(NamedTuple):
    """Who is next: its virtual time becomes the greater of itself and ``floor``, plus ``charge``."""

    contender: Contender
    floor: float
    charge: float


def choose(contenders: Sequence[Contender]) -> Turn | None:
    """The next of ``contenders``; ``None`` if there is none. Broadcasts of one client share its weight."""
    if not contenders:
        return None
    chosen = min(contenders, key=lambda one: (one.virtual_time, one.number))
    siblings = Counter(one.client_id for one in contenders)
    charges = {one.number: one.cost * siblings[one.client_id] / one.weight for one in contenders}
    others = [one.virtual_time for one in contenders if one is not chosen]
    floor = min(others) - MAX_LAG_STEPS * max(charges.values()) if others else chosen.virtual_time
    return Turn(chosen, floor, charges[chosen.number])

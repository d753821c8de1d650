"""Dividing what a queue can take among the clients that wait for it. Pure arithmetic."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, zip_longest
from typing import TypeVar

T = TypeVar("T")


def share_by_weight(total: int, weights: Mapping[int, int]) -> dict[int, int]:
    """``total`` divided in proportion to ``weights``, rounded down, but at least one for each."""
    sum_of_weights = sum(weights.values())
    return {key: max(1, total * weight // sum_of_weights) for key, weight in weights.items()}


def take_turns(groups: Iterable[Sequence[T]]) -> list[T]:
    """The items of all groups, one of each in turn, each group's in its order: the few of a small group come early
    however large another is."""
    rounds = zip_longest(*sorted(groups, key=len))
    return [item for item in chain.from_iterable(rounds) if item is not None]

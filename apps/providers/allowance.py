"""How many requests may be under way to one provider at once."""

from apps.quickest import Quickest

START, LEAST, MOST = 64, 8, 200
QUEUE_S = 0.015  # of waiting at the provider; or as long as an answer takes without, if that is longer
SHORT_QUEUE_S = 0.003  # the same while something urgent goes the same way
BASE_S = 600.0


class Allowance:
    """How many requests may be under way to one origin: as many as do not wait for each other there, so that those of
    a broadcast leave room for somebody's password. By the rule of LEDBAT (RFC 6817): what an answer takes longer than
    the quickest of late is time in a queue; while that is short the allowance grows, when it is long it shrinks."""

    def __init__(self) -> None:
        self.limit = float(START)
        self._base = Quickest(BASE_S)
        self._next_cut = 0.0

    def learn(self, quickest_s: float, mean_s: float, now: float, *, queue_s: float = QUEUE_S) -> None:
        """From answers that came together: how long the quickest of them took, and all on average."""
        self._base.learn(quickest_s, now)
        if mean_s - self._base.value <= max(queue_s, self._base.value):
            self.limit = min(MOST, self.limit + 1.0)
        elif now >= self._next_cut:
            self._next_cut = now + mean_s  # what is cut now shows after as long
            self.limit = max(LEAST, self.limit * 0.85)

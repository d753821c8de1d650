"""How many requests may be under way to one provider at once."""

from math import inf

START, LEAST, MOST = 64, 16, 200
QUEUE_S = 0.015  # of waiting at the provider; or as long as an answer takes without, if that is longer
BASE_S = 600.0  # the quickest answer of this time, and of as long before


class Allowance:
    """How many requests may be under way to one origin: as many as do not wait for each other there, so that those of
    a broadcast leave room for somebody's password. By the rule of LEDBAT (RFC 6817): what an answer takes longer than
    the quickest of late is time in a queue; while that is short the allowance grows, when it is long it shrinks."""

    def __init__(self) -> None:
        self.limit = float(START)
        self._base_s = self._next_base_s = inf
        self._base_until = self._next_cut = 0.0

    def learn(self, latency_s: float, now: float) -> None:
        """From the mean of answers that came together."""
        if now >= self._base_until:
            self._base_s, self._next_base_s, self._base_until = self._next_base_s, inf, now + BASE_S
        self._base_s, self._next_base_s = min(self._base_s, latency_s), min(self._next_base_s, latency_s)
        if latency_s - self._base_s <= max(QUEUE_S, self._base_s):
            self.limit = min(MOST, self.limit + 1.0)
        elif now >= self._next_cut:
            self._next_cut = now + latency_s  # what is cut now shows after as long
            self.limit = max(LEAST, self.limit * 0.85)

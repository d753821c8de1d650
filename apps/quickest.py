"""What something takes when nothing is in its way, learnt from what it takes."""

from math import inf


class Quickest:
    """The smallest ``value`` of the last ``span_s`` seconds, and of as long before; infinite before anything is known.
    Not thread-safe."""

    def __init__(self, span_s: float) -> None:
        self.value = self._next = inf
        self._span_s = span_s
        self._until = 0.0

    def learn(self, value: float, now: float) -> None:
        """From one more value; ``now`` is of the monotonic clock."""
        if now >= self._until:
            self.value, self._next, self._until = self._next, inf, now + self._span_s
        self.value, self._next = min(self.value, value), min(self._next, value)

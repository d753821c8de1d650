"""How much the exhaustive tests do: a sample of the same cases by default, all of them where ``FULL_TESTS`` is set
(``make test-oracle``)."""

import os

IS_FULL = os.environ.get("FULL_TESTS", "") not in {"", "0"}


def scaled(full: int, sample: int) -> int:
    """``full`` or ``sample``."""
    return full if IS_FULL else sample

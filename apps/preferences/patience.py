"""Trying a transaction again: what commands do that work through much, where a person's request would give up."""

import time
from collections.abc import Callable
from typing import Final, TypeVar

from django.db import InterfaceError, OperationalError, connection

T = TypeVar("T")
ATTEMPTS: Final = 5
FIRST_PAUSE_S: Final = 0.5


def persist(write: Callable[[], T]) -> T:
    """What ``write`` returns, which is one or several transactions that can be repeated. Deadlocks, lock time-outs
    and lost connections are tried again for some seconds, not within a transaction. Raises ``OperationalError`` or
    ``InterfaceError`` in the end."""
    pause_s = FIRST_PAUSE_S
    for _ in range(ATTEMPTS - 1):
        try:
            return write()
        except (OperationalError, InterfaceError):
            if connection.in_atomic_block:
                raise
            connection.close()
            time.sleep(pause_s)
            pause_s *= 2
    return write()

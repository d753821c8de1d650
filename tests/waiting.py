"""Waiting for something to become true, in place of sleeping."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(
    look: Callable[[], T], explain: Callable[[], object] = lambda: "", *, timeout_s: float = 30.0, every_s: float = 0.05
) -> T:
    """The first true answer of ``look``; fails with what ``explain`` says if there is none in time."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not (found := look()):
        assert time.monotonic() < deadline, explain()
        pause.wait(every_s)
    return found

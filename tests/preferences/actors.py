"""Threads that take a step only when told to, so that a test can run them through every order."""

import threading
from collections.abc import Callable
from typing import Final

from django.db import connection

TIMEOUT_S: Final = 30.0
_current: Final = threading.local()


def pause() -> None:
    """Here one step ends and the next begins, for the actor that runs this; for everybody else nothing happens."""
    actor = getattr(_current, "actor", None)
    if actor is not None:
        actor.hand_over()


class Actor:
    """A thread with a database connection of its own that plays a part, step by step, as often as it is given one."""

    def __init__(self) -> None:
        self._go, self._turned = threading.Semaphore(0), threading.Semaphore(0)
        self._part: Callable[[], None] | None = None
        self._error: BaseException | None = None
        self.is_done = True
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def give(self, part: Callable[[], None]) -> None:
        """Have ``part`` played from its beginning; it must have played the one before to its end."""
        assert self.is_done
        self._part, self.is_done = part, False

    def step(self) -> None:
        """Let it play to its next pause or its end; raises what it raised. Nothing happens when it is done."""
        if self.is_done:
            return
        self._go.release()
        assert self._turned.acquire(timeout=TIMEOUT_S), "an actor hangs"
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Let it play to its end."""
        while not self.is_done:
            self.step()

    def dismiss(self) -> None:
        """End the thread."""
        self.finish()
        self._go.release()
        self._thread.join(TIMEOUT_S)

    def hand_over(self) -> None:
        """Called by the actor itself: wait for the next step."""
        self._turned.release()
        self._go.acquire()

    def _run(self) -> None:
        _current.actor = self
        try:
            while True:
                self._go.acquire()
                part, self._part = self._part, None
                if part is None:
                    return
                try:
                    part()
                except BaseException as error:
                    self._error = error
                self.is_done = True
                self._turned.release()
        finally:
            connection.close()

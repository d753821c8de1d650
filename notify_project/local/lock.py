"""One stack per data directory."""

import fcntl
import os
import time
from pathlib import Path
from typing import Self

from notify_project.local.errors import LocalError

STOP_TIMEOUT_S = 20.0
_STOPPING = "stopping"


class RunLock:
    """An advisory lock on a file, held as long as this process lives, with its PID inside for the message."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("a+")

    def __enter__(self) -> Self:
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while not self._try():
            self._file.seek(0)
            holder, _, state = self._file.read().partition(" ")
            if state != _STOPPING or time.monotonic() > deadline:
                self._file.close()
                raise LocalError(
                    f"It is running already (process {holder or 'unknown'}, {self._path.parent}); "
                    f"stop that one first: Ctrl-C there, or kill {holder}"
                )
            time.sleep(0.1)
        self._write(str(os.getpid()))
        return self

    def __exit__(self, *_: object) -> None:
        self._write("")
        self._file.close()

    def announce_stop(self) -> None:
        """Tell a successor that waiting is worth it."""
        self._write(f"{os.getpid()} {_STOPPING}")

    def _try(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _write(self, text: str) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._file.write(text)
        self._file.flush()

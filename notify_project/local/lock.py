"""One stack per data directory."""

import fcntl
import os
import signal
import time
from pathlib import Path

from notify_project.local.errors import LocalError

STOP_TIMEOUT_S = 30.0
POLL_S = 0.1
STOPPING = "stopping"


class RunLock:
    """An advisory lock on a file, held as long as this process lives, with its PID inside for the message."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("a+")

    def acquire(self) -> None:
        """Take the lock; wait while its holder is stopping. ``LocalError`` naming the holder if it is not."""
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while not self.try_acquire():
            pid, state = read_holder(self._path)
            if state != STOPPING or time.monotonic() > deadline:
                self._file.close()
                raise LocalError(
                    f"It is running already in {self._path.parent} (process {pid}); stop that first: "
                    f"Ctrl-C there, or kill {pid}"
                )
            time.sleep(POLL_S)
        self._write(str(os.getpid()))

    def announce_stop(self) -> None:
        """Tell a successor that waiting is worth it."""
        self._write(f"{os.getpid()} {STOPPING}")

    def release(self) -> None:
        """Give the lock back."""
        self._write("")
        self._file.close()

    def try_acquire(self) -> bool:
        """Take the lock if nobody holds it; whether that worked."""
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


def read_holder(path: Path) -> tuple[int | None, str]:
    """PID and state noted in a lock file; (None, "") if nobody holds it."""
    pid, _, state = path.read_text().partition(" ") if path.is_file() else ("", "", "")
    return (int(pid), state) if pid.isdigit() else (None, "")


def stop_holder(path: Path) -> bool:
    """Stop the process that holds the lock, by SIGTERM; False if there is none. ``LocalError`` if it stays."""
    if not path.is_file():
        return False
    lock = RunLock(path)
    if lock.try_acquire():
        lock.release()
        return False
    pid, _ = read_holder(path)
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while not lock.try_acquire():
        if time.monotonic() > deadline:
            raise LocalError(f"Process {pid} did not stop within {STOP_TIMEOUT_S:.0f} s; kill -9 {pid}")
        time.sleep(POLL_S)
    lock.release()
    return True

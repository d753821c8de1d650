"""How a contestant in a process of its own is started: it says ``ready``, waits for a line, works, and prints its
result as one JSON line; then it waits again, until its input ends. So the measurement leaves out what came before.
Standard library only: some contestants run in another environment."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def run_when_told(work: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """The contestant's side: calls ``work`` with what each line holds."""
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(work(json.loads(line))), flush=True)


class Contestant:
    """The other side. A context manager; inside it the process is ready."""

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], log: Path) -> None:
        self._argv, self._env, self._log = list(argv), dict(env), log

    def __enter__(self) -> "Contestant":
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._env | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
                cwd=ROOT,
                start_new_session=True,
            )
        try:
            self._read_until("ready")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with self._process as process:  # closes the pipes
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)

    @property
    def pid(self) -> int:
        return self._process.pid

    def begin(self, **order: Any) -> None:
        """Send the starting signal and return at once."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def finish(self) -> dict[str, Any]:
        """Wait for the result."""
        result: dict[str, Any] = json.loads(self._read_until("{"))
        return result

    def run(self, **order: Any) -> dict[str, Any]:
        """``begin`` and ``finish``."""
        self.begin(**order)
        return self.finish()

    def _read_until(self, start: str) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(start):
                return line
        raise RuntimeError(f"{' '.join(self._argv)} ended with {self._process.wait()}; see {self._log}")

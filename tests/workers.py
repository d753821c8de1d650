"""A Celery worker as a process of its own, on a broker and a database of the test's choosing."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from django.db import connections

WAIT_S = 30.0
ROOT = Path(__file__).resolve().parent.parent


class WorkerProcess:
    """``with WorkerProcess(queues, …) as worker:`` is one that consumes; it is killed at the end if it still runs.

    ``lines`` are what it has logged, parsed.
    """

    def __init__(
        self,
        queues: Sequence[str],
        *,
        threads: int = 2,
        include: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = f"test-{uuid4().hex[:8]}"
        self.lines: list[dict[str, Any]] = []
        self._raw: list[str] = []
        self._news = threading.Condition()
        self._argv = [
            *(sys.executable, "-m", "celery", "--quiet", "--app=notify_project", "worker", "--pool=threads"),
            *(f"--concurrency={threads}", f"--queues={','.join(queues)}", f"--hostname={self.name}@%h"),
            *("--without-mingle", "--without-gossip"),
            *([f"--include={include}"] if include else []),
        ]
        self._environment = os.environ | _database() | {"LOG_LEVEL": "INFO", "NOTIFY_ROLE": self.name}
        self._environment |= dict(environment or {})
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it and wait until it consumes."""
        self.launch()
        self.wait_for_line(lambda line: line["event"].endswith(" ready."))

    def launch(self) -> None:
        """Start it without waiting."""
        self.process = subprocess.Popen(
            self._argv, cwd=ROOT, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()

    def wait_for_line(self, is_it: Callable[[dict[str, Any]], bool], timeout_s: float = WAIT_S) -> dict[str, Any]:
        """The first line that ``is_it``, of those written already and those to come."""
        deadline = time.monotonic() + timeout_s
        seen = 0
        with self._news:
            while True:
                for line in self.lines[seen:]:
                    if is_it(line):
                        return line
                seen = len(self.lines)
                left = deadline - time.monotonic()
                assert left > 0, self.tail()
                self._news.wait(left)

    def terminate(self) -> None:
        """SIGTERM, as an orchestrator does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout_s: float = WAIT_S) -> int:
        """Its exit code once it has ended."""
        assert self.process is not None
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(WAIT_S)

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def tail(self) -> str:
        """The end of its log."""
        return "".join(self._raw)[-6000:]

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr as output:
            for text in output:
                with self._news:
                    self._raw.append(text)
                    if text.startswith("{"):
                        self.lines.append(json.loads(text))
                    self._news.notify_all()


def _database() -> dict[str, str]:
    """The test's database, not the one it was made from."""
    place = connections["default"].settings_dict
    user = f"{place['USER']}:{place['PASSWORD']}" if place["PASSWORD"] else place["USER"]
    return {"DATABASE_URL": f"postgres://{user}@{place['HOST']}:{place['PORT']}/{place['NAME']}"}

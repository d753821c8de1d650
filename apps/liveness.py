"""Whether a worker process still consumes. It says so with a file, and ``python -m apps.liveness <name>`` reads it:
exit 0 if it has consumed within half a minute, else 1 and a line. Needs neither Django nor a store, so a probe costs
nothing.

A worker whose connection broke may go on living, answer a ping and take no message any more (celery#10302); that is
what this is for. A broker that is away is not its fault: it counts as alive then.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

LIMIT_S = 30.0


def directory() -> Path:
    """Where the files are: ``WORKER_HEARTBEAT_DIR``, else a folder of the temporary ones."""
    return Path(os.environ.get("WORKER_HEARTBEAT_DIR") or Path(tempfile.gettempdir()) / "notify-workers")


def show_life(name: str) -> None:
    """The worker ``name`` (its node name before the ``@``) is well at this moment."""
    path = _file_of(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def forget(name: str) -> None:
    """The worker ``name`` has ended as it should."""
    _file_of(name).unlink(missing_ok=True)


def find_trouble(name: str, *, now_s: float) -> str | None:
    """What is wrong with the worker ``name`` at ``now_s`` (Unix time); ``None`` if nothing is."""
    try:
        age_s = now_s - _file_of(name).stat().st_mtime
    except FileNotFoundError:
        return f"no worker {name} has started here (no {_file_of(name)})"
    if age_s <= LIMIT_S:
        return None
    return f"worker {name} has consumed nothing for {age_s:.0f} s although the broker answers: restart it"


def main(arguments: list[str]) -> int:
    """The probe: one argument, the worker's name."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m apps.liveness <name of the worker, e.g. high>\n")
        return 2
    trouble = find_trouble(arguments[0], now_s=time.time())
    sys.stdout.write(f"{trouble or f'worker {arguments[0]} consumes'}\n")
    return 1 if trouble else 0


def _file_of(name: str) -> Path:
    return directory() / f"{name}.alive"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

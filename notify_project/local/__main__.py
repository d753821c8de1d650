"""``python -m notify_project.local run`` (``make run``), and ``up`` for programs that need a stack."""

import argparse
import ctypes
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from notify_project.local import roles
from notify_project.local.errors import LocalError
from notify_project.local.lock import stop_holder
from notify_project.local.ports import Ports
from notify_project.local.screen import Screen, as_json
from notify_project.local.stack import LOCK_FILE, PROJECT_DIR, Stack, StackOptions

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
COMMANDS = "run: for people; up: for programs, prints one JSON line when ready; down: stops either"
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class StopRequested(BaseException):
    """Ctrl-C or SIGTERM. Not an ``Exception``: nothing on the way may swallow it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 after an orderly stop, 1 with one line on standard error if it cannot start."""
    parsed = _parse(arguments)
    for sig in STOP_SIGNALS:
        signal.signal(sig, _request_stop)
    if parsed.with_parent:
        _die_with_parent()
    try:
        if parsed.command == "down":
            print("Stopped" if stop_holder(parsed.data_dir / LOCK_FILE) else "Nothing is running")
        else:
            _run(parsed)
    except LocalError as error:
        print(f"notify: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # the data directory: read-only, full, someone else's
        print(f"notify: {error.strerror or error}: {error.filename or parsed.data_dir}", file=sys.stderr)
        return 1
    except StopRequested:
        pass
    return 0


def _run(parsed: argparse.Namespace) -> None:
    is_for_people = parsed.command == "run"
    screen = Screen(sys.stdout if is_for_people else sys.stderr)
    stack = Stack(_options(parsed, os.environ, screen))
    try:
        with stack:
            if is_for_people:
                screen.show(stack)
            else:
                print(as_json(stack), flush=True)
            while True:
                signal.pause()
    except StopRequested:
        screen.say("Stopped")
        raise


def _options(parsed: argparse.Namespace, environ: Mapping[str, str], screen: Screen) -> StackOptions:
    return StackOptions(
        data_dir=parsed.data_dir,
        ports=None if "auto" in (parsed.ports, environ.get("NOTIFY_PORTS")) else Ports.from_environment(environ),
        broker=parsed.broker,
        counts=roles.Counts(
            web_processes=parsed.web_processes,
            web_threads=parsed.web_threads,
            high=parsed.workers_high or _read_count(environ, "WORKERS_HIGH"),
            bulk=parsed.workers_bulk or _read_count(environ, "WORKERS_BULK"),
            worker_threads=parsed.worker_threads,
            bulk_threads=parsed.bulk_threads,
        ),
        settings=dict(environ),
        without=frozenset(parsed.without),
        say=screen.say,
    )


def _read_count(environ: Mapping[str, str], name: str) -> int:
    cores = os.cpu_count() or 1
    value = environ.get(name, "").strip() or "1"
    if not (value.isascii() and value.isdigit() and 1 <= int(value) <= cores):
        raise LocalError(f"{name} must be a number from 1 to {cores}, the cores of this machine, not {value!r}")
    return int(value)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m notify_project.local", description=__doc__)
    parser.add_argument("command", choices=["run", "up", "down"], help=COMMANDS)
    parser.add_argument("--data-dir", type=Path, default=PROJECT_DIR / ".local")
    parser.add_argument("--ports", choices=["fixed", "auto"], default="fixed", help="auto: any free ports")
    parser.add_argument("--broker", choices=["valkey", "rabbitmq"], default="valkey")
    parser.add_argument("--workers-high", type=int, help="high-lane worker processes (else WORKERS_HIGH, else 1)")
    parser.add_argument("--workers-bulk", type=int, help="bulk-lane worker processes (else WORKERS_BULK, else 1)")
    parser.add_argument("--worker-threads", type=int, default=8, help="threads of each worker process")
    parser.add_argument("--bulk-threads", type=int, default=4, help="threads of each bulk-lane worker process")
    parser.add_argument("--web-processes", type=int, default=1)
    parser.add_argument("--web-threads", type=int, default=16, help="threads of each web process")
    parser.add_argument("--without", action="append", default=[], choices=roles.OPTIONAL_ROLES, help="leave a role out")
    parser.add_argument("--with-parent", action="store_true", help="stop when the parent process ends, however it ends")
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)  # what `up` does anyway
    return parser.parse_args(arguments)


def _request_stop(_: int, __: FrameType | None) -> None:
    for sig in STOP_SIGNALS:
        signal.signal(sig, _ignore)  # not SIG_IGN, which children would inherit
    raise StopRequested


def _ignore(_: int, __: FrameType | None) -> None:
    """Stopping has begun; it takes seconds and is not to be cut short by an impatient second Ctrl-C."""


def _die_with_parent() -> None:
    """Have the kernel send SIGTERM when the parent (make) is gone, killed -9 included. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())

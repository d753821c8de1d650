"""Child processes: started so that they die with their parent, stopped so that none is left."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from notify_project.local.errors import LocalError

LOOPBACK = "127.0.0.1"
POLL_S = 0.02
CLOCK_SLACK_S = 1.0  # a process' start time is derived from the boot time, which NTP moves


def with_death_signal(argv: Sequence[str], sig: signal.Signals) -> list[str]:
    """``argv`` wrapped so that the kernel sends ``sig`` to it when the thread that started it ends.

    util-linux' setpriv does it by ``prctl(PR_SET_PDEATHSIG)`` and then becomes the program, so the PID is the
    program's own. Where there is no setpriv (macOS) ``argv`` comes back as it is. The signal belongs to the *thread*
    that forked, hence: start children from a thread that lives as long as they should.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return list(argv)
    return [setpriv, "--pdeathsig", sig.name.removeprefix("SIG"), "--", *argv]


def spawn(
    argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    death_signal: signal.Signals | None = signal.SIGTERM,
) -> subprocess.Popen[bytes]:
    """Start ``argv`` in a session of its own (a terminal's Ctrl-C does not reach it), output appended to ``log``."""
    command = list(argv) if death_signal is None else with_death_signal(argv, death_signal)
    with log.open("ab") as output:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, cwd=cwd, start_new_session=True
        )


def stop(process: subprocess.Popen[bytes], *, sig: signal.Signals = signal.SIGTERM, grace_s: float = 10.0) -> int:
    """Ask ``process`` to stop by ``sig``; after ``grace_s`` seconds kill it with its whole session. Its exit code."""
    if process.poll() is None:
        process.send_signal(sig)
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            kill_session(process)
    return process.wait()


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to ``process`` and whatever it started in its session."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def free_port(preferred: int | None = None) -> int:
    """A TCP port that is free on loopback now: ``preferred`` if that is free, else any."""
    if preferred is not None and is_port_free(preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def is_port_free(port: int) -> bool:
    """Whether a server could listen on ``port`` on loopback now."""
    with socket.socket() as probe:
        # As servers do; without it a port in TIME_WAIT of the last run would count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def wait_until(
    is_ready: Callable[[], bool], *, process: subprocess.Popen[bytes], name: str, log: Path, timeout_s: float
) -> None:
    """Return once ``is_ready()``. ``LocalError`` with the log's last line if ``process`` ends or time runs out."""
    deadline = time.monotonic() + timeout_s
    while not is_ready():
        code = process.poll()
        if code is not None:
            raise LocalError(f"{name} ended at start with exit code {code}: {last_line(log)} (log: {log})")
        if time.monotonic() > deadline:
            raise LocalError(f"{name} was not ready within {timeout_s:.0f} s: {last_line(log)} (log: {log})")
        time.sleep(POLL_S)


def last_line(log: Path) -> str:
    """The last line of ``log`` that holds text, "no output" if there is none."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()] if log.is_file() else []
    return next((line for line in reversed(lines) if line), "no output")


def record_pid(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Note in ``path`` which process is running, for ``stop_recorded`` of a later run."""
    try:
        created = psutil.Process(process.pid).create_time()
    except psutil.NoSuchProcess:
        return
    path.write_text(json.dumps({"pid": process.pid, "created": created}))


def stop_recorded(path: Path, *, sig: signal.Signals, grace_s: float = 15.0) -> None:
    """Stop the process noted in ``path`` if it still runs: an earlier run was killed and left it behind, perhaps
    still shutting down. A PID that has been given to another process since is left alone."""
    try:
        record = json.loads(path.read_text())
        leftover = psutil.Process(record["pid"])
        if abs(leftover.create_time() - record["created"]) > CLOCK_SLACK_S:
            return
        leftover.send_signal(sig)
        try:
            leftover.wait(grace_s)
        except psutil.TimeoutExpired:
            leftover.kill()
            leftover.wait(5)
    except (FileNotFoundError, ValueError, KeyError, psutil.NoSuchProcess):
        return


def stored_secret(path: Path) -> str:
    """The secret kept in ``path`` (mode 0600); made on first use."""
    if path.is_file():
        return path.read_text().strip()
    value = secrets.token_urlsafe(24)
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(value)
    return value


def stored_port(path: Path) -> int:
    """The port kept in ``path`` while it is free, else another free one, kept from now on."""
    kept = int(path.read_text()) if path.is_file() else None
    port = free_port(kept)
    if port != kept:
        path.write_text(str(port))
    return port

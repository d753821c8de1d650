"""Child processes: started so that they die with their parent, stopped so that none is left."""

import json
import os
import re
import shutil
import signal
import subprocess
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from notify_project.local.errors import LocalError

POLL_S = 0.02
CLOCK_SLACK_S = 1.0  # a process' start time is derived from the boot time, which NTP moves
TAIL_LINES = 200
LINE_LIMIT = 300
_EXCEPTION = re.compile(r"[\w.]+(Error|Exception|Configured): ")
_COMPLAINT = re.compile(r"\b(FATAL|ERROR|PANIC)\b|^error", re.IGNORECASE)

# The kernel's death signal is tied to the *thread* that forked: this one lives as long as the interpreter.
_forker = ThreadPoolExecutor(1, thread_name_prefix="forker")


def with_death_signal(argv: Sequence[str], sig: signal.Signals) -> list[str]:
    """``argv`` wrapped so that the kernel sends ``sig`` to it when this process ends, however it ends.

    util-linux' setpriv does it by ``prctl(PR_SET_PDEATHSIG)`` and then becomes the program, so the PID is the
    program's own. Where there is no setpriv (macOS) ``argv`` comes back as it is.
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

    def fork() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )

    return _forker.submit(fork).result()


def run_to_end(
    argv: Sequence[str], *, what: str, timeout_s: float, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> str:
    """Run ``argv`` and return its standard output. ``LocalError`` naming ``what`` if it fails or takes too long."""
    try:
        done = subprocess.run(
            with_death_signal(argv, signal.SIGKILL),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=env,
            cwd=cwd,
            timeout=timeout_s,
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LocalError(f"{what} did not end within {timeout_s:.0f} s") from None
    if done.returncode != 0:
        raise LocalError(f"{what} failed: {last_text(done.stderr or done.stdout)}")
    return done.stdout


def stop(process: subprocess.Popen[bytes], *, sig: signal.Signals = signal.SIGTERM, grace_s: float = 10.0) -> int:
    """Ask ``process`` to stop by ``sig``; after ``grace_s`` seconds kill it with its whole session. Its exit code."""
    if process.poll() is None:
        process.send_signal(sig)
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            pass
    kill_session(process)  # whatever the process itself may have left behind
    return process.wait()


def kill_session(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to ``process`` and whatever it started in its session."""
    _kill_group(process.pid)


def wait_until(
    is_ready: Callable[[], bool], *, process: subprocess.Popen[bytes], name: str, log: Path, timeout_s: float
) -> None:
    """Return once ``is_ready()``. ``LocalError`` with the log's last line if ``process`` ends or time runs out."""
    deadline = time.monotonic() + timeout_s
    while not is_ready():
        code = process.poll()
        if code is not None:
            raise LocalError(f"{name} ended at start ({describe_exit(code)}): {last_line(log)} (log: {log})")
        if time.monotonic() > deadline:
            raise LocalError(f"{name} was not ready within {timeout_s:.0f} s: {last_line(log)} (log: {log})")
        time.sleep(POLL_S)


def describe_exit(code: int) -> str:
    """A ``Popen.returncode`` in words: "exit code 1", "killed by SIGKILL"."""
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"


def last_line(log: Path) -> str:
    """The line of ``log`` that most likely says what went wrong, shortened; "no output" if it is empty."""
    return last_text(log.read_text(errors="replace")) if log.is_file() else "no output"


def last_text(output: str) -> str:
    """The last error among the last lines of ``output`` (JSON lines or plain text), else its last line with text."""
    lines = [line.strip() for line in output.splitlines() if line.strip()][-TAIL_LINES:]
    exceptions = [error for line in lines if (error := _exception_in(line))]
    complaints = [line for line in lines if _COMPLAINT.search(line)]
    found = next((group[-1] for group in (exceptions, complaints, lines) if group), "no output")
    return textwrap.shorten(found, LINE_LIMIT, placeholder=" …")


def _exception_in(line: str) -> str | None:
    """The last line of a traceback, bare or in a JSON log line."""
    try:
        event = json.loads(line)
    except ValueError:
        return line if _EXCEPTION.match(line) else None
    trace = str(event.get("exception", "")).splitlines() if isinstance(event, dict) else []
    return trace[-1].strip() if trace else None


def record_pid(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Note in ``path`` which process is running, for ``stop_recorded`` of a later run."""
    try:
        created = psutil.Process(process.pid).create_time()
    except psutil.NoSuchProcess:
        return
    path.write_text(json.dumps({"pid": process.pid, "created": created}))


def stop_recorded(path: Path, *, sig: signal.Signals, grace_s: float = 15.0) -> None:
    """Stop the process noted in ``path`` if an earlier run was killed and left it, or its session, behind.

    A PID that has been given to another process since is left alone. The kernel gives no process a PID that is still
    in use as a session's number, so what is found in the session of a dead leader is the leader's.
    """
    try:
        record = json.loads(path.read_text())
        pid, created = int(record["pid"]), float(record["created"])
    except (FileNotFoundError, ValueError, KeyError):
        return
    try:
        leftover = psutil.Process(pid)
        if abs(leftover.create_time() - created) > CLOCK_SLACK_S:
            return
        leftover.send_signal(sig)
        leftover.wait(grace_s)
    except (psutil.NoSuchProcess, psutil.TimeoutExpired):
        pass
    _kill_group(pid)
    path.unlink(missing_ok=True)


def _kill_group(leader: int) -> None:
    # Each child of ours is started as the leader of a session and of a process group with the same number.
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # macOS says "not permitted" of a group of zombies
        pass

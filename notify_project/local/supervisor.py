"""Keeps a set of servers running: starts them again when they die, stops them in the order asked for."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from notify_project.local.errors import LocalError
from notify_project.local.processes import (
    describe_exit,
    kill_session,
    last_line,
    record_pid,
    spawn,
    stop,
    stop_recorded,
)

WATCH_INTERVAL_S = 0.2
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
HEALTHY_AFTER_S = 30.0  # a server that lived this long starts again at once next time
LOG_LIMIT_BYTES = 20_000_000


class Server(Protocol):
    """Something with a process: a store or one of the platform's own roles."""

    log: Path
    process: subprocess.Popen[bytes] | None

    def launch(self) -> None: ...
    def stop(self, *, grace_s: float) -> None: ...


class Program:
    """A command of ours as a server: output to ``log``, PID kept in ``pid_file`` for the run after a crash."""

    def __init__(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path, pid_file: Path) -> None:
        self.argv = list(argv)
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self._env = dict(env)
        self._cwd = cwd
        self._pid_file = pid_file

    def clear_leftover(self) -> None:
        """Kill what an earlier run may have left of this program."""
        stop_recorded(self._pid_file, sig=signal.SIGKILL)

    def launch(self) -> None:
        """Start, after clearing what may be left of the last time."""
        if self.process is not None:
            kill_session(self.process)
        self.clear_leftover()
        self.process = spawn(self.argv, log=self.log, env=self._env, cwd=self._cwd)
        record_pid(self._pid_file, self.process)

    def stop(self, *, grace_s: float) -> None:
        """SIGTERM, and SIGKILL after ``grace_s`` seconds."""
        if self.process is not None:
            stop(self.process, grace_s=grace_s)
            self.process = None
            self._pid_file.unlink(missing_ok=True)


@dataclass(slots=True)
class _Member:
    server: Server
    is_wanted: bool = False
    started_at: float = 0.0
    failures: int = 0
    restart_at: float | None = None


class Supervisor:
    """Named servers and one thread that looks after them. ``say`` gets one line for each thing worth knowing."""

    def __init__(self, *, say: Callable[[str], None]) -> None:
        self._say = say
        self._members: dict[str, _Member] = {}
        self._lock = threading.RLock()
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, name: str, server: Server) -> None:
        """Launch ``server`` and keep it running from now on."""
        with self._lock:
            member = self._members[name] = _Member(server)
            self._launch(member)

    def resume(self, name: str) -> None:
        """Launch a member again that was stopped by ``stop``."""
        with self._lock:
            member = self._members[name]
            if not member.is_wanted:
                member.failures = 0
                self._launch(member)

    def stop(self, names: Iterable[str], *, grace_s: float) -> None:
        """Stop these members, all at once, and leave them stopped."""
        with self._lock:
            members = [self._members[name] for name in names if name in self._members]
            for member in members:
                member.is_wanted = False
                member.restart_at = None
        if members:
            with ThreadPoolExecutor(len(members)) as pool:
                list(pool.map(lambda member: member.server.stop(grace_s=grace_s), members))

    def kill(self, name: str, sig: signal.Signals = signal.SIGKILL) -> None:
        """Send ``sig`` as an outsider would: to the whole session if it is SIGKILL, else to the first process.

        The member is wanted as before, so it is started again.
        """
        process = self._members[name].server.process
        if process is None or process.poll() is not None:
            return
        if sig == signal.SIGKILL:
            kill_session(process)
        else:
            process.send_signal(sig)

    def names(self) -> list[str]:
        """All members, in the order they were started."""
        return list(self._members)

    def pid(self, name: str) -> int | None:
        """PID of the member's first process, None while it is down."""
        process = self._members[name].server.process
        return process.pid if process is not None and process.poll() is None else None

    def check_alive(self) -> None:
        """``LocalError`` naming a member that has failed more than twice in a row."""
        for name, member in self._members.items():
            if member.failures > 2:
                raise LocalError(f"{name} does not start: {last_line(member.server.log)} (log: {member.server.log})")

    def watch(self) -> None:
        """Look after the members from a thread until ``close``."""
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the watching; members are left as they are."""
        self._is_over.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(WATCH_INTERVAL_S):
            with self._lock:
                for name, member in self._members.items():
                    if member.is_wanted:
                        self._look_after(name, member)

    def _look_after(self, name: str, member: _Member) -> None:
        now = time.monotonic()
        process = member.server.process
        if member.restart_at is not None:
            if now >= member.restart_at:
                self._relaunch(name, member)
            return
        if process is None or process.poll() is None:
            trim_log(member.server.log)
            return
        member.failures = 1 if now - member.started_at > HEALTHY_AFTER_S else member.failures + 1
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (member.failures - 1))
        member.restart_at = now + pause_s
        self._say(
            f"{name} ended ({describe_exit(process.returncode)}), starting it again in {pause_s:g} s; "
            f"log: {member.server.log}"
        )

    def _relaunch(self, name: str, member: _Member) -> None:
        try:
            self._launch(member)
        except (LocalError, OSError) as error:
            member.restart_at = time.monotonic() + LONGEST_PAUSE_S
            self._say(f"{name} does not start: {error}; trying again in {LONGEST_PAUSE_S:g} s")

    def _launch(self, member: _Member) -> None:
        trim_log(member.server.log)
        member.server.launch()
        member.is_wanted = True
        member.restart_at = None
        member.started_at = time.monotonic()


def trim_log(log: Path, *, limit_bytes: int = LOG_LIMIT_BYTES) -> None:
    """Move a log's content to ``<name>.log.1`` once it is over the limit; at most two such files exist per server.

    The writer's file stays open (it appends), so it is copied and emptied; lines written in between are lost.
    """
    if log.is_file() and log.stat().st_size > limit_bytes:
        shutil.copyfile(log, log.with_name(f"{log.name}.1"))
        os.truncate(log, 0)

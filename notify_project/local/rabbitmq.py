"""A private RabbitMQ node from the system's ``rabbitmq-server`` package, beside whatever else runs on the machine."""

import os
import secrets
import shutil
import signal
import subprocess
from pathlib import Path

import amqp

from notify_project.local.errors import LocalError
from notify_project.local.ports import LOOPBACK, free_port
from notify_project.local.private_files import write_private
from notify_project.local.processes import kill_session, record_pid, run_to_end, spawn, stop, stop_recorded, wait_until

START_TIMEOUT_S = 60.0
CONTROL_TIMEOUT_S = 60.0
# Debian's /usr/sbin/rabbitmq-server changes to the user rabbitmq and to its folder; the script below it does not.
_SCRIPT_FOLDERS = ("/usr/lib/rabbitmq/bin", "/opt/rabbitmq/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")


class RabbitMQ:
    """One RabbitMQ node with its own port mapper, cookie, ports, user and data, all below ``data_dir``."""

    def __init__(self, data_dir: Path) -> None:
        self.home = data_dir
        self.log = data_dir / "rabbitmq.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._script = _find_script()
        self._mapper_script = _find_port_mapper()
        self._port = 0
        self._mapper: subprocess.Popen[bytes] | None = None
        self._mapper_port = free_port()
        self._user = "notify"
        self._password = secrets.token_urlsafe(18)

    @property
    def url(self) -> str:
        """What goes into ``BROKER_URL``; known once started."""
        return f"amqp://{self._user}:{self._password}@{LOOPBACK}:{self._port}//"

    @property
    def node_name(self) -> str:
        """What Erlang calls the node; known once started."""
        return f"notify-{self._port}@localhost"

    @property
    def pid(self) -> int | None:
        """PID of the node's first process."""
        return self.process.pid if self.process else None

    def start(self) -> None:
        """Start the node and wait until it takes connections. Raises ``LocalError``."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start without waiting. A node started again has its old data, user and port."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        stop_recorded(self.home / "pid", sig=signal.SIGTERM)
        self._port = self._port or free_port()
        self._write_config()
        if self._mapper is None:  # left to itself, the node starts one that outlives it
            argv = [self._mapper_script, "-port", str(self._mapper_port), "-address", LOOPBACK]
            self._mapper = spawn(argv, log=self.log, cwd=self.home)
        self.process = spawn([str(self._script)], log=self.log, env=self._environment(), cwd=self.home)
        record_pid(self.home / "pid", self.process)

    def wait_ready(self) -> None:
        """Wait until the node takes connections. Raises ``LocalError``."""
        assert self.process is not None
        wait_until(
            self._takes_connections, process=self.process, name="RabbitMQ", log=self.log, timeout_s=START_TIMEOUT_S
        )

    def stop(self, *, grace_s: float = 20.0) -> None:
        """Shut the node and its port mapper down."""
        if self.process is not None:
            stop(self.process, grace_s=grace_s)
            self.process = None
        if self._mapper is not None:
            stop(self._mapper)
            self._mapper = None

    def control(self, *arguments: str) -> str:
        """Run ``rabbitmqctl`` against the node; its output. Raises ``LocalError``."""
        tool = str(self._script.with_name("rabbitmqctl"))
        argv = [tool, "-n", self.node_name, *arguments]
        return run_to_end(argv, what="rabbitmqctl", timeout_s=CONTROL_TIMEOUT_S, env=self._environment(), cwd=self.home)

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        if self.process is not None:
            kill_session(self.process)
            self.process.wait()

    def _takes_connections(self) -> bool:
        try:
            with amqp.Connection(
                host=f"{LOOPBACK}:{self._port}", userid=self._user, password=self._password, connect_timeout=2
            ):
                return True
        except (OSError, amqp.AMQPError):
            return False

    def _write_config(self) -> None:
        settings = {
            "listeners.tcp.local": f"{LOOPBACK}:{self._port}",
            "default_user": self._user,
            "default_pass": self._password,
            "default_permissions.configure": ".*",
            "default_permissions.read": ".*",
            "default_permissions.write": ".*",
            "loopback_users": "none",
            "log.console": "true",
            "log.file": "false",
            "disk_free_limit.absolute": "50MB",
            "vm_memory_high_watermark.absolute": "1GB",
        }
        text = "".join(f"{name} = {value}\n" for name, value in settings.items())
        write_private(self.home / "rabbitmq.conf", text)
        (self.home / "enabled_plugins").write_text("[].\n")
        cookie = self.home / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(secrets.token_hex(16))
            cookie.chmod(0o400)

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RABBITMQ_", "ERL_"))}
        return kept | {
            "HOME": str(self.home),  # the cookie is looked for here
            "ERL_EPMD_PORT": str(self._mapper_port),
            "RABBITMQ_NODENAME": self.node_name,
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RUNNING_UNDER_SYSTEMD": "1",  # the script becomes the node instead of waiting for it
            "RABBITMQ_CONFIG_FILE": str(self.home / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.home / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": str(self.home / "rabbitmq-env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.home / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.home / "data"),
            "RABBITMQ_LOG_BASE": str(self.home / "log"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self.home / "generated"),
            "RABBITMQ_PID_FILE": str(self.home / "rabbitmq.pid"),
        }


def _find_script() -> Path:
    for folder in _SCRIPT_FOLDERS:
        script = Path(folder) / "rabbitmq-server"
        if os.access(script, os.X_OK):
            return script
    on_path = shutil.which("rabbitmq-server")
    if on_path is None:
        raise LocalError("RabbitMQ is not installed here: apt-get install rabbitmq-server")
    return Path(on_path)


def _find_port_mapper() -> str:
    mapper = shutil.which("epmd")
    if mapper is None:
        raise LocalError("Erlang's port mapper epmd is not on PATH: apt-get install erlang-base")
    return mapper

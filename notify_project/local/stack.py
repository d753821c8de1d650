"""The whole platform on one machine, as an object: brought up, looked at, hurt and stopped.

``with Stack(StackOptions(data_dir=…)) as stack:`` gives a stack that takes requests; see ``Stack`` for what tests, the
demo, the fault suite and the benchmarks do with it.
"""

import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

from notify_project.local import roles
from notify_project.local.environment import (
    ADMIN_USER,
    FLOWER_USER,
    STORE_VARIABLES,
    describe_places,
    describe_ports,
    make_secrets,
    read_env_file,
    surroundings,
    write_env_file,
)
from notify_project.local.errors import LocalError
from notify_project.local.given import check_given_stores
from notify_project.local.lock import RunLock
from notify_project.local.ports import LOOPBACK, Ports
from notify_project.local.postgres import Postgres
from notify_project.local.processes import POLL_S, run_to_end, stop_recorded
from notify_project.local.rabbitmq import RabbitMQ
from notify_project.local.readiness import WorkerPing, trouble_of_port, trouble_of_web
from notify_project.local.supervisor import Program, Server, Supervisor
from notify_project.local.valkey import Purpose, Valkey

PROJECT_DIR = Path(__file__).resolve().parent.parent.parent
START_TIMEOUT_S = 90.0
PREPARE_TIMEOUT_S = 180.0
WEB_GRACE_S = 4.0
# What is in flight may take two providers in turn with all their time-outs, and recording while the database is away.
WORKER_GRACE_S = 20.0
STORE_GRACE_S = 5.0
LOCK_FILE = "run.lock"


class Store(Server, Protocol):
    """A server with a URL."""

    @property
    def url(self) -> str: ...
    def wait_ready(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StackOptions:
    """What to bring up, and where.

    ``ports`` None means free ones, those of the last start if they are free still. ``broker`` is ``valkey`` or
    ``rabbitmq``. ``settings`` are environment variables for all processes; ``DATABASE_URL``, ``BROKER_URL`` or
    ``CACHE_URL`` among them replaces the server of one's own. ``role_settings`` are for one role alone, or for one
    process of it (``worker-bulk-1``). ``without`` names roles to leave out. ``say`` gets one line for each step and
    each crash.
    """

    data_dir: Path
    ports: Ports | None = None
    broker: str = "valkey"
    counts: roles.Counts = field(default_factory=roles.Counts)
    settings: Mapping[str, str] = field(default_factory=dict)
    role_settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    without: frozenset[str] = frozenset()
    has_demo_data: bool = True
    say: Callable[[str], None] = lambda line: None


class Stack:
    """A running platform. Roles are named as in ``roles``: ``web``, ``worker-high``, …, ``postgres``, ``broker``.

    A role's processes carry its name, with ``-1``, ``-2``, … behind it if there are several; methods that take a name
    take either. A process that dies is started again, whoever killed it, until ``stop_role``.
    """

    def __init__(self, options: StackOptions) -> None:
        self.options = options
        self.data_dir = options.data_dir.resolve()
        self.log_dir = self.data_dir / "logs"
        self.env_file = self.data_dir / "env"
        self.ports = options.ports or Ports.free()
        self.values: dict[str, str] = {}
        self.demo: dict[str, Any] = {}
        self._run_dir = self.data_dir / "run"
        self._temporary_dir = self.data_dir / "tmp"
        self._supervisor = Supervisor(say=options.say)
        self._names: dict[str, list[str]] = {}
        self._lock: RunLock | None = None

    # --- up and down --------------------------------------------------------------------------------------------------
    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Bring everything up; return when it takes requests. ``LocalError`` if not, and then nothing is left."""
        try:
            self._bring_up()
        except BaseException:
            self.stop()
            raise

    def _bring_up(self) -> None:
        self._make_directories()
        lock = RunLock(self.data_dir / LOCK_FILE)
        lock.acquire()
        self._lock = lock
        self._clear_leftovers()
        if self.options.ports is None:
            self.ports = Ports.kept(read_env_file(self.env_file))  # links and bookmarks of before stay good
        self.ports.check_free()
        given = {name: url for name in STORE_VARIABLES if (url := self.options.settings.get(name))}
        check_given_stores(given)
        self.options.say("Starting the stores")
        stores = self._start_stores(given)
        self._write_environment(stores)
        self._start_sandbox()
        self.options.say("Bringing the database up to date")
        self._prepare_database()
        self.options.say("Starting web, workers, beat and Flower")
        self._start_roles()
        self._supervisor.watch()
        self.wait_ready()
        self.options.say("Ready")

    def stop(self) -> None:
        """Stop everything in order: no new requests, then the workers finish, then the rest, then the stores."""
        if self._lock is None:
            return
        self._lock.announce_stop()
        self.options.say("Stopping")
        stages = [
            ([roles.WEB], WEB_GRACE_S),
            ([*roles.WORKER_ROLES, roles.BEAT, roles.FLOWER], WORKER_GRACE_S),
            ([roles.SANDBOX], WEB_GRACE_S),
            ([*roles.STORE_ROLES], STORE_GRACE_S),
        ]
        for names, grace_s in stages:
            self._supervisor.stop(self._expand(names), grace_s=grace_s)
        self._supervisor.close()
        self._lock.release()
        self._lock = None

    # --- looking ------------------------------------------------------------------------------------------------------
    @property
    def urls(self) -> dict[str, str]:
        """Where things are: web, docs, admin, flower, sandbox (TLS), inbox."""
        web = self.environment.get("PUBLIC_URL", f"http://{LOOPBACK}:{self.ports.web}").rstrip("/")
        urls = {
            "web": web,
            "docs": f"{web}/docs",
            "admin": f"{web}/admin/",
            "flower": f"http://{LOOPBACK}:{self.ports.flower}",
            "sandbox": f"https://{LOOPBACK}:{self.ports.sandbox}",
            "inbox": f"http://{LOOPBACK}:{self.ports.sandbox_http}/",
        }
        absent = {"flower": roles.FLOWER, "sandbox": roles.SANDBOX, "inbox": roles.SANDBOX}
        return {name: url for name, url in urls.items() if absent.get(name) not in self.options.without}

    @property
    def credentials(self) -> dict[str, str]:
        """Users, passwords and the demo client's API key."""
        return {
            "admin_user": ADMIN_USER,
            "admin_password": self.environment.get("ADMIN_PASSWORD", ""),
            "flower_user": FLOWER_USER,
            "flower_password": self.environment.get("FLOWER_PASSWORD", ""),
            "api_key": self.demo.get("api_key", ""),
        }

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every process of this stack; also for a ``manage.py`` beside it."""
        own = {
            "NOTIFY_ENV_FILE": str(self.env_file),
            "DJANGO_SETTINGS_MODULE": "notify_project.settings.base",
            "TMPDIR": str(self._temporary_dir),
        }
        settings = {name: value for name, value in self.options.settings.items() if value or name not in self.values}
        return surroundings() | self.values | settings | describe_ports(self.ports) | own

    def pids(self) -> dict[str, list[int]]:
        """PIDs by role, of the processes that are up."""
        return {
            role: [pid for name in names if (pid := self._supervisor.pid(name)) is not None]
            for role, names in self._names.items()
        }

    def manage(self, *arguments: str, timeout_s: float = PREPARE_TIMEOUT_S) -> str:
        """Run ``manage.py`` with this stack's environment; its standard output. Raises ``LocalError``."""
        argv = [sys.executable, "manage.py", *arguments]
        what = f"manage.py {arguments[0]}"
        return run_to_end(argv, what=what, timeout_s=timeout_s, env=self.environment, cwd=PROJECT_DIR)

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until every role answers again, e.g. after a ``kill``. Raises ``LocalError``."""
        self._wait_ready(timeout_s)

    # --- hurting ------------------------------------------------------------------------------------------------------
    def kill(self, name: str, sig: signal.Signals = signal.SIGKILL) -> None:
        """Send ``sig`` to a role's processes, or to one of them, as an outsider would. They come back by themselves."""
        for instance in self._expand([name]):
            self._supervisor.kill(instance, sig)

    def stop_role(self, name: str, *, grace_s: float = 10.0) -> None:
        """Stop a role's processes and keep them down; ``grace_s=0`` kills them."""
        self._supervisor.stop(self._expand([name]), grace_s=grace_s)

    def start_role(self, name: str) -> None:
        """Start again what ``stop_role`` stopped: same ports, same data."""
        for instance in self._expand([name]):
            self._supervisor.resume(instance)

    def restart_role(self, name: str, *, grace_s: float = 10.0) -> None:
        """``stop_role`` and ``start_role``."""
        self.stop_role(name, grace_s=grace_s)
        self.start_role(name)

    # --- steps --------------------------------------------------------------------------------------------------------
    def _make_directories(self) -> None:
        for folder in (self.data_dir, self.log_dir, self._run_dir, self.data_dir / "beat"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _clear_leftovers(self) -> None:
        """What a killed run has left; before looking whether the ports are free."""
        for pid_file in sorted(self._run_dir.glob("*.pid")):
            stop_recorded(pid_file, sig=signal.SIGKILL)
        for folder in (self.data_dir / "metrics", self._temporary_dir):  # of processes that are gone
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)

    def _start_stores(self, given: Mapping[str, str]) -> dict[str, str]:
        """Start the stores that are not given; the URL of each."""
        wanted: dict[str, tuple[str, Store]] = {}
        if "CACHE_URL" not in given:
            wanted["CACHE_URL"] = roles.CACHE, Valkey(self.data_dir / "cache", purpose=Purpose.CACHE)
        if "BROKER_URL" not in given:
            wanted["BROKER_URL"] = roles.BROKER, self._make_broker()
        if "DATABASE_URL" not in given:
            wanted["DATABASE_URL"] = roles.POSTGRES, Postgres(self.data_dir / "postgres")
        for role, store in wanted.values():
            self._start(role, role, store)
        for _, store in wanted.values():
            store.wait_ready()
        return dict(given) | {variable: store.url for variable, (_, store) in wanted.items()}

    def _make_broker(self) -> Store:
        if self.options.broker == "rabbitmq":
            return RabbitMQ(self.data_dir / "rabbitmq")
        return Valkey(self.data_dir / "broker", purpose=Purpose.BROKER)

    def _write_environment(self, stores: Mapping[str, str]) -> None:
        """Settings for all processes: secrets are kept, places are as they are today."""
        kept = read_env_file(self.env_file)
        fresh = make_secrets()
        places = describe_places(self.data_dir, self.ports)
        self.values = fresh | {name: kept[name] for name in fresh if name in kept} | places | dict(stores)
        write_env_file(self.env_file, self.values)

    def _start_sandbox(self) -> None:
        if roles.SANDBOX in self.options.without:
            return
        home = self.data_dir / "sandbox"
        web = self.urls["web"]
        arguments = [f"--data-dir={home}", f"--port={self.ports.sandbox}", f"--smtp-port={self.ports.sandbox_smtp}"]
        arguments.append(f"--webhook-base={web}")
        argv = [sys.executable, "-m", "apps.providers.sandbox", "init", *arguments]
        run_to_end(argv, what="sandbox init", timeout_s=START_TIMEOUT_S, env=self.environment, cwd=PROJECT_DIR)
        self.values |= read_env_file(home / "credentials.env")
        write_env_file(self.env_file, self.values)
        command = roles.sandbox_command(
            data_dir=home,
            port=self.ports.sandbox,
            http_port=self.ports.sandbox_http,
            smtp_port=self.ports.sandbox_smtp,
            web=web,
        )
        self._start_program(roles.SANDBOX, roles.SANDBOX, command)

    def _prepare_database(self) -> None:
        argv = [sys.executable, "-m", "notify_project.local.prepare"]
        if self.options.has_demo_data:
            argv.append("--seed")
        environment = self.environment
        output = run_to_end(argv, what="migrate", timeout_s=PREPARE_TIMEOUT_S, env=environment, cwd=PROJECT_DIR)
        self.demo = json.loads(output.splitlines()[-1])

    def _start_roles(self) -> None:
        counts = self.options.counts
        web = roles.web_command(host=LOOPBACK, port=self.ports.web, counts=counts)
        self._start_program(roles.WEB, roles.WEB, web)
        for role in roles.WORKER_ROLES:
            for instance in roles.instances(role, counts.of(role)):
                worker = roles.worker_command(role, instance=instance, threads=counts.threads_of(role))
                self._start_program(role, instance, worker)
        self._start_program(roles.BEAT, roles.BEAT, roles.beat_command(schedule=self.data_dir / "beat/schedule"))
        flower = roles.flower_command(host=LOOPBACK, port=self.ports.flower)
        self._start_program(roles.FLOWER, roles.FLOWER, flower)

    def _start_program(self, role: str, instance: str, command: Sequence[str]) -> None:
        """Start a Python module of ours, unless the role is to be left out."""
        if role in self.options.without:
            return
        program = Program(
            [sys.executable, "-m", *command],
            env=self.environment | self._private_settings(role, instance),
            cwd=PROJECT_DIR,
            log=self.log_dir / f"{instance}.log",
            pid_file=self._run_dir / f"{instance}.pid",
        )
        self._start(role, instance, program)

    def _private_settings(self, role: str, instance: str) -> dict[str, str]:
        settings = {"NOTIFY_ROLE": instance}
        for name, value in roles.SETTINGS.get(role, {}).items():
            settings[name] = self.environment.get(name, value)
        if role == roles.WEB:
            settings["WEB_THREADS"] = str(self.options.counts.web_threads)
        if role in roles.WORKER_ROLES:
            settings["WORKER_THREADS"] = str(self.options.counts.threads_of(role))
        if role == roles.FLOWER:
            settings["FLOWER_BASIC_AUTH"] = f"{FLOWER_USER}:{self.credentials['flower_password']}"
        for name in dict.fromkeys((role, instance)):
            settings |= self.options.role_settings.get(name, {})
        return settings

    def _start(self, role: str, instance: str, server: Server) -> None:
        self._names.setdefault(role, []).append(instance)
        self._supervisor.start(instance, server)

    def _expand(self, names: Iterable[str]) -> list[str]:
        """Roles and names of single processes → names of processes."""
        return [instance for name in names for instance in self._names.get(name, [name])]

    def _wait_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        workers = [roles.node_name(name) for role in roles.WORKER_ROLES for name in self._names.get(role, [])]
        ping = WorkerPing(self.environment["BROKER_URL"])
        checks = [(role, partial(trouble_of_port, port)) for role, port in self._listeners()]
        if roles.WEB in self._names:
            checks.append((roles.WEB, partial(trouble_of_web, self.ports.web)))
        checks.append(("workers", partial(ping.trouble_of, workers)))
        try:
            for name, find_trouble in checks:
                while trouble := find_trouble():
                    self._supervisor.check_alive()
                    if time.monotonic() > deadline:
                        raise LocalError(f"{name} was not ready within {timeout_s:.0f} s: {trouble}; {self.log_dir}")
                    time.sleep(POLL_S)
        finally:
            ping.close()

    def _listeners(self) -> list[tuple[str, int]]:
        ports = {roles.SANDBOX: self.ports.sandbox, roles.WEB: self.ports.web, roles.FLOWER: self.ports.flower}
        return [(role, port) for role, port in ports.items() if role in self._names]

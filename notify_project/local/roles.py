"""What the platform consists of when it runs: its roles and their commands."""

from dataclasses import dataclass
from pathlib import Path

from apps.delivery.queues import BULK_QUEUES, FANOUT, HIGH_QUEUES, MAINTENANCE, RECEIPTS

WEB = "web"
HIGH = "worker-high"
BULK = "worker-bulk"
HOUSEKEEPING = "worker-maintenance"
BEAT = "beat"
FLOWER = "flower"
SANDBOX = "sandbox"
POSTGRES = "postgres"
BROKER = "broker"
CACHE = "cache"

WORKER_ROLES = (HIGH, BULK, HOUSEKEEPING)
STORE_ROLES = (POSTGRES, BROKER, CACHE)
OPTIONAL_ROLES = (WEB, *WORKER_ROLES, BEAT, FLOWER, SANDBOX)
APP = "notify_project"
# A worker whose database falls silent waits no longer than this either; some statements of housekeeping are long.
SETTINGS = {
    WEB: {"DATABASE_STATEMENT_TIMEOUT_MS": "5000"},
    HIGH: {"DATABASE_STATEMENT_TIMEOUT_MS": "5000"},
    BULK: {"DATABASE_STATEMENT_TIMEOUT_MS": "5000"},
    HOUSEKEEPING: {"DATABASE_STATEMENT_TIMEOUT_MS": "30000"},
}
WEB_CONNECTIONS = 4096  # of each web process
WEB_HEADER_TIMEOUT_MS = 10_000  # also how long an idle connection is kept
QUEUES = {HIGH: HIGH_QUEUES, BULK: BULK_QUEUES, HOUSEKEEPING: (MAINTENANCE, RECEIPTS, FANOUT)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many processes a role has, and threads in each."""

    web_processes: int = 1
    web_threads: int = 16
    high: int = 1
    bulk: int = 1
    worker_threads: int = 8
    bulk_threads: int = 4  # they are never idle: more of them would only wait for the interpreter, and for each other

    def of(self, role: str) -> int:
        """Number of worker processes of ``role``."""
        return {HIGH: self.high, BULK: self.bulk}.get(role, 1)

    def threads_of(self, role: str) -> int:
        """Threads in each worker process of ``role``."""
        return self.bulk_threads if role == BULK else self.worker_threads


def instances(role: str, count: int) -> list[str]:
    """Names of the processes of ``role``: the role itself, or numbered if there are several."""
    return [role] if count == 1 else [f"{role}-{number}" for number in range(1, count + 1)]


def web_command(*, host: str, port: int, counts: Counts) -> list[str]:
    """The web server: ``notify_project.front`` under granian; its threads are ``WEB_THREADS``.

    The connections that may be open at once are many, as they are cheap: what waits is a socket, not a thread.
    """
    return [
        "granian",
        "--interface=asginl",
        "--loop=uvloop",
        f"--host={host}",
        f"--port={port}",
        f"--workers={counts.web_processes}",
        f"--backpressure={WEB_CONNECTIONS}",
        f"--http1-header-read-timeout={WEB_HEADER_TIMEOUT_MS}",
        "--no-ws",
        "--no-access-log",
        f"--log-config={APP}/granian.json",
        "--workers-kill-timeout=5",
        f"{APP}.asgi:application",
    ]


def worker_command(role: str, *, instance: str, threads: int) -> list[str]:
    """A worker for the queues of ``role``; its node name is ``<instance>@<host>``.

    Mingle and gossip are chatter between workers about things not used here (revoked tasks, clocks). The banner that
    ``--quiet`` leaves out would be the one thing in the log that is no JSON.
    """
    return [
        "celery",
        "--quiet",
        f"--app={APP}",
        "worker",
        "--pool=threads",
        f"--concurrency={threads}",
        f"--queues={','.join(QUEUES[role])}",
        f"--hostname={node_name(instance)}@%h",
        "--without-mingle",
        "--without-gossip",
    ]


def node_name(instance: str) -> str:
    """``worker-high-2`` → ``high-2``; Celery wants ``@`` and the host's name behind it."""
    return instance.removeprefix("worker-")


def beat_command(*, schedule: Path) -> list[str]:
    """The clock. Its memory of what ran when is in the file ``schedule``."""
    return ["celery", "--quiet", f"--app={APP}", "beat", f"--schedule={schedule}", "--pidfile="]


def flower_command(*, host: str, port: int) -> list[str]:
    """Flower. Its password comes through the environment (``FLOWER_BASIC_AUTH``): arguments show in ``ps``."""
    return ["celery", f"--app={APP}", "flower", f"--address={host}", f"--port={port}", "--persistent=False"]


def sandbox_command(*, data_dir: Path, port: int, http_port: int, smtp_port: int, web: str) -> list[str]:
    """The stand-in for the providers. ``web`` is the platform's base URL: receipts go there, the inbox links there."""
    return [
        "apps.providers.sandbox",
        "serve",
        f"--data-dir={data_dir}",
        f"--port={port}",
        f"--http-port={http_port}",
        f"--smtp-port={smtp_port}",
        f"--webhook-base={web}",
        f"--delivery-url={web}/admin/delivery/delivery/{{id}}/change/",
    ]

"""The place where contestants meet: one stack with its sandbox, and this process as a client beside it."""

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import django
import psycopg
import redis
import requests

from benchmarks.accounting import Meter
from notify_project.local import roles
from notify_project.local.stack import Stack, StackOptions

# Quotas are the providers' wish and would hide what the platform can do; receipts nobody else here handles.
SETTINGS = {
    "FCM_QUOTA_PER_SECOND": "1000000",
    "FCM_QUOTA_PER_MINUTE": "60000000",
    "ROUTE_EMAIL": "sendgrid",  # a call that would go to the next provider waits, and is counted
    "LOG_LEVEL": "WARNING",
}
PLAIN_DATABASE = "plain"
PRODUCT_ROLES = (roles.WEB, *roles.WORKER_ROLES, roles.BEAT)


class Stage:
    """A stack for benchmarks. Flower is left out: it looks on and takes no part."""

    def __init__(
        self,
        *,
        counts: roles.Counts,
        broker: str,
        settings: Mapping[str, str] | None = None,
        without: frozenset[str] = frozenset(),
    ) -> None:
        self._exits = ExitStack()
        self.home = Path(self._exits.enter_context(tempfile.TemporaryDirectory(prefix="notify-bench-")))
        options = StackOptions(
            data_dir=self.home / "stack",
            broker=broker,
            counts=counts,
            settings=SETTINGS | dict(settings or {}),
            without=frozenset({roles.FLOWER}) | without,
        )
        self.stack = Stack(options)
        self.session = requests.Session()

    def __enter__(self) -> Self:
        self._exits.enter_context(self.stack)
        os.environ.update(self.stack.environment)
        django.setup()
        self.session.headers["Authorization"] = f"Api-Key {self.stack.credentials['api_key']}"
        for provider in ("fcm", "sendgrid"):
            self.sandbox("PUT", f"receipts/{provider}", json={"enabled": False})
        return self

    def __exit__(self, *_: object) -> None:
        self._exits.close()

    # --- the platform -------------------------------------------------------------------------------------------------
    def call(self, method: str, path: str, **options: Any) -> Any:
        """The platform's API; raises for an error, with its text."""
        response = self.session.request(method, self.stack.urls["web"] + path, timeout=30, **options)
        if not response.ok:
            raise RuntimeError(f"{method} {path}: {response.status_code} {response.text[:500]}")
        return response.json() if response.content else None

    def meter(self, extra: Mapping[str, Sequence[int]] | None = None) -> Meter:
        """Of the groups that every contestant is charged for, and ``extra`` ones of its own."""
        return Meter(lambda: self.groups() | dict(extra or {}))

    def groups(self) -> dict[str, Sequence[int]]:
        """PIDs by group: web, worker, beat, database, broker, cache, sandbox, and ``client``, which is this process."""
        pids = self.stack.pids()
        workers = [pid for role in roles.WORKER_ROLES for pid in pids.get(role, [])]
        return {
            "web": pids.get(roles.WEB, []),
            "worker": workers,
            "beat": pids.get(roles.BEAT, []),
            "database": pids.get(roles.POSTGRES, []),
            "broker": pids.get(roles.BROKER, []),
            "cache": pids.get(roles.CACHE, []),
            "sandbox": pids.get(roles.SANDBOX, []),
        }

    def worker_pids(self) -> list[int]:
        return list(self.groups()["worker"])

    @contextmanager
    def product_resting(self) -> Iterator[None]:
        """Stops the platform's own processes, so that another contestant has the machine to itself."""
        for role in PRODUCT_ROLES:
            self.stack.stop_role(role)
        try:
            yield
        finally:
            for role in PRODUCT_ROLES:
                self.stack.start_role(role)
            self.stack.wait_ready()

    # --- the database -------------------------------------------------------------------------------------------------
    def connect(self) -> "psycopg.Connection[Any]":
        return psycopg.connect(self.stack.environment["DATABASE_URL"], autocommit=True)

    def checkpoint(self) -> None:
        """So that no contestant pays for the pages that the one before it left."""
        with self.connect() as connection:
            connection.execute("CHECKPOINT")

    def counters(self) -> dict[str, int]:
        """What the stores have done so far: bytes of write-ahead log, transactions, commands of cache and broker (the
        broker's only if it is a Redis)."""
        query = "SELECT (SELECT wal_bytes FROM pg_stat_wal), sum(xact_commit)::bigint FROM pg_stat_database"
        with self.connect() as connection:
            connection.execute("SELECT pg_stat_force_next_flush()")
            row = connection.execute(query).fetchone() or (0, 0)
        counters = {"wal_bytes": int(row[0]), "transactions": int(row[1])}
        for name in ("cache", "broker"):
            url = self.stack.environment[f"{name.upper()}_URL"]
            if url.startswith("redis"):
                with redis.from_url(url) as store:
                    counters[f"{name}_commands"] = int(store.info("stats")["total_commands_processed"])
        return counters

    def counted_since(self, before: Mapping[str, int], items: int) -> dict[str, float]:
        """The same for each of so many items, since ``before``."""
        return {name: round((count - before[name]) / items, 3) for name, count in self.counters().items()}

    # --- the sandbox --------------------------------------------------------------------------------------------------
    def sandbox(self, method: str, path: str, **options: Any) -> Any:
        response = requests.request(
            method, f"{self.stack.urls['inbox'].rstrip('/')}/_sandbox/{path}", timeout=10, **options
        )
        response.raise_for_status()
        return response.json() if response.content else None

    def accepted(self, provider: str) -> int:
        """Messages that the sandbox has taken on so far."""
        return int(self.sandbox("GET", "stats")["providers"][provider]["accepted"])

    def ledger(self, after: int = 0) -> Iterator[dict[str, Any]]:
        """The sandbox's own record, from the file it writes; ``after`` is the number of the last line known."""
        time.sleep(0.1)  # its buffer goes to the file every 25 ms
        with (self.stack.data_dir / "sandbox" / "ledger.jsonl").open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n") and (entry := json.loads(line))["n"] > after:
                    yield entry

    def ledger_last(self) -> int:
        return int(self.sandbox("GET", "stats")["ledger"]["last"])

    # --- the others ---------------------------------------------------------------------------------------------------
    def plain_environment(self) -> dict[str, str]:
        """For the plain Celery application: another database on the same server, another corner of the same broker."""
        base = self.stack.environment
        with self.connect() as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [PLAIN_DATABASE]).fetchone()
            if found is None:
                connection.execute(f"CREATE DATABASE {PLAIN_DATABASE}")
        database = urlsplit(base["DATABASE_URL"])._replace(path=f"/{PLAIN_DATABASE}")
        broker = urlsplit(base["BROKER_URL"])
        if broker.scheme.startswith("redis"):
            broker = broker._replace(path="/5")
        return base | {
            "DATABASE_URL": urlunsplit(database),
            "BROKER_URL": urlunsplit(broker),  # which the command celery reads by itself
            "DJANGO_SETTINGS_MODULE": "benchmarks.plain_celery.settings",
        }


def measure_storage(stage: Stage) -> dict[str, Any]:
    """What ``manage.py storage_report`` says of the stack's database."""
    with stage.connect() as connection:
        connection.execute("CHECKPOINT")
    found: dict[str, Any] = json.loads(stage.stack.manage("storage_report", "--json", "--exact").splitlines()[-1])
    return found

"""``/healthz``: this process answers. ``/readyz``: what it stands on answers too, and if not, what to do about it."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import psycopg
import redis
import structlog
from django.conf import settings
from django.db import connections
from django.db.migrations.loader import MigrationLoader
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from apps.delivery.canary import find_silent
from apps.delivery.sweep import BEAT_HEARTBEAT, HEARTBEAT
from notify_project.broker import BrokerFullError, check_broker_takes_messages, inspect_queues
from notify_project.database import is_disk_full
from notify_project.deadline import SingleFlight

logger = structlog.get_logger("notify.health")

CHECK_TIMEOUT_S = 0.5
SWEEP_LIMIT_S = 30.0
# However often we are asked, from whichever side: the stores are asked once in this time by each process.
REPORT_LIFETIME_S = 1.0


class UnreadyError(Exception):
    """A store answered, but is not fit for use; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Check:
    """How one store is: ``status`` is ``ok`` or ``failed``, ``detail`` is for people and names no address."""

    status: str
    latency_ms: float
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """``status`` is ``ok``, ``degraded`` (requests are still accepted) or ``unavailable``."""

    status: str
    checks: dict[str, Check]


@never_cache
@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """200 as long as this process can answer at all. Looks at nothing: a restart cures no store."""
    return JsonResponse({"status": "ok"})


@never_cache
@require_safe
def readyz(request: HttpRequest) -> JsonResponse:
    """200 ``ok``; 200 ``degraded`` where requests are still accepted; 503 ``unavailable`` without a database that is
    migrated and can be written to."""
    report = _recent_report()
    return JsonResponse(asdict(report), status=503 if report.status == "unavailable" else 200)


def check_database() -> None:
    """Log in to PostgreSQL, past the pool (a busy pool is no illness), and see that all migrations are there.

    Raises ``UnreadyError`` or ``psycopg.Error``.
    """
    with _connect() as connection:
        row = connection.execute("SELECT current_setting('transaction_read_only')").fetchone()
        if row is not None and row[0] == "on":
            raise UnreadyError("PostgreSQL is read-only (a standby?). Point DATABASE_URL at the primary.")
        try:
            rows = connection.execute("SELECT app, name FROM django_migrations").fetchall()
        except psycopg.errors.UndefinedTable:
            rows = []
    missing = expected_migrations() - set(rows)
    if missing:
        raise UnreadyError(f"{len(missing)} migration(s) not applied. Run: python manage.py migrate")
    if is_disk_full():
        raise UnreadyError("PostgreSQL's disk is full. Give it room; it goes on by itself then.")


@contextmanager
def _connect() -> Iterator[psycopg.Connection[Any]]:
    wrapper = connections["default"]
    parameters = {
        name: value
        for name, value in wrapper.get_connection_params().items()
        if name not in {"context", "cursor_factory", "prepare_threshold"}
    }
    # 2 s is libpq's minimum; whoever waits for this gives up earlier. tcp_user_timeout: a vanished host, in ms.
    parameters |= {"connect_timeout": 2, "tcp_user_timeout": 1000}
    with psycopg.connect(**parameters) as connection:
        # LOCAL: behind a pooler the session is somebody else's next.
        connection.execute(f"SET LOCAL statement_timeout = {int(CHECK_TIMEOUT_S * 1000)}")
        yield connection


@cache
def expected_migrations() -> frozenset[tuple[str, str]]:
    """The last migration of each app, as (app, name). Read from the source once in a process."""
    return frozenset(MigrationLoader(None, ignore_no_migrations=True).graph.leaf_nodes())


def check_broker() -> None:
    """Log in to the broker and have it take something. Raises ``UnreadyError`` or what its transport raises."""
    try:
        check_broker_takes_messages(CHECK_TIMEOUT_S)
    except BrokerFullError as error:
        raise UnreadyError(f"{error}. Give it room; requests are accepted and kept, and sent then.") from None


def check_queues() -> None:
    """See that the queues are there and that somebody consumes them. Raises ``UnreadyError`` or what a store raises."""
    depths = inspect_queues(CHECK_TIMEOUT_S)
    missing = [queue for queue, depth in depths.items() if depth is None]
    if missing:
        raise UnreadyError(f"Not declared: {', '.join(missing)}. Run: python manage.py declare_topology")
    silent = find_silent({queue: depth or 0 for queue, depth in depths.items()}, now_s=time.time())
    if silent:
        words = [f"{queue} (for {'an hour' if age is None else f'{age:.0f} s'})" for queue, age in silent.items()]
        raise UnreadyError(f"Nobody consumes {', '.join(words)}. Are the workers of these queues running?")


def check_sweep() -> None:
    """See that the sweep runs, and at beat's word. Raises ``UnreadyError`` or ``psycopg.Error``."""
    with _connect() as connection:
        rows = connection.execute(
            "SELECT name, EXTRACT(epoch FROM now() - finished_at)::float8 FROM heartbeat WHERE name = ANY(%s)",
            [[HEARTBEAT, BEAT_HEARTBEAT]],
        ).fetchall()
    ages = dict(rows)
    mend = "Is beat running, and worker-maintenance?"
    if HEARTBEAT not in ages:
        raise UnreadyError(f"It has never run. {mend}")
    if ages[HEARTBEAT] > SWEEP_LIMIT_S:
        raise UnreadyError(f"It last ran {ages[HEARTBEAT]:.0f} s ago: what is due later is late. {mend}")
    if ages.get(BEAT_HEARTBEAT, SWEEP_LIMIT_S) >= SWEEP_LIMIT_S:
        raise UnreadyError(f"Other workers sweep in its place. {mend}")


def check_cache() -> None:
    """PING the cache. Raises ``redis.RedisError``."""
    client = redis.Redis.from_url(
        settings.CACHES["default"]["LOCATION"],
        socket_timeout=CHECK_TIMEOUT_S,
        socket_connect_timeout=CHECK_TIMEOUT_S,
        retry=None,
    )
    with client:
        client.ping()


_HINTS = {
    "database": "No answer from PostgreSQL. See that it runs and that DATABASE_URL is right.",
    "broker": "No answer from the broker. Requests are accepted and kept; they are sent when it is back. "
    "See that it runs and that BROKER_URL is right.",
    "queues": "Not known without an answer from broker and cache.",
    "sweep": "Not known without an answer from PostgreSQL.",
    "cache": "No answer from the cache. Everything works, slower. See that it runs and that CACHE_URL is right.",
}


def _timed(check: Callable[[], None]) -> Callable[[], float]:
    def run() -> float:
        started = time.perf_counter()
        check()
        return time.perf_counter() - started

    return run


_flights = {
    "database": SingleFlight("readyz-database", _timed(check_database)),
    "broker": SingleFlight("readyz-broker", _timed(check_broker)),
    "cache": SingleFlight("readyz-cache", _timed(check_cache)),
    "queues": SingleFlight("readyz-queues", _timed(check_queues)),
    "sweep": SingleFlight("readyz-sweep", _timed(check_sweep)),
}


def make_report() -> Report:
    """Ask all stores at once; takes at most ``CHECK_TIMEOUT_S``."""
    started = time.monotonic()
    asked = {name: flight.start() for name, flight in _flights.items()}
    checks = {name: _wait_for(name, flight, started) for name, flight in asked.items()}
    failed = {name for name, check in checks.items() if check.status != "ok"}
    status = "unavailable" if "database" in failed else "degraded" if failed else "ok"
    return Report(status, checks)


def _wait_for(name: str, flight: "Future[float]", started: float) -> Check:
    try:
        seconds = flight.result(timeout=max(0.0, started + CHECK_TIMEOUT_S - time.monotonic()))
    except UnreadyError as problem:
        logger.warning("check_failed", check=name, error=problem)
        return Check("failed", _ms(time.monotonic() - started), str(problem))
    except Exception as error:
        logger.warning("check_failed", check=name, error=error)
        # The kind of error only: its text may hold the address, and the reader may be anyone.
        detail = f"{_HINTS[name]} ({type(error).__name__})"
        return Check("failed", _ms(time.monotonic() - started), detail)
    return Check("ok", _ms(seconds))


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


_report_lock = threading.Lock()
_last: tuple[float, Report] | None = None


def forget_report() -> None:
    """Have the next request look anew."""
    global _last
    _last = None


def _recent_report() -> Report:
    global _last
    with _report_lock:
        if _last is None or time.monotonic() - _last[0] > REPORT_LIFETIME_S:
            _last = (time.monotonic(), make_report())
        return _last[1]

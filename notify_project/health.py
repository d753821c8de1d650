"""``/healthz``: this process answers. ``/readyz``: what it stands on answers too, and if not, what to do about it."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from functools import cache

import psycopg
import redis
import structlog
from django.conf import settings
from django.db import connections
from django.db.migrations.loader import MigrationLoader
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from notify_project.broker import ping_broker
from notify_project.deadline import SingleFlight

logger = structlog.get_logger("notify.health")

CHECK_TIMEOUT_S = 0.5
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
    """200 ``ok``; 200 ``degraded`` without broker or cache; 503 ``unavailable`` without a migrated database."""
    report = _recent_report()
    return JsonResponse(asdict(report), status=503 if report.status == "unavailable" else 200)


def check_database() -> None:
    """Log in to PostgreSQL, past the pool (a busy pool is no illness), and see that all migrations are there.

    Raises ``UnreadyError`` or ``psycopg.Error``.
    """
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


@cache
def expected_migrations() -> frozenset[tuple[str, str]]:
    """The last migration of each app, as (app, name). Read from the source once in a process."""
    return frozenset(MigrationLoader(None, ignore_no_migrations=True).graph.leaf_nodes())


def check_broker() -> None:
    """Log in to the broker. Raises what its transport raises."""
    ping_broker(CHECK_TIMEOUT_S)


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

"""Looking at servers that were given by URL, before anything is started on top of them."""

from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import kombu
import psycopg
import redis

from notify_project.local.errors import LocalError

CONNECT_TIMEOUT_S = 5


def check_given_stores(urls: Mapping[str, str]) -> None:
    """``LocalError`` naming the first of ``DATABASE_URL``, ``BROKER_URL``, ``CACHE_URL`` that is of no use.

    Texts name host and port, never a password.
    """
    for name, url in urls.items():
        schemes, connect = _CHECKS[name]
        parts = urlsplit(url.split(";")[0])  # of a cluster's nodes, the first
        if parts.scheme not in schemes:
            raise LocalError(f"{name} must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        try:
            connect(url)
        except Exception as error:  # three client libraries, each with a family of its own
            place = f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname or parts.path
            raise LocalError(f"{name}: no connection to {place} ({_first_line(error)})") from None


def _connect_database(url: str) -> None:
    psycopg.connect(url, connect_timeout=CONNECT_TIMEOUT_S).close()


def _connect_broker(url: str) -> None:
    if url.startswith("redis"):
        _connect_cache(url)
        return
    with kombu.Connection(url, connect_timeout=CONNECT_TIMEOUT_S) as broker:
        broker.ensure_connection(max_retries=len(url.split(";")))


def _connect_cache(url: str) -> None:
    with redis.Redis.from_url(url, socket_connect_timeout=CONNECT_TIMEOUT_S, socket_timeout=CONNECT_TIMEOUT_S) as cache:
        cache.ping()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


_CHECKS: dict[str, tuple[tuple[str, ...], Callable[[str], None]]] = {
    "DATABASE_URL": (("postgres", "postgresql"), _connect_database),
    "BROKER_URL": (("redis", "rediss", "amqp", "amqps"), _connect_broker),
    "CACHE_URL": (("redis", "rediss", "unix"), _connect_cache),
}

"""Connections to PostgreSQL that do not wait for ever."""

import select
import time
from collections.abc import Generator
from typing import Any, ClassVar, TypeVar

import psycopg
from psycopg.abc import Params

RV = TypeVar("RV")

DISK_FULL_LASTS_S = 10.0
_disk_full_at = float("-inf")


def note_error(cause: BaseException | None) -> None:
    """What came of a statement in this process; only a full disk is remembered. It cannot be asked for."""
    global _disk_full_at
    if isinstance(cause, psycopg.errors.DiskFull):
        _disk_full_at = time.monotonic()


def is_disk_full() -> bool:
    """Whether PostgreSQL said so just now."""
    return time.monotonic() - _disk_full_at < DISK_FULL_LASTS_S


class PooledConnection(psycopg.Connection[Any]):
    """Tells the pool that it works without asking the server.

    Before the pool hands a connection out it has it execute an empty statement: a round trip, a fifth of what a short
    request costs. A server that ended its side, as one that stops does, has said so: there is something to read on the
    socket. Only then the statement is sent, and fails. A server that vanished without a word is found by neither but
    through time-outs.
    """

    def execute(self, query: Any, params: Params | None = None, **options: Any) -> psycopg.Cursor[Any]:
        """As psycopg's, but for an empty ``query``."""
        if query == "" and not self.closed and not _can_read(self.fileno()):
            return self.cursor()
        return super().execute(query, params, **options)


def _can_read(fileno: int) -> bool:
    poll = select.poll()
    poll.register(fileno, select.POLLIN)
    return bool(poll.poll(0))


class BoundedConnection(PooledConnection):
    """Gives up on a server that has not answered a command for ``limit_s`` seconds: closes and raises
    ``psycopg.OperationalError``.

    The server's ``statement_timeout`` ends what takes long; this ends the wait for a server that is itself stopped, or
    behind a network that swallows everything: TCP's own time-outs do not notice either while its kernel acknowledges.
    """

    limit_s: ClassVar[float]

    def wait(self, gen: Generator[Any, Any, RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """As psycopg's, where no ``timeout`` means for ever."""
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, self.limit_s)
        except psycopg.errors._WaitTimeout:
            self.pgconn.finish()  # its answer, if it ever comes, would be taken for that to the next command
            raise psycopg.OperationalError(f"no answer from PostgreSQL for {self.limit_s:g} s") from None


def bounded_connection(limit_s: float) -> type[PooledConnection]:
    """The class of connections that wait for at most ``limit_s`` seconds for an answer; 0 is for ever."""
    if not limit_s:
        return PooledConnection
    return type("BoundedConnection", (BoundedConnection,), {"limit_s": limit_s})

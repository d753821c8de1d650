"""Connections to PostgreSQL that do not wait for ever."""

from collections.abc import Generator
from typing import Any, ClassVar, TypeVar

import psycopg

RV = TypeVar("RV")


class BoundedConnection(psycopg.Connection[Any]):
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


def bounded_connection(limit_s: float) -> type[BoundedConnection]:
    """The class of connections that wait for at most ``limit_s`` seconds."""
    return type("BoundedConnection", (BoundedConnection,), {"limit_s": limit_s})

"""The statements that are run most, as prepared ones: PostgreSQL parses and plans them once a connection, values travel
beside the text, and rows come back in their binary form. A statement of 500 rows spends a tenth of its time on that.

A statement whose best plan hangs on its values or on fresh statistics is not one for this: after five times PostgreSQL
makes one plan for all values (https://www.postgresql.org/docs/current/sql-prepare.html#SQL-PREPARE-NOTES).
``DATABASE_PREPARE`` turns the preparing off.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from django.db import DEFAULT_DB_ALIAS, connections


def run_prepared(sql: str, parameters: Mapping[str, Any] | Sequence[Any]) -> list[tuple[Any, ...]]:
    """The rows that ``sql`` returns; it must return some, if only none. Raises Django's database errors."""
    with _executed(sql, parameters) as cursor:
        return cursor.fetchall()


def execute_prepared(sql: str, parameters: Mapping[str, Any] | Sequence[Any]) -> int:
    """How many rows ``sql`` changed. Raises Django's database errors."""
    with _executed(sql, parameters) as cursor:
        return cursor.rowcount


@contextmanager
def _executed(sql: str, parameters: Mapping[str, Any] | Sequence[Any]) -> Iterator[psycopg.Cursor[Any]]:
    connection = connections[DEFAULT_DB_ALIAS]  # found once, and not anew for every attribute
    connection.ensure_connection()
    with connection.wrap_database_errors, psycopg.Cursor(connection.connection) as cursor:
        cursor.execute(sql, parameters, prepare=True, binary=True)
        yield cursor

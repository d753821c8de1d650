"""Connections of the pool: healthy ones are handed out without a question, dead ones never."""

import psycopg
import pytest
from django.db import connection
from psycopg_pool import ConnectionPool

from notify_project.database import PooledConnection, bounded_connection

pytestmark = pytest.mark.django_db


@pytest.fixture(params=[0, 5], ids=["unbounded", "bounded"])
def pool(request):
    given = connection.get_connection_params()
    conninfo = psycopg.conninfo.make_conninfo(
        **{name: given[name] for name in ("dbname", "user", "password", "host", "port") if name in given}
    )
    with ConnectionPool(
        conninfo,
        kwargs={"autocommit": True},
        min_size=1,
        max_size=1,
        connection_class=bounded_connection(request.param),
        check=ConnectionPool.check_connection,
        timeout=5,
    ) as pool:
        pool.wait(5)
        yield pool


def backend_of(one):
    return one.execute("SELECT pg_backend_pid()").fetchone()[0]


def test_healthy_connection_is_handed_out_again_and_nothing_was_sent(pool):
    with pool.connection() as one:
        backend = backend_of(one)
    with pool.connection() as one:
        with connection.cursor() as cursor:
            cursor.execute("SELECT query FROM pg_stat_activity WHERE pid = %s", [backend])
            assert cursor.fetchone() == ("SELECT pg_backend_pid()",)
        assert backend_of(one) == backend


def test_connection_that_the_server_ended_is_never_handed_out(pool):
    with pool.connection() as one:
        backend = backend_of(one)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [backend])
    with pool.connection() as one:
        assert isinstance(one, PooledConnection)
        assert backend_of(one) != backend


def test_empty_statement_on_a_closed_connection_is_an_error(pool):
    with pool.connection() as one:
        one.close()
        with pytest.raises(psycopg.OperationalError):
            one.execute("")

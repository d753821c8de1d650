"""The plan of every hot query, on a log large enough that a bad one shows: nothing that grows is read from end to end,
and only the days asked for are touched. ``make bench-plans`` does the same with 10,000,000 rows."""

import pytest
from django.db import connection, transaction

from benchmarks.hot_log import fill_log
from benchmarks.plans import HOT_QUERIES, HotQuery, explain

pytestmark = pytest.mark.django_db
ROWS = 40_000


@pytest.fixture(scope="module")
def hot_log(django_db_setup, django_db_blocker):
    from tests.clients.factories import make_client  # noqa: PLC0415 - needs the database's settings

    with django_db_blocker.unblock(), transaction.atomic():
        yield fill_log(ROWS, make_client().id)
        transaction.set_rollback(True)


@pytest.mark.parametrize("query", HOT_QUERIES, ids=lambda query: query.name)
def test_no_hot_query_reads_a_growing_table_from_end_to_end(query, hot_log):
    statements = explain(query, hot_log)
    assert statements
    assert {table for statement in statements for table in statement.sequential()} == set()


@pytest.mark.parametrize("query", HOT_QUERIES, ids=lambda query: query.name)
def test_no_hot_query_reads_much_that_it_was_not_asked_for(query, hot_log):
    assert max(statement.discarded() for statement in explain(query, hot_log)) <= ROWS / 40


@pytest.mark.parametrize(
    "query", [query for query in HOT_QUERIES if query.partitions is not None], ids=lambda q: q.name
)
def test_hot_queries_touch_only_the_days_they_are_about(query, hot_log):
    for statement in explain(query, hot_log):
        for table, touched in statement.partitions().items():
            assert len(touched) <= query.partitions, f"{table}: {statement.sql}"


def test_a_query_that_reads_everything_is_noticed(hot_log):
    def read_everything(log):
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM delivery WHERE error_code = 'x'")

    (statement,) = explain(HotQuery("bad", read_everything), hot_log)
    assert any(table.startswith("delivery_") for table in statement.sequential())
    assert len(statement.partitions()["delivery"]) > 2


def test_explaining_changes_nothing(hot_log):
    def statuses():
        with connection.cursor() as cursor:
            cursor.execute("SELECT status, count(*) FROM delivery GROUP BY status ORDER BY status")
            return cursor.fetchall()

    before = statuses()
    explain(next(query for query in HOT_QUERIES if query.name == "record 500 rows"), hot_log)
    assert statuses() == before

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection

from apps.delivery.ids import first_id_at
from apps.delivery.partitions import drop_old_partitions, ensure_partitions
from tests.delivery.factories import accept
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db
TODAY = datetime.now(UTC).date()


def table_names():
    with connection.cursor() as cursor:
        cursor.execute("SELECT relname FROM pg_class WHERE relname ~ '^(notification|delivery|attempt)_2[0-9]{7}$'")
        return {row[0] for row in cursor.fetchall()}


def test_migrating_makes_two_weeks_of_partitions():
    assert f"delivery_{TODAY:%Y%m%d}" in table_names()
    assert f"delivery_{TODAY + timedelta(days=14):%Y%m%d}" in table_names()


def test_missing_partitions_are_made_once():
    later = TODAY + timedelta(days=1)
    assert ensure_partitions(today=later) == 3
    assert ensure_partitions(today=later) == 0


def test_old_days_are_dropped_and_recent_ones_kept():
    long_ago = TODAY - timedelta(days=40)
    ensure_partitions(today=long_ago, days_ahead=0)
    before = table_names()
    dropped = set(drop_old_partitions(today=TODAY, retention_days=30))
    assert len(dropped) == 6  # yesterday and the day itself, three tables each
    assert table_names() == before - dropped


def test_day_with_an_open_delivery_is_kept(client_row):
    (delivery,) = accept(client_row.id, RecipientFactory().user_id)
    long_ago = datetime.now(UTC) - timedelta(days=40)
    ensure_partitions(today=long_ago.date(), days_ahead=0)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE delivery SET id = %s WHERE id = %s", [first_id_at(long_ago), delivery.id])
    dropped = drop_old_partitions(today=TODAY, retention_days=30)
    assert f"delivery_{long_ago:%Y%m%d}" not in dropped
    assert len(dropped) == 3


def test_lookup_by_id_reads_one_partition(client_row):
    (delivery,) = accept(client_row.id, RecipientFactory().user_id)
    with connection.cursor() as cursor:
        cursor.execute("EXPLAIN SELECT * FROM delivery WHERE id = %s", [delivery.id])
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert plan.count(" on delivery_") == 1

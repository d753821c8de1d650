"""What the delivery log costs on disk, as ``manage.py storage_report`` says it."""

import io
import json
from datetime import UTC, datetime, timedelta
from importlib import import_module

import pytest
from django.core.management import call_command
from django.db import connection

from apps.delivery.partitions import STORAGE, ensure_partitions, existing_partitions
from apps.delivery.storage import measure_storage
from tests.delivery.factories import accept
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db
TODAY = datetime.now(UTC).date()


def size_of(name):
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_total_relation_size(%s::regclass)", [name])
        return cursor.fetchone()[0]


def report(*arguments):
    output = io.StringIO()
    call_command("storage_report", *arguments, stdout=output)
    return output.getvalue()


@pytest.fixture
def _log(client_row):
    for _ in range(3):
        accept(client_row.id, RecipientFactory().user_id)


@pytest.mark.usefixtures("_log")
def test_a_tables_parts_add_up_to_what_postgresql_says():
    found = {(size.table, size.day): size for size in measure_storage(is_exact=True).tables}
    assert found["delivery", TODAY].total == size_of(f"delivery_{TODAY:%Y%m%d}")
    assert found["notification", TODAY].total == size_of(f"notification_{TODAY:%Y%m%d}")
    assert found["idempotency_key", None].total == size_of("idempotency_key")


@pytest.mark.usefixtures("_log")
def test_rows_are_counted_when_asked_for():
    found = measure_storage(is_exact=True)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM delivery")
        (deliveries,) = cursor.fetchone()
    assert found.deliveries == deliveries > 0


@pytest.mark.usefixtures("_log")
def test_shares_add_up_to_the_bytes_of_a_delivery():
    found = measure_storage(is_exact=True)
    assert sum(found.shares().values()) == pytest.approx(found.bytes_per_delivery)


@pytest.mark.usefixtures("_log")
def test_space_of_deleted_rows_is_slack():
    (before,) = (size for size in measure_storage(is_exact=True, day=TODAY).tables if size.table == "delivery")
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM delivery")
    (after,) = (size for size in measure_storage(is_exact=True, day=TODAY).tables if size.table == "delivery")
    assert after.heap == before.heap
    assert after.slack > before.slack


@pytest.mark.usefixtures("_log")
def test_a_day_can_be_looked_at_alone():
    tables = json.loads(report("--json", "--exact", f"--day={TODAY}"))["tables"]
    assert {size["day"] for size in tables} == {TODAY.isoformat()}
    assert {size["table"] for size in tables} <= {"notification", "delivery", "attempt"}


def test_an_empty_log_has_no_bytes_a_delivery():
    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE delivery, notification, attempt")
    assert json.loads(report("--json", "--exact"))["bytes_per_delivery"] is None


@pytest.mark.usefixtures("_log")
def test_the_table_names_every_part():
    text = report("--exact")
    for word in ("delivery", "notification", "idempotency_key", "delivery heap", "all in"):
        assert word in text


def options_of(name):
    with connection.cursor() as cursor:
        cursor.execute("SELECT reloptions FROM pg_class WHERE oid = %s::regclass", [name])
        return dict(option.split("=") for option in cursor.fetchone()[0] or [])


@pytest.mark.parametrize("parent", STORAGE)
def test_partitions_are_vacuumed_before_much_has_changed(parent):
    ensure_partitions(today=TODAY + timedelta(days=1))
    names = [name for name, _ in existing_partitions() if name.startswith(f"{parent}_2")]
    assert len(names) > 14
    assert {tuple(options_of(name).items()) for name in names} == {tuple(STORAGE[parent].items())}


def test_content_is_not_compressed():
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT DISTINCT attstorage::text FROM pg_attribute JOIN pg_class c ON c.oid = attrelid "
            "WHERE attname = 'content_ct' AND c.relname ~ '^notification' AND c.relkind IN ('r', 'p')"
        )
        assert cursor.fetchall() == [("e",)]


def test_existing_partitions_get_the_settings_as_well():
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE delivery_{TODAY:%Y%m%d} RESET (autovacuum_vacuum_cost_limit)")
    migration = import_module("apps.delivery.migrations.0006_partition_storage")
    with connection.schema_editor() as editor:
        migration.set_storage(None, editor)
    assert options_of(f"delivery_{TODAY:%Y%m%d}") == STORAGE["delivery"]

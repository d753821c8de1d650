"""Daily partitions of the delivery log: made ahead of time, dropped when they are old and settled."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import structlog
from django.db import connection

from apps.delivery.ids import day_bounds

PARENTS = ("notification", "delivery", "attempt")
DAYS_AHEAD = 14
# By default a table is vacuumed once a fifth of it has changed: of a day's hundreds of millions that is late, and then
# slow. Dead entries of the sweep's index are what it has to step over each second; pages that hold only what is over
# are frozen while they are still in memory. A vacuum of a partition may use ten times the usual share of the disk.
_VACUUM = {
    "autovacuum_vacuum_insert_scale_factor": "0.05",
    "autovacuum_analyze_scale_factor": "0.05",
    "autovacuum_vacuum_cost_limit": "2000",
}
STORAGE = {
    "notification": _VACUUM,
    "delivery": _VACUUM | {"autovacuum_vacuum_scale_factor": "0.02"},
    "attempt": _VACUUM,
}
log = structlog.get_logger("notify.delivery.partitions")


def partition_name(parent: str, day: date) -> str:
    return f"{parent}_{day:%Y%m%d}"


def storage_parameters(parent: str) -> str:
    """What stands in a partition's WITH clause."""
    return ", ".join(f"{name} = {value}" for name, value in STORAGE[parent].items())


def ensure_partitions(*, today: date, days_ahead: int = DAYS_AHEAD) -> int:
    """Makes the partitions from yesterday (clocks differ) to ``days_ahead`` days from ``today``; returns how many
    were missing. Safe to run from several places at once."""
    made = 0
    existing = {name for name, _ in existing_partitions()}
    with connection.cursor() as cursor:
        for offset in range(-1, days_ahead + 1):
            day = today + timedelta(days=offset)
            lower, upper = day_bounds(day)
            for parent in PARENTS:
                name = partition_name(parent, day)
                if name in existing:
                    continue
                cursor.execute(
                    f"CREATE TABLE IF NOT EXISTS {name} PARTITION OF {parent} "
                    f"FOR VALUES FROM ('{lower}') TO ('{upper}') WITH ({storage_parameters(parent)})"
                )
                made += 1
    return made


def drop_old_partitions(*, today: date, retention_days: int) -> list[str]:
    """Drops the partitions of days older than ``retention_days``; returns their names. A day that still has an open
    delivery (a send scheduled far ahead) is kept, and said so in the log."""
    dropped: list[str] = []
    oldest = today - timedelta(days=retention_days)
    for day in sorted({day for _, day in existing_partitions() if day < oldest}):
        with connection.cursor() as cursor:
            if _has_open_deliveries(day):
                log.warning("partition_kept", day=day.isoformat(), reason="it holds open deliveries")
                continue
            for parent in PARENTS:
                cursor.execute(f"DROP TABLE IF EXISTS {partition_name(parent, day)}")
                dropped.append(partition_name(parent, day))
    return dropped


def today_utc() -> date:
    return datetime.now(UTC).date()


def existing_partitions() -> Iterator[tuple[str, date]]:
    """Name and day of every partition there is."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT child.relname FROM pg_inherits JOIN pg_class child ON child.oid = inhrelid "
            "WHERE inhparent = ANY(%s::regclass[])",
            [list(PARENTS)],
        )
        for (name,) in cursor.fetchall():
            yield name, datetime.strptime(name.rsplit("_", 1)[1], "%Y%m%d").date()


def _has_open_deliveries(day: date) -> bool:
    lower, upper = day_bounds(day)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT 1 FROM delivery WHERE id >= %s AND id < %s AND ring_at IS NOT NULL)",
            [lower, upper],
        )
        row = cursor.fetchone()
    return bool(row and row[0])

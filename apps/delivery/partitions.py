"""Daily partitions of the delivery log: made ahead of time, dropped when they are old and settled."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import structlog
from django.db import connection

from apps.delivery.ids import day_bounds

PARENTS = ("notification", "delivery", "attempt")
DAYS_AHEAD = 14
log = structlog.get_logger("notify.delivery.partitions")


def partition_name(parent: str, day: date) -> str:
    return f"{parent}_{day:%Y%m%d}"


def ensure_partitions(*, today: date, days_ahead: int = DAYS_AHEAD) -> int:
    """Makes the partitions from yesterday (clocks differ) to ``days_ahead`` days from ``today``; returns how many
    were missing. Safe to run from several places at once."""
    made = 0
    existing = {name for name, _ in _existing_partitions()}
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
                    f"FOR VALUES FROM ('{lower}') TO ('{upper}')"
                )
                made += 1
    return made


def drop_old_partitions(*, today: date, retention_days: int) -> list[str]:
    """Drops the partitions of days older than ``retention_days``; returns their names. A day that still has an open
    delivery (a send scheduled far ahead) is kept, and said so in the log."""
    dropped: list[str] = []
    oldest = today - timedelta(days=retention_days)
    for day in sorted({day for _, day in _existing_partitions() if day < oldest}):
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


def _existing_partitions() -> Iterator[tuple[str, date]]:
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

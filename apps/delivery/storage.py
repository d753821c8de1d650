"""What the delivery log costs on disk: bytes by table and day, and for each delivery."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Final

from django.db import connection

from apps.delivery.partitions import PARENTS, existing_partitions

# What a delivery takes along: its request's key and answer, what providers said later, and a broadcast's bookkeeping.
COMPANIONS: Final = ("idempotency_key", "receipt_event", "broadcast", "broadcast_chunk")
SAMPLED_PAGES: Final = 2_000
PAGE_HEADER_BYTES: Final = 24
LINE_POINTER_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class TableSize:
    """A table, or one day of a partitioned one. ``heap`` includes its maps, ``slack`` is the part of it that holds no
    row: free space, what a fill factor keeps, dead rows. ``rows`` is counted if ``is_exact``, else the statistics'."""

    table: str
    day: date | None
    rows: int
    is_exact: bool
    heap: int
    indexes: int
    toast: int
    slack: int
    dead_rows: int

    @property
    def total(self) -> int:
        return self.heap + self.indexes + self.toast


@dataclass(frozen=True, slots=True)
class StorageReport:
    """``tables`` are those that hold anything, by table and day."""

    tables: list[TableSize]

    @property
    def deliveries(self) -> int:
        return sum(size.rows for size in self.tables if size.table == "delivery")

    @property
    def total(self) -> int:
        return sum(size.total for size in self.tables)

    @property
    def bytes_per_delivery(self) -> float | None:
        """All in; ``None`` if there is no delivery yet."""
        return self.total / self.deliveries if self.deliveries else None

    def shares(self) -> dict[str, float]:
        """Bytes a delivery by table, the delivery's own heap and indexes apart: they add up to the whole."""
        if not self.deliveries:
            return {}
        parts: dict[str, int] = {}
        for size in self.tables:
            if size.table == "delivery":
                for name in ("heap", "indexes", "toast"):
                    key = f"delivery {name}"
                    parts[key] = parts.get(key, 0) + getattr(size, name)
            else:
                parts[size.table] = parts.get(size.table, 0) + size.total
        return {name: part / self.deliveries for name, part in parts.items()}


def measure_storage(*, is_exact: bool = False, day: date | None = None) -> StorageReport:
    """The sizes of the delivery log's tables, of all days or of one. ``is_exact`` counts the rows, which reads them."""
    tables = [_measure(name, parent, of, is_exact=is_exact) for name, parent, of in _tables(day)]
    return StorageReport([size for size in tables if size.rows or size.slack])


def _tables(day: date | None) -> Iterator[tuple[str, str, date | None]]:
    partitions = sorted(existing_partitions(), key=lambda item: (PARENTS.index(_parent(item[0])), item[1]))
    yield from ((name, _parent(name), of) for name, of in partitions if day in (None, of))
    if day is None:
        yield from ((name, name, None) for name in COMPANIONS)


def _parent(partition: str) -> str:
    return partition.rsplit("_", 1)[0]


_SIZES = """
SELECT c.relpages,
       pg_table_size(c.oid) - COALESCE(pg_total_relation_size(NULLIF(c.reltoastrelid, 0)), 0),
       pg_relation_size(c.oid),
       pg_indexes_size(c.oid),
       COALESCE(pg_total_relation_size(NULLIF(c.reltoastrelid, 0)), 0),
       COALESCE(s.n_live_tup, 0), COALESCE(s.n_dead_tup, 0)
FROM pg_class c LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid
WHERE c.oid = %s::regclass
"""


def _measure(name: str, table: str, day: date | None, *, is_exact: bool) -> TableSize:
    with connection.cursor() as cursor:
        cursor.execute(_SIZES, [name])
        _, heap, main, indexes, toast, rows, dead_rows = cursor.fetchone()
        if is_exact:
            cursor.execute(f"SELECT count(*) FROM {name}")  # noqa: S608 - a name of ours
            (rows,) = cursor.fetchone()
    slack = max(0, heap - round(rows * _row_bytes(name, main)) - main // _page_bytes() * PAGE_HEADER_BYTES)
    return TableSize(table, day, rows, is_exact, heap, indexes, toast, slack, dead_rows)


def _row_bytes(name: str, main: int) -> float:
    """The average space of a live row in the heap, its header, alignment and line pointer included, from a sample."""
    pages = main // _page_bytes()
    share = 100.0 if pages <= SAMPLED_PAGES else 100.0 * SAMPLED_PAGES / pages
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT avg((pg_column_size(t.*) + 7) / 8 * 8) FROM {name} t TABLESAMPLE SYSTEM ({share})"  # noqa: S608
        )
        (average,) = cursor.fetchone()
    return 0.0 if average is None else float(average) + LINE_POINTER_BYTES


def _page_bytes() -> int:
    return 8_192


def total_by_table(sizes: Iterable[TableSize]) -> dict[str, int]:
    """Bytes by table over all days."""
    totals: dict[str, int] = {}
    for size in sizes:
        totals[size.table] = totals.get(size.table, 0) + size.total
    return totals

"""``manage.py storage_report``: what the delivery log costs on disk, by day and for each delivery."""

import json
from argparse import ArgumentParser
from dataclasses import asdict
from datetime import date
from typing import Any

from django.core.management.base import BaseCommand
from rich.console import Console
from rich.table import Table

from apps.delivery.storage import StorageReport, TableSize, measure_storage


class Command(BaseCommand):
    help = "Bytes of the delivery log by table and day, and all in for each delivery."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
        parser.add_argument("--exact", action="store_true", help="count the rows instead of trusting the statistics")
        parser.add_argument("--day", type=date.fromisoformat, help="one day's partitions only, e.g. 2026-11-22")

    def handle(self, *args: Any, **options: Any) -> None:
        report = measure_storage(is_exact=options["exact"], day=options["day"])
        if options["json"]:
            self.stdout.write(json.dumps(_describe(report)))
            return
        console = Console()
        with console.capture() as capture:
            console.print(_sizes(report), _shares(report))
        self.stdout.write(capture.get())


def _describe(report: StorageReport) -> dict[str, Any]:
    return {
        "deliveries": report.deliveries,
        "bytes": report.total,
        "bytes_per_delivery": None if report.bytes_per_delivery is None else round(report.bytes_per_delivery, 1),
        "shares": {name: round(share, 1) for name, share in report.shares().items()},
        "tables": [
            asdict(size) | {"day": size.day and size.day.isoformat(), "total": size.total} for size in report.tables
        ],
    }


def _sizes(report: StorageReport) -> Table:
    table = Table(title="Delivery log", title_justify="left")
    for heading in ("table", "day", "rows", "heap", "of it slack", "indexes", "TOAST", "total", "a row"):
        table.add_column(heading, justify="left" if heading in {"table", "day"} else "right")
    for size in report.tables:
        table.add_row(*_cells(size))
    return table


def _cells(size: TableSize) -> list[str]:
    figures = (size.heap, size.slack, size.indexes, size.toast, size.total)
    a_row = f"{size.total / size.rows:,.0f} B" if size.rows else "—"
    rows = f"{size.rows:,}" if size.is_exact else f"~{size.rows:,}"
    return [size.table, str(size.day or "all"), rows, *(_human(figure) for figure in figures), a_row]


def _human(figure: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if figure < 1024:
            return f"{figure:.0f} {unit}" if unit == "B" else f"{figure:.1f} {unit}"
        figure /= 1024
    return f"{figure:.1f} TB"


def _shares(report: StorageReport) -> Table:
    table = Table(title="Bytes for each delivery", title_justify="left")
    table.add_column("what")
    table.add_column("bytes", justify="right")
    for name, share in report.shares().items():
        table.add_row(name, f"{share:,.1f}")
    table.add_section()
    total = "—" if report.bytes_per_delivery is None else f"{report.bytes_per_delivery:,.1f}"
    table.add_row(f"all in, of {report.deliveries:,} deliveries", total)
    return table

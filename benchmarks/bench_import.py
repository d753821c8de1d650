"""``make bench-import``: how many recipients a second ``manage.py import_recipients`` loads, encryption and all.

Writes a file of synthetic recipients (1 % of the lines broken on purpose), imports it into a fresh database on a
PostgreSQL of its own, then once more as it is (nothing changes) and once with every line changed. Prints a table and
writes ``benchmarks/results/import.json``.
"""

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
from rich.console import Console
from rich.table import Table

from notify_project.local.postgres import Postgres
from notify_project.local.valkey import Purpose, Valkey

ROOT = Path(__file__).resolve().parent.parent
TARGET_ROWS_PER_S = 20_000
RESULTS = ROOT / "benchmarks" / "results" / "import.json"
ZONES = ("Europe/Berlin", "America/New_York", "Asia/Tokyo", "")


def write_file(path: Path, rows: int, *, locale: str) -> int:
    """Writes ``rows`` lines of CSV and returns how many of them are broken."""
    broken = 0
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write("user_id,email,phone,locale,time_zone,attributes,preferences.channels.sms\r\n")
        for number in range(rows):
            email, phone = f"user.{number}@example.com", f"+1500555{number % 10_000:04}"
            if number % 100 == 50:
                broken += 1
                email = "not an address"
            attributes = '"{""plan"": ""gold""}"' if number % 4 == 0 else ""
            sms = "false" if number % 10 == 0 else ""
            zone = ZONES[number % len(ZONES)]
            file.write(f"bench-{number},{email},{phone},{locale},{zone},{attributes},{sms}\r\n")
    return broken


@contextmanager
def start_stores(home: Path) -> Iterator[dict[str, str]]:
    """The environment of a PostgreSQL and a Valkey of our own."""
    stores = {
        "DATABASE_URL": Postgres(home / "postgres"),
        "CACHE_URL": Valkey(home / "cache", purpose=Purpose.THROW_AWAY),
    }
    try:
        for store in stores.values():
            store.launch()
        for store in stores.values():
            store.wait_ready()
        settings = {"DJANGO_SETTINGS_MODULE": "notify_project.settings.test"}
        yield {**os.environ, **settings, **{name: store.url for name, store in stores.items()}}
    finally:
        for store in stores.values():
            store.stop()


def manage(environment: dict[str, str], *arguments: str) -> str:
    """Standard output of ``manage.py`` with ``arguments``."""
    command = [sys.executable, "-W", "ignore", str(ROOT / "manage.py"), *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def find_server(environment: dict[str, str]) -> psutil.Process:
    """PostgreSQL's parent process."""
    with psycopg.connect(environment["DATABASE_URL"]) as connection:
        row = connection.execute("SELECT pg_backend_pid()").fetchone()
        if row is None or (parent := psutil.Process(row[0]).parent()) is None:
            raise SystemExit("PostgreSQL does not run on this machine")
        return parent


def server_cpu_s(server: psutil.Process) -> float:
    """What PostgreSQL has used so far: its living processes, and those that have ended."""
    used = server.cpu_times()
    total = used.user + used.system + used.children_user + used.children_system
    return total + sum(sum(child.cpu_times()[:2]) for child in server.children())


def measure(environment: dict[str, str], file: Path, rows: int, processes: int) -> dict[str, Any]:
    """One import: what it says of itself, rows a second, and CPU of the command and its processes."""
    server = find_server(environment)
    server_before = server_cpu_s(server)
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    account = json.loads(manage(environment, "import_recipients", str(file), f"--processes={processes}"))
    wall_s = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        **account,
        "rows": rows,
        "rows_per_s": round(rows / account["seconds"]),
        "rows_per_s_with_start": round(rows / wall_s),
        "client_cpu_us_per_row": round(cpu_s / rows * 1e6, 1),
        "server_cpu_us_per_row": round((server_cpu_s(server) - server_before) / rows * 1e6, 1),
    }


def show(runs: dict[str, dict[str, Any]]) -> None:
    """The table."""
    table = Table(title=f"import_recipients, target {TARGET_ROWS_PER_S:,} rows/s on two cores")
    for column in (
        "run",
        "rows",
        "rows/s",
        "with start-up",
        "CPU µs/row",
        "server's",
        "created",
        "updated",
        "unchanged",
        "rejected",
    ):
        table.add_column(column, justify="left" if column == "run" else "right")
    for name, run in runs.items():
        figures = (
            run["rows"], run["rows_per_s"], run["rows_per_s_with_start"],
            run["client_cpu_us_per_row"], run["server_cpu_us_per_row"],
            run["created"], run["updated"], run["unchanged"], run["rejected"],
        )  # fmt: skip
        table.add_row(name, *(f"{figure:,}" for figure in figures))
    Console(width=120).print(table)


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        home.chmod(0o755)
        file, changed = home / "recipients.csv", home / "changed.csv"
        broken = write_file(file, options.rows, locale="en-US")
        write_file(changed, options.rows, locale="de")
        with start_stores(home) as environment:
            manage(environment, "migrate", "-v0")
            runs = {
                "new": measure(environment, file, options.rows, options.processes),
                "the same again": measure(environment, file, options.rows, options.processes),
                "all changed": measure(environment, changed, options.rows, options.processes),
            }
        if runs["new"]["rejected"] != broken or runs["new"]["created"] != options.rows - broken:
            raise SystemExit(f"{broken} lines are broken, but the account says {runs['new']}")
    show(runs)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "machine": platform.machine()}
    result = {"machine": machine, "processes": options.processes, "target_rows_per_s": TARGET_ROWS_PER_S, "runs": runs}
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()

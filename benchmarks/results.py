"""A benchmark's result: where and when it was taken, ratios with their spread, JSON, and a table for the terminal."""

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "benchmarks" / "results"
console = Console(width=140 if not sys.stdout.isatty() else None)


def describe_run(**parameters: Any) -> dict[str, Any]:
    """What every result begins with: date, commit, machine, parameters."""
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "is_clean": not _git(
            "status", "--porcelain", "--untracked-files=no", "--", ":!benchmarks/results", ":!README.md"
        ),
        "machine": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
            "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
        },
        "parameters": parameters,
    }


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):  # a checkout without its history
        return ""
    return done.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """``ours`` : ``theirs``, round by round: the median, the lowest and the highest."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "median": round(statistics.median(ratios), 3),
        "low": round(min(ratios), 3),
        "high": round(max(ratios), 3),
        "rounds": [round(one, 3) for one in ratios],
    }


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """p50, p95, p99 and max (nearest rank); empty if there are none."""
    ordered = sorted(values)
    if not ordered:
        return {}
    ranks = {f"p{share}": ordered[max(0, -(-len(ordered) * share // 100) - 1)] for share in (50, 95, 99)}
    return {name: round(value, 2) for name, value in {**ranks, "max": ordered[-1]}.items()}


def claim(
    text: str, value: float, *, at_least: float | None = None, at_most: float | None = None, is_aim: bool = False
) -> dict[str, Any]:
    """One of the figures that must hold, with its verdict; an aim need not."""
    holds = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    bound = f"≥ {at_least:g}" if at_least is not None else f"≤ {at_most:g}"
    return {"what": text, "value": round(value, 3), "bound": bound, "holds": holds, "is_aim": is_aim}


def exit_code(claims: Sequence[Mapping[str, Any]]) -> int:
    """1 if one does not hold that must."""
    return 0 if all(one["holds"] or one["is_aim"] for one in claims) else 1


def print_claims(claims: Sequence[Mapping[str, Any]]) -> None:
    table = Table(title="Must hold", title_justify="left")
    for heading in ("what", "measured", "bound", ""):
        table.add_column(heading, justify="right" if heading in {"measured", "bound"} else "left")
    for one in claims:
        missed = "[yellow]not reached[/]" if one["is_aim"] else "[red]DOES NOT HOLD[/]"
        verdict = "[green]holds[/]" if one["holds"] else missed
        table.add_row(one["what"], f"{one['value']:g}", one["bound"], verdict)
    console.print(table)


def print_rows(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of the same keys as a table: the keys are its head."""
    if not rows:
        return
    table = Table(title=title, title_justify="left")
    headings = list(dict.fromkeys(name for row in rows for name in row))
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        table.add_row(*(_text(row.get(heading)) for heading in headings))
    console.print(table)


def _text(value: Any) -> str:
    if value is None:
        return "—"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def write(name: str, result: Mapping[str, Any], *, folder: Path = FOLDER) -> Path:
    """``<folder>/<name>.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    console.print(f"written to {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")
    return path


def read(name: str, *, folder: Path = FOLDER) -> dict[str, Any]:
    """What ``write`` wrote; empty if it never did."""
    path = folder / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found

"""The table and the file of a run, and the table in ``docs/reliability.md`` made from that file.

``python -m tests.chaos.report --write-docs`` copies the figures of ``results/chaos.json`` into the page.
"""

import argparse
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Protocol, Self

import msgspec
from rich.console import Console
from rich.table import Table

from tests.chaos.checker import Latency
from tests.chaos.run import Verdict

RESULTS = Path(__file__).parent / "results" / "chaos.json"
DOCS = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


class Omission(msgspec.Struct, frozen=True):
    """A scenario that has no verdict, and why."""

    name: str
    broker: str
    why: str


class Findings(Protocol):
    """What a session has to tell."""

    seed: str
    verdicts: list[Verdict]
    omissions: list[Omission]
    failures: list[Omission]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All of a run. ``omissions`` could not be run on this machine, ``failures`` could not be brought to their end."""

    made_at: str
    machine: str
    command: str
    seed: str
    took_s: float
    accepted: int
    verdicts: tuple[Verdict, ...]
    omissions: tuple[Omission, ...] = ()
    failures: tuple[Omission, ...] = ()

    @classmethod
    def of(cls, findings: Findings, *, command: str, took_s: float) -> Self:
        return cls(
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=describe_machine(),
            command=command,
            seed=findings.seed,
            took_s=round(took_s, 1),
            accepted=sum(verdict.tally.accepted for verdict in findings.verdicts),
            verdicts=tuple(findings.verdicts),
            omissions=tuple(findings.omissions),
            failures=tuple(findings.failures),
        )


def merge(earlier: Report, later: Report) -> Report:
    """``earlier`` with what ``later`` ran again in place of what it said of the same scenario and broker."""
    again = {(one.number, one.broker) for one in later.verdicts}
    verdicts = [one for one in earlier.verdicts if (one.number, one.broker) not in again] + list(later.verdicts)
    verdicts.sort(key=lambda one: (one.number, one.broker != "valkey"))
    return msgspec.structs.replace(
        later,
        command=f"{earlier.command}`, then `{later.command}",
        seed=f"{earlier.seed}`, `{later.seed}",
        took_s=earlier.took_s + later.took_s,
        accepted=sum(one.tally.accepted for one in verdicts),
        verdicts=tuple(verdicts),
        omissions=(*earlier.omissions, *later.omissions),
        failures=(*earlier.failures, *later.failures),
    )


def describe_machine() -> str:
    """Cores, memory, system."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores ({platform.machine()}), {memory_gib:.0f} GiB, {platform.system()}"


HEADINGS = (
    "scenario", "broker", "accepted", "lost", "stuck", "duplicates (allowed)", "per 10,000", "per kill", "dead",
    "accept errors", "202 p50 / p99 / max ms", "while broken", "new after s p50 / max", "backlog s p50 / max",
    "in flight s max",
)  # fmt: skip


def row_of(verdict: Verdict) -> tuple[str, ...]:
    """A line of the table, under ``HEADINGS``."""
    tally = verdict.tally
    news = [one.first_new_s for one in tally.recoveries if one.first_new_s is not None]
    backlogs = [one.backlog_s or 0.0 for one in tally.recoveries]
    in_flights = [one.in_flight_s for one in tally.recoveries if one.in_flight_s is not None]
    return (
        f"{verdict.number} {verdict.title}",
        verdict.broker,
        f"{tally.accepted:,}",
        str(tally.lost),
        str(tally.stuck),
        f"{tally.duplicates} ({verdict.duplicates_allowed:,})",
        f"{10_000 * tally.duplicates / max(1, tally.deliveries):.2f}",
        f"{tally.duplicates / len(verdict.kills):.2f}" if verdict.kills else "–",
        str(tally.dead),
        str(tally.accept_errors),
        _latency(tally.overall),
        _latency(tally.during_fault),
        f"{median(news):.1f} / {max(news):.1f}" if news else "–",
        f"{median(backlogs):.1f} / {max(backlogs):.1f}" if backlogs else "–",
        f"{max(in_flights):.1f}" if in_flights else "–",
    )


def _latency(latency: Latency | None) -> str:
    return "–" if latency is None else f"{latency.p50:.0f} / {latency.p99:.0f} / {latency.max:.0f}"


def show(report: Report, console: Console) -> None:
    """Prints the table, and below it every limit that was broken."""
    table = Table(title=f"{report.accepted:,} accepted in {report.took_s / 60:.0f} min, seed {report.seed}")
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold")
    for verdict in report.verdicts:
        table.add_row(*row_of(verdict), style="red" if verdict.breaches else "")
    console.print(table)
    for omission in report.omissions:
        console.print(f"left out: {omission.name} on {omission.broker}: {omission.why}")
    for failure in report.failures:
        console.print(f"[red]failed: {failure.name} on {failure.broker}: {failure.why}[/red]")
    for verdict in report.verdicts:
        for breach in verdict.breaches:
            console.print(f"[red]{verdict.name} on {verdict.broker}: {breach}[/red]")


def write(report: Report, path: Path = RESULTS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def read(path: Path = RESULTS) -> Report:
    return msgspec.json.decode(path.read_bytes(), type=Report)


def as_markdown(report: Report) -> str:
    """The figures as they stand in the documentation."""
    lines = [
        f"`{report.command}` on {report.made_at[:10]}, {report.machine}: {report.accepted:,} notifications accepted in "
        f"{report.took_s / 60:.0f} minutes, seed `{report.seed}`.",
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|" + "---|" * len(HEADINGS),
        *("| " + " | ".join(row_of(verdict)) + " |" for verdict in report.verdicts),
    ]
    lines += [f"\nNot run: {one.name} on {one.broker} ({one.why})." for one in (*report.omissions, *report.failures)]
    return "\n".join(lines)


def write_docs(report: Report, docs: Path = DOCS) -> None:
    """Replaces what stands between the markers of the page."""
    before, _, rest = docs.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    docs.write_text(f"{before}{BEGIN}\n{as_markdown(report)}\n{END}{after}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write-docs", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    report = read(options.results)
    show(report, Console(width=240))
    if options.write_docs:
        write_docs(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""From the measured costs to a fleet: ``python -m benchmarks.capacity`` writes the tables of ``docs/capacity.md``."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import results
from benchmarks.readme import replace_between

PAGE = results.ROOT / "docs" / "capacity.md"
BEGIN, END = "<!-- capacity: python -m benchmarks.capacity -->\n", "<!-- end of capacity -->"
PER_DAY = 1_000_000_000
AVERAGE_PER_S = PER_DAY / 86_400
PEAK_TIMES = 10
SINGLE_SHARE = 0.1  # of all notifications: what is sent one by one, the others are broadcasts'
LOAD = 0.6
RETENTION_DAYS = 30
WORKER_THREADS, WEB_THREADS = 8, 16
CHUNK = 500
GROUPS = ("web", "worker", "database", "broker", "cache")


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU µs of a notification by group, and what the stores do for it (``Stage.counters``)."""

    cpu_us: Mapping[str, float]
    per_item: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Measured:
    """What the fleet is computed from. ``bytes_per_delivery`` is of broadcasts."""

    broadcast: Costs
    single: Costs
    bytes_per_delivery: float

    def mean(self, pick: Callable[[Costs], float]) -> float:
        """Over the mix."""
        return SINGLE_SHARE * pick(self.single) + (1 - SINGLE_SHARE) * pick(self.broadcast)


def read_measured(read: Callable[[str], Mapping[str, Any]] = results.read) -> Measured | None:
    """``None`` as long as ``make bench`` has not run."""
    broadcast, intake = read("broadcast"), read("intake")
    if not broadcast or not intake:
        return None
    product, end_to_end = broadcast["contestants"]["product"], intake["end_to_end"]
    return Measured(
        broadcast=Costs(product["cpu_us"], product["per_item"]),
        single=Costs(end_to_end["cpu_us"], end_to_end["per_item"]),
        bytes_per_delivery=broadcast["storage"]["bytes_per_delivery"],
    )


def cores(cpu_us: float, per_s: float) -> float:
    """Cores that are busy to ``LOAD`` with so many a second at ``cpu_us`` each."""
    return cpu_us * per_s / 1e6 / LOAD


def render(measured: Measured | None) -> str:
    if measured is None:
        return "Not measured yet: run `make bench`.\n"
    peak = AVERAGE_PER_S * PEAK_TIMES
    parts = [
        f"Of all notifications {SINGLE_SHARE:.0%} are sent one by one and {1 - SINGLE_SHARE:.0%} by broadcasts.",
        _costs(measured),
        f"Cores = µs × notifications a second ÷ 1,000,000 ÷ {LOAD}. At {AVERAGE_PER_S:,.0f}/s, for example, the "
        f"workers' {_mean_cpu(measured, 'worker'):.0f} µs × {AVERAGE_PER_S:,.0f} ÷ 1,000,000 ÷ {LOAD} = "
        f"{cores(_mean_cpu(measured, 'worker'), AVERAGE_PER_S):.1f} cores.",
        _fleet(measured, (AVERAGE_PER_S, peak)),
    ]
    return "\n\n".join(parts) + "\n"


def _mean_cpu(measured: Measured, group: str) -> float:
    return measured.mean(lambda costs: costs.cpu_us.get(group, 0.0))


def _mean_item(measured: Measured, name: str) -> float:
    return measured.mean(lambda costs: costs.per_item.get(name, 0.0))


def _costs(measured: Measured) -> str:
    rows = [
        (f"CPU of {group}, µs", measured.broadcast.cpu_us.get(group, 0.0), measured.single.cpu_us.get(group, 0.0))
        for group in GROUPS
    ]
    names = {
        "wal_bytes": "write-ahead log, bytes",
        "transactions": "transactions",
        "cache_commands": "commands of the cache",
    }
    rows += [
        (text, measured.broadcast.per_item.get(name, 0.0), measured.single.per_item.get(name, 0.0))
        for name, text in names.items()
    ]
    lines = [(name, _figure(a), _figure(b), _figure(SINGLE_SHARE * b + (1 - SINGLE_SHARE) * a)) for name, a, b in rows]
    return _table(("for each notification", "of a broadcast", "sent one by one", "in this mix"), lines)


def _fleet(measured: Measured, rates: Sequence[float]) -> str:
    lines: list[tuple[str, ...]] = []
    for group in GROUPS:
        cost = _mean_cpu(measured, group)
        lines.append((f"cores: {group}", f"{cost:.1f} µs", *(f"{cores(cost, rate):,.1f}" for rate in rates)))
    wal = _mean_item(measured, "wal_bytes")
    lines += [
        ("write-ahead log", f"{wal:,.0f} bytes", *(f"{wal * rate / 2**20:,.0f} MiB/s" for rate in rates)),
        (
            "rows written",
            f"{1 + SINGLE_SHARE * 2:.1f}: a delivery; one by one also a notification and a key",
            *(f"{(1 + SINGLE_SHARE * 2) * rate:,.0f}/s" for rate in rates),
        ),
        (
            "transactions",
            f"{_mean_item(measured, 'transactions'):.3f}",
            *(f"{_mean_item(measured, 'transactions') * rate:,.0f}/s" for rate in rates),
        ),
        (
            "broker messages",
            f"{_messages():.3f}: one by one 1, of a broadcast 1 ÷ {CHUNK}",
            *(f"{_messages() * rate:,.0f}/s" for rate in rates),
        ),
        (
            "cache commands",
            f"{_mean_item(measured, 'cache_commands'):.2f}",
            *(f"{_mean_item(measured, 'cache_commands') * rate:,.0f}/s" for rate in rates),
        ),
        (
            "database connections",
            f"at most {WORKER_THREADS} a worker's core, {WEB_THREADS} a web core",
            *(f"{_connections(measured, rate):,}" for rate in rates),
        ),
        (
            f"disk for {RETENTION_DAYS} days of log",
            f"{measured.bytes_per_delivery:.0f} bytes",
            *[f"{measured.bytes_per_delivery * PER_DAY * RETENTION_DAYS / 2**40:,.1f} TiB"] * len(rates),
        ),
    ]
    heads = tuple(f"at {rate:,.0f}/s" for rate in rates)
    return _table(("what", "each notification", *heads), lines)


def _messages() -> float:
    return SINGLE_SHARE + (1 - SINGLE_SHARE) / CHUNK


def _connections(measured: Measured, rate: float) -> int:
    workers, webs = (math.ceil(cores(_mean_cpu(measured, group), rate)) for group in ("worker", "web"))
    return workers * WORKER_THREADS + webs * WEB_THREADS


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    ruler = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, ruler, *rows))


def main() -> int:
    replace_between(PAGE, BEGIN, END, render(read_measured()))
    print(f"written into {PAGE.relative_to(results.ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

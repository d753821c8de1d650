"""Writes README's figures from the JSON files that the benchmarks wrote: ``python -m benchmarks.readme``. Nothing
stands there that a command did not print; a test holds README to the files."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import results

README = results.ROOT / "README.md"
BEGIN, END = "<!-- figures: python -m benchmarks.readme -->\n", "<!-- end of figures -->"
Row = tuple[str, str, str]


def render(read: Callable[[str], Mapping[str, Any]] = results.read) -> str:
    """The tables, of those results that there are."""
    found = [(name, read(name), rows) for name, rows in SECTIONS.items()]
    rows = [row for _, result, make in found if result for row in make(result)]
    lines = ["| command | what | figure |", "|---|---|---|", *(f"| {a} | {b} | {c} |" for a, b, c in rows)]
    plots = [f"![{name}](benchmarks/results/{name}.svg)" for name in PLOTS if read(name)]
    places = _describe_places([result for name, result, _ in found if result and name in PLOTS])
    return "\n".join([*places, *lines, *(["", *plots] if plots else [])]) + "\n"


def _describe_places(found: list[Mapping[str, Any]]) -> list[str]:
    """When and where the four parts of ``make bench`` were taken."""
    places = sorted(
        {
            f"{one['at'][:10]}, {one['machine']['cores']} cores ({one['machine']['cpu']}), commit {one['commit']}"
            for one in found
        }
    )
    return [f"`make bench`: {'; '.join(places)}.", ""] if places else []


def _broadcast(one: Mapping[str, Any]) -> list[Row]:
    ratios, sides = one["ratios"], one["contestants"]
    people = f"{one['parameters']['people']:,}"
    return [
        (
            "`make bench-broadcast`",
            f"{people} pushes, from `POST /v1/broadcasts` to all recorded : a bare program without Celery",
            f"{_ratio(ratios['product_to_limit'])} ({sides['product']['rate_per_s']:,.0f} : "
            f"{sides['limit']['rate_per_s']:,.0f} a second)",
        ),
        (
            "",
            "the same : a plain Celery application, a task for each",
            f"{_ratio(ratios['product_to_plain'])} ({sides['plain']['rate_per_s']:,.0f} a second)",
        ),
        (
            "",
            "the same : `send_each` of firebase-admin",
            f"{_ratio(ratios['product_to_firebase'])} ({sides['firebase']['rate_per_s']:,.0f} a second)",
        ),
        (
            "",
            "e-mail through SendGrid : push",
            f"{_ratio(ratios['email_to_push'])} ({sides['email']['rate_per_s']:,.0f} a second)",
        ),
        (
            "",
            "CPU of a push, everything on the box: worker + database + the rest",
            f"{_cpu(sides['product']['cpu_us'])}; a bare program {_cpu(sides['limit']['cpu_us'])}",
        ),
        ("", "peak memory of a worker process", f"{sides['product']['peak_worker_mib']:.0f} MiB"),
        ("", "disk for a broadcast's delivery, all in", f"{one['storage']['bytes_per_delivery']:.0f} bytes"),
    ]


def _isolation(one: Mapping[str, Any]) -> list[Row]:
    idle, during = (one["accept_to_provider_ms"][name] for name in ("idle", "during"))
    rate = f"{one['parameters']['rate']:g}/s"
    return [
        (
            "`make bench-isolation`",
            f"high-lane push at {rate}, accept → provider, beside a broadcast of {one['broadcast_rate_per_s']:,.0f}/s",
            f"p50 {during['p50']:.0f}, p95 {during['p95']:.0f}, p99 {during['p99']:.0f} ms; idle machine p50 "
            f"{idle['p50']:.0f}, p95 {idle['p95']:.0f}, p99 {idle['p99']:.0f} ms",
        ),
        (
            "",
            "another client's 1,000 bulk pushes, time until the last left: beside a broadcast : alone",
            _ratio(one["ratios"]["others_beside_to_alone"]),
        ),
    ]


def _scaling(one: Mapping[str, Any]) -> list[Row]:
    sizes = one["sizes"]
    return [
        (
            "`make bench-scaling`",
            f"CPU of a recipient: a broadcast to {sizes[-1]['recipients']:,} : one to {sizes[0]['recipients']:,}",
            _ratio(one["ratios"]["cost_largest_to_smallest"])
            + " ("
            + " : ".join(f"{size['cpu_us']['all']:.0f}" for size in reversed(sizes))
            + " µs)",
        )
    ]


def _intake(one: Mapping[str, Any]) -> list[Row]:
    ours, plain = one["single"]["product"], one["single"]["plain"]
    return [
        (
            "`make bench-intake`",
            "POSTs a second : a plain DRF view with `delay()`",
            f"{_ratio(one['ratios']['throughput_product_to_plain'])} ({ours['rate_per_s']:,.0f} : "
            f"{plain['rate_per_s']:,.0f} a second)",
        ),
        (
            "",
            "CPU of the web process for a POST, all in",
            f"{ours['cpu_us']['web'] / 1000:.2f} ms{_few(one)}; the plain view {plain['cpu_us']['web'] / 1000:.2f} ms",
        ),
        ("", "the same for an item of a batch of 1,000", f"{one['batch']['cpu_us']['web']:.0f} µs"),
    ]


def _few(one: Mapping[str, Any]) -> str:
    few = one["single"].get("product_few")
    return f" ({few['cpu_us']['web'] / 1000:.2f} ms with a quarter of the callers)" if few else ""


def _plans(one: Mapping[str, Any]) -> list[Row]:
    slowest = max(one["queries"], key=lambda query: query["ms"])
    return [
        (
            "`make bench-plans`",
            f"{len(one['queries'])} hot queries on {one['rows']:,} deliveries",
            f"none reads a growing table from end to end; the slowest ({slowest['query']}) {slowest['ms']:.1f} ms",
        )
    ]


def _transport(one: Mapping[str, Any]) -> list[Row]:
    ours, bare = one["transport"]["cpu_us_per_push"], one["bare"]["cpu_us_per_push"]
    figure = f"{one['ratio']:.2f} : 1 ({ours:.0f} : {bare:.0f} µs)"
    return [("`make bench-transport`", "CPU of a push: our transport : a bare libcurl loop, same run", figure)]


def _preferences(one: Mapping[str, Any]) -> list[Row]:
    found = one["results"]
    figure = f"{found['warm']['total']:.1f} µs with a warm cache, {found['cold']['total']:.1f} µs from PostgreSQL"
    return [("`make bench-preferences`", f"deciding for one recipient of a batch of {one['batch']}, CPU", figure)]


def _import(one: Mapping[str, Any]) -> list[Row]:
    new, changed = one["runs"]["new"]["rows_per_s"], one["runs"]["all changed"]["rows_per_s"]
    return [
        ("`make bench-import`", "`import_recipients`, encryption on", f"{new:,} new rows/s, {changed:,} changed rows/s")
    ]


def _faults(one: Mapping[str, Any]) -> list[Row]:
    moves = [100 * (row["during"]["p95_ms"][of] / _healthy(row, of) - 1) for row in one["rounds"] for of in _OTHERS]
    lost = sum(row["during"]["lost"] for row in one["rounds"])
    attempts = max(row["during"]["sms_attempts_max"] for row in one["rounds"])
    opened = max(row["during"]["breaker_opened_after_s"] or 0.0 for row in one["rounds"])
    low, high = (f"{move:+.0f}".replace("-", "−") for move in (min(moves), max(moves)))
    return [
        (
            "`make bench-faults`",
            "p95 accept → provider of push and e-mail while the SMS provider is ill (half 503, 10 s latency, 429), "
            "against healthy phases around it",
            f"moved by {low} to {high} %; breaker open within {opened:.0f} s; {lost or 'nothing'} lost, at most "
            f"{attempts} attempt{'s' if attempts != 1 else ''} of a delivery",
        )
    ]


_OTHERS = ("push", "email")


def _healthy(row: Mapping[str, Any], channel: str) -> float:
    return float(row["before"]["p95_ms"][channel] + row["after"]["p95_ms"][channel]) / 2


def _ratio(found: Mapping[str, Any]) -> str:
    return f"{found['median']:.2f} : 1 ({found['low']:.2f} to {found['high']:.2f})"


def _cpu(groups: Mapping[str, float]) -> str:
    rest = groups["all"] - groups["worker"] - groups["database"]
    return f"{groups['worker']:.0f} + {groups['database']:.0f} + {rest:.0f} µs"


SECTIONS: dict[str, Callable[[Mapping[str, Any]], list[Row]]] = {
    "broadcast": _broadcast,
    "isolation": _isolation,
    "scaling": _scaling,
    "intake": _intake,
    "plans": _plans,
    "transport": _transport,
    "preferences": _preferences,
    "import": _import,
    "faults": _faults,
}
PLOTS = ("broadcast", "isolation", "scaling", "intake")


def replace_between(path: Path, begin: str, end: str, content: str) -> None:
    head, rest = path.read_text().split(begin, 1)
    path.write_text(head + begin + content + end + rest.split(end, 1)[1])


def main() -> int:
    replace_between(README, BEGIN, END, render())
    print(f"written into {README.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""``make bench-scaling``: does a recipient cost the same, whether the broadcast goes to 10,000 or to 1,000,000?

The same stack, the sizes turn by turn and in alternating order; small ones are sent several times in a turn, so that
each turn measures enough. All people are in the tables all the time; an audience is those who have an attribute, which
is looked up in its index. The cost of a recipient is the CPU of all processes together, from the POST until everything
is recorded.
"""

import argparse
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks import results
from benchmarks.contestants import Run
from benchmarks.people import make_people
from benchmarks.plotting import plot
from benchmarks.product import run_product
from benchmarks.stage import Stage, measure_storage
from notify_project.local.roles import Counts

NAME = "scaling"
WITHIN = 0.15
ENOUGH = 100_000  # recipients a turn, where it is a matter of repeating
MOST_REPEATS = 10
MOST_MEMORY_MIB = 200.0


def main() -> int:
    options = _parse()
    with Stage(counts=Counts(bulk=options.workers, bulk_threads=options.threads), broker=options.broker) as stage:
        make_people(1, max(options.sizes), cohorts=options.sizes)
        _run(stage, min(options.sizes))  # warm-up
        runs: dict[int, list[Run]] = {size: [] for size in options.sizes}
        for number in range(options.rounds):
            for size in sorted(options.sizes, reverse=bool(number % 2)):
                run = _join([_run(stage, size) for _ in range(_repeats(size, max(options.sizes)))])
                runs[size].append(run)
                results.console.print(
                    f"round {number + 1}/{options.rounds} {size:>9,} {run.rate:>9,.0f}/s {run.cpu_us['all']:>7,.1f} µs"
                )
        storage = measure_storage(stage)
    sizes = [_describe(size, of) for size, of in sorted(runs.items())]
    costs = [[run.cpu_us["all"] for run in runs[size]] for size in sorted(runs)]
    result = results.describe_run(**vars(options)) | {
        "ratios": {"cost_largest_to_smallest": results.ratio(costs[-1], costs[0])},
        "sizes": sizes,
        "storage": storage,
    }
    result["claims"] = judge(result)
    show(result)
    results.write(options.name, result)
    plot(options.name)
    return results.exit_code(result["claims"])


def _run(stage: Stage, size: int) -> Run:
    return run_product(stage, size, audience={"filter": {"attribute": f"first_{size}", "is": True}})


def _repeats(size: int, largest: int) -> int:
    return max(1, min(MOST_REPEATS, ENOUGH // size, largest // size))


def _join(runs: Sequence[Run]) -> Run:
    return Run(
        pushes=sum(run.pushes for run in runs),
        seconds=sum(run.seconds for run in runs),
        cpu_us={name: statistics.fmean(run.cpu_us[name] for run in runs) for name in runs[0].cpu_us},
        per_item={key: statistics.fmean(run.per_item[key] for run in runs) for key in runs[0].per_item},
        peaks_mib=[max(run.peaks_mib) for run in runs],
    )


def _describe(size: int, runs: Sequence[Run]) -> dict[str, Any]:
    return {
        "recipients": size,
        "rate_per_s": round(statistics.median(run.rate for run in runs), 1),
        "cpu_us": {name: round(statistics.median(run.cpu_us[name] for run in runs), 1) for name in runs[0].cpu_us},
        "per_item": {key: round(statistics.median(run.per_item[key] for run in runs), 3) for key in runs[0].per_item},
        "peak_worker_mib": max(peak for run in runs for peak in run.peaks_mib),
    }


def judge(result: dict[str, Any]) -> list[dict[str, Any]]:
    ratio = result["ratios"]["cost_largest_to_smallest"]["median"]
    peak = max(one["peak_worker_mib"] for one in result["sizes"])
    return [
        results.claim("cost of a recipient, largest : smallest broadcast, off 1 by", abs(ratio - 1), at_most=WITHIN),
        results.claim("peak memory of a worker, MiB", peak, at_most=MOST_MEMORY_MIB),
    ]


def show(result: dict[str, Any]) -> None:
    results.print_claims(result["claims"])
    ratio = result["ratios"]["cost_largest_to_smallest"]
    results.console.print(f"cost, largest : smallest = {ratio['median']} ({ratio['low']} to {ratio['high']})")
    rows = [
        {
            "recipients": one["recipients"],
            "a second": one["rate_per_s"],
            "WAL bytes": one["per_item"]["wal_bytes"],
            "peak MiB": one["peak_worker_mib"],
        }
        for one in result["sizes"]
    ]
    results.print_rows("By size (medians)", rows)
    rows = [{"recipients": one["recipients"], **one["cpu_us"]} for one in result["sizes"]]
    results.print_rows("CPU µs a recipient, by group of processes", rows)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2, help="bulk worker processes")
    parser.add_argument("--threads", type=int, default=4, help="of each bulk worker")
    parser.add_argument("--broker", choices=["valkey", "rabbitmq"], default="valkey")
    parser.add_argument("--name", default=NAME, help="of the files in benchmarks/results")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())

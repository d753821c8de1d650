"""``make bench-broadcast``: how fast one news item reaches many, against three yardsticks on the same box.

Turn by turn, all against the same sandbox: the platform (``POST /v1/broadcasts`` until every delivery is recorded), a
bare program of the same work without Celery (``limit_probe``), a plain Celery application (``plain_celery``), and
Google's own SDK (``firebase_send_each``). The slow two get fewer pushes, which only helps them. While one has its turn
the others' processes are stopped; the sandbox's own work counts for all of them alike.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks import contestants, results
from benchmarks.contestants import Run
from benchmarks.people import make_people
from benchmarks.plotting import plot
from benchmarks.product import run_product
from benchmarks.stage import Stage, measure_storage
from notify_project.local.roles import Counts

NAME = "broadcast"
AT_LEAST_OF_LIMIT = 0.8
AT_LEAST_OF_PLAIN = 40.0
AT_LEAST_EMAIL = 1.5
MOST_MEMORY_MIB = 200.0
MOST_BYTES = 250.0


def main() -> int:
    options = _parse()
    counts = Counts(bulk=options.workers, bulk_threads=options.threads)
    with Stage(counts=counts, broker=options.broker) as stage:
        make_people(1, options.people)
        turns: dict[str, Callable[[], Run]] = {
            "product": lambda: run_product(stage, options.people),
            "limit": lambda: contestants.run_limit_probe(stage, options.people, options.workers),
            "plain": lambda: contestants.run_plain_celery(stage, options.plain, options.plain_pool, options.workers),
            "firebase": lambda: contestants.run_firebase(stage, options.firebase, options.workers),
            "email": lambda: run_product(stage, options.people, "email"),
        }
        run_product(stage, min(options.people, 2_000))  # warm-up: grants, connections, plans
        runs = _take_turns(turns, options.rounds)
        storage = measure_storage(stage)
    result = results.describe_run(**vars(options)) | summarise(runs) | {"storage": storage}
    result["claims"] = judge(result)
    show(result)
    results.write(options.name, result)
    plot(options.name)
    return results.exit_code(result["claims"])


def _take_turns(turns: dict[str, Callable[[], Run]], rounds: int) -> dict[str, list[Run]]:
    """Each round in another order, so that nobody is always first."""
    runs: dict[str, list[Run]] = {name: [] for name in turns}
    names = list(turns)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            run = turns[name]()
            runs[name].append(run)
            results.console.print(
                f"round {number + 1}/{rounds} {name:<9} {run.rate:>10,.0f}/s  {run.cpu_us['all']:>8,.0f} µs"
            )
    return runs


def summarise(runs: dict[str, list[Run]]) -> dict[str, Any]:
    """Ratios per round, then each contestant's medians."""
    rates = {name: [run.rate for run in of] for name, of in runs.items()}
    costs = {name: [run.cpu_us["all"] for run in of] for name, of in runs.items()}
    return {
        "ratios": {
            "product_to_limit": results.ratio(rates["product"], rates["limit"]),
            "product_to_plain": results.ratio(rates["product"], rates["plain"]),
            "product_to_firebase": results.ratio(rates["product"], rates["firebase"]),
            "email_to_push": results.ratio(rates["email"], rates["product"]),
            "cpu_product_to_limit": results.ratio(costs["product"], costs["limit"]),
        },
        "contestants": {name: _describe(of) for name, of in runs.items()},
        "runs": {name: [asdict(run) for run in of] for name, of in runs.items()},
    }


def _describe(runs: Sequence[Run]) -> dict[str, Any]:
    return {
        "messages": runs[0].pushes,
        "rate_per_s": round(statistics.median(run.rate for run in runs), 1),
        "cpu_us": {name: round(statistics.median(run.cpu_us[name] for run in runs), 1) for name in runs[0].cpu_us},
        "per_item": {key: round(statistics.median(run.per_item[key] for run in runs), 3) for key in runs[0].per_item},
        "peak_worker_mib": max((peak for run in runs for peak in run.peaks_mib), default=None),
    }


def judge(result: dict[str, Any]) -> list[dict[str, Any]]:
    ratios, product = result["ratios"], result["contestants"]["product"]
    return [
        results.claim("push: product : limit probe", ratios["product_to_limit"]["median"], at_least=AT_LEAST_OF_LIMIT),
        results.claim("push: product : plain Celery", ratios["product_to_plain"]["median"], at_least=AT_LEAST_OF_PLAIN),
        results.claim("e-mail : push, product", ratios["email_to_push"]["median"], at_least=AT_LEAST_EMAIL),
        results.claim("peak memory of a worker, MiB", product["peak_worker_mib"], at_most=MOST_MEMORY_MIB),
        results.claim("bytes a broadcast delivery", result["storage"]["bytes_per_delivery"], at_most=MOST_BYTES),
    ]


def show(result: dict[str, Any]) -> None:
    results.print_claims(result["claims"])
    ratios = [
        {"ratio": name, **{key: str(of[key]) for key in ("median", "low", "high")}}
        for name, of in result["ratios"].items()
    ]
    results.print_rows("Ratios, round by round", ratios)
    figures = [
        {
            "": name,
            "messages": one["messages"],
            "a second": one["rate_per_s"],
            "WAL bytes": one["per_item"]["wal_bytes"],
            "peak MiB": one["peak_worker_mib"],
        }
        for name, one in result["contestants"].items()
    ]
    results.print_rows("Throughput (medians)", figures)
    results.print_rows(
        "CPU µs a message, by group of processes",
        [{"": name, **one["cpu_us"]} for name, one in result["contestants"].items()],
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=200_000, help="of each broadcast")
    parser.add_argument("--plain", type=int, default=2_000, help="pushes of the plain application")
    parser.add_argument("--firebase", type=int, default=10_000, help="pushes of Google's SDK")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2, help="worker processes of every contestant")
    parser.add_argument("--threads", type=int, default=4, help="of each of the platform's bulk workers")
    parser.add_argument("--plain-pool", choices=["prefork", "threads"], default="prefork")
    parser.add_argument("--broker", choices=["valkey", "rabbitmq"], default="valkey")
    parser.add_argument("--name", default=NAME, help="of the files in benchmarks/results")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())

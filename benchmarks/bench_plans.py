"""``make bench-plans``: the plan and the time of every hot query on a delivery log of 10,000,000 rows.

Fills a stack's database by INSERT … SELECT, runs each query as the platform runs it, and prints how PostgreSQL went
about it: which index, how many days' partitions, milliseconds with planning. Each query is taken back.
"""

import argparse
import statistics
import time
from typing import Any

from benchmarks import results
from benchmarks.stage import Stage
from notify_project.local import roles
from notify_project.local.roles import Counts

NAME = "plans"


def main() -> int:
    options = _parse()
    resting = frozenset({roles.WEB, *roles.WORKER_ROLES, roles.BEAT})
    with Stage(counts=Counts(), broker="valkey", without=resting) as stage:
        found = _run(stage, options)
    result = results.describe_run(**vars(options)) | found
    result["claims"] = [
        results.claim("hot queries that read a growing table from end to end", _count(found, "sequential"), at_most=0)
    ]
    results.print_claims(result["claims"])
    rows = [
        {
            "query": one["query"],
            "ms": one["ms"],
            "partitions": one["partitions"],
            "discarded": one["discarded"],
            "how": " ▸ ".join(one["plans"]),
        }
        for one in result["queries"]
    ]
    results.print_rows(f"Hot queries on {result['rows']:,} deliveries", rows)
    results.write(options.name, result)
    return results.exit_code(result["claims"])


def _run(stage: Stage, options: argparse.Namespace) -> dict[str, Any]:
    from apps.clients.models import Client  # noqa: PLC0415 - there are no settings before the stack is up
    from benchmarks.hot_log import TABLES, fill_log  # noqa: PLC0415
    from benchmarks.plans import HOT_QUERIES, explain  # noqa: PLC0415

    started = time.monotonic()
    log = fill_log(options.rows, Client.objects.get(name="demo").pk)
    with stage.connect() as connection:
        for table in TABLES:
            connection.execute(f"VACUUM (ANALYZE) {table}")
        row = connection.execute("SELECT count(*) FROM delivery").fetchone()
    results.console.print(f"{row[0] if row else 0:,} deliveries made in {time.monotonic() - started:.0f} s")
    queries = []
    for query in HOT_QUERIES:
        turns = [explain(query, log) for _ in range(options.turns)]
        statements = turns[-1]
        queries.append(
            {
                "query": query.name,
                "ms": round(statistics.median(sum(one.ms for one in turn) for turn in turns), 2),
                "partitions": max(
                    (len(touched) for one in statements for touched in one.partitions().values()), default=0
                ),
                "sequential": sorted({table for one in statements for table in one.sequential()}),
                "discarded": sum(one.discarded() for one in statements),
                "plans": [one.summary() for one in statements],
                "statements": [" ".join(one.sql.split()) for one in statements],
            }
        )
    return {"rows": row[0] if row else 0, "queries": queries}


def _count(found: dict[str, Any], key: str) -> int:
    return sum(bool(one[key]) for one in found["queries"])


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="notifications, each with a delivery")
    parser.add_argument("--turns", type=int, default=5, help="of each query; the median counts")
    parser.add_argument("--name", default=NAME, help="of the file in benchmarks/results")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())

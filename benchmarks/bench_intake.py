"""``make bench-intake``: what accepting a notification costs the web process.

Turn by turn, with the same load generator and connections kept alive: single POSTs to the platform (authentication,
scope, rate limit, idempotency key, preferences, decision, one statement, doorbell), the same to a plain DRF view
(token, ModelSerializer, ``delay()``) under the same server with as many threads, and batches of 1,000 to the platform.
As many callers at once as keep every thread busy, and for comparison a quarter of that.
No worker runs meanwhile, on either side: only intake is measured. At the end single POSTs with the workers at work,
until all are sent.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import requests

from benchmarks import results
from benchmarks.contestants import TEXT, other_process
from benchmarks.names import user_id_of
from benchmarks.people import make_people
from benchmarks.plotting import plot
from benchmarks.stage import Stage
from benchmarks.starting_line import ROOT, Contestant
from notify_project.local import roles
from notify_project.local.ports import free_port
from notify_project.local.roles import Counts

NAME = "intake"
WEB_THREADS = 16
MOST_SINGLE_MS = 1.2
LEAST_OF_PLAIN = 2.0
MOST_BATCH_US = 80.0
FEW_CONNECTIONS = 8  # for the same once more: fewer calls come at the same time and share a commit
BATCH_ITEMS = 1_000
PLAIN_START_S = 60.0
DRAIN_S = 600.0
Requests = list[tuple[str, dict[str, str], dict[str, Any]]]


def main() -> int:
    options = _parse()
    with Stage(counts=Counts(web_threads=WEB_THREADS), broker=options.broker) as stage:
        make_people(1, options.people)
        bench = Bench(stage, options)
        for role in (*roles.WORKER_ROLES, roles.BEAT):
            stage.stack.stop_role(role)
        found = bench.run()
    result = results.describe_run(**vars(options)) | found
    result["claims"] = judge(result)
    show(result)
    results.write(options.name, result)
    plot(options.name)
    return results.exit_code(result["claims"])


class Bench:
    """Three sides, turn by turn."""

    def __init__(self, stage: Stage, options: argparse.Namespace) -> None:
        self.stage, self.options = stage, options
        self.turns: dict[str, list[dict[str, Any]]] = {"product": [], "few": [], "plain": [], "batch": []}

    def run(self) -> dict[str, Any]:
        argv = [sys.executable, "-m", "benchmarks.load"]
        env = self.stage.stack.environment
        with other_process(self.stage, argv, env, "load") as load:
            sides: dict[str, Callable[[], dict[str, Any]]] = {
                "product": lambda: self._post_singles(load, self.options.requests),
                "few": lambda: self._post_singles(load, self.options.requests, connections=FEW_CONNECTIONS),
                "plain": lambda: self._post_plain(load, self.options.requests),
                "batch": lambda: self._post_batches(load, self.options.batches),
            }
            for side in sides.values():
                side()  # warm-up
            for number in range(self.options.rounds):
                for name in sorted(sides, reverse=bool(number % 2)):
                    turn = sides[name]()
                    self.turns[name].append(turn)
                    results.console.print(
                        f"round {number + 1}/{self.options.rounds} {name:<8} {turn['rate_per_s']:>9,.0f}/s"
                        f"  web {turn['cpu_us']['web']:>7,.0f} µs"
                    )
            end_to_end = self._post_end_to_end(load, self.options.requests)
        return summarise(self.turns) | {"end_to_end": end_to_end}

    def _post_singles(self, load: Contestant, count: int, connections: int | None = None) -> dict[str, Any]:
        head = {"Authorization": f"Api-Key {self.stage.stack.credentials['api_key']}"}
        made: Requests = [
            ("/v1/notifications", head | {"X-Idempotency-Key": uuid.uuid4().hex}, self._body(number))
            for number in range(count)
        ]
        return self._turn(load, made, self.stage.stack.ports.web, count, status=202, connections=connections)

    def _post_batches(self, load: Contestant, count: int) -> dict[str, Any]:
        head = {"Authorization": f"Api-Key {self.stage.stack.credentials['api_key']}"}
        made: Requests = [
            ("/v1/notifications/batch", head, {"items": [self._item(number) for number in range(BATCH_ITEMS)]})
            for _ in range(count)
        ]
        return self._turn(load, made, self.stage.stack.ports.web, count * BATCH_ITEMS, status=207, connections=2)

    def _post_plain(self, load: Contestant, count: int) -> dict[str, Any]:
        env = self.stage.plain_environment()
        sender = [sys.executable, "-m", "benchmarks.plain_celery.broadcast"]
        with other_process(self.stage, sender, env, "plain-sender") as plain:
            token = plain.run(step="prepare", count=self.options.people, text=TEXT)["api_token"]
        self.stage.stack.stop_role(roles.WEB)
        try:
            with plain_web(self.stage, env) as (pid, port):
                made: Requests = [
                    ("/api/notifications/", {"Authorization": f"Token {token}"}, self._plain_body(number))
                    for number in range(count)
                ]
                self._turn(load, made[: count // 10], port, count // 10, status=201, web=pid)  # warm-up: a new process
                return self._turn(load, made, port, count, status=201, web=pid)
        finally:
            self.stage.stack.start_role(roles.WEB)
            self._wait_for_web()
            self._post_singles(load, count // 10)  # warm-up: a new process

    def _post_end_to_end(self, load: Contestant, count: int) -> dict[str, Any]:
        """Single POSTs with the workers at work, until all have been sent: what a notification costs all in."""
        for role in (*roles.WORKER_ROLES, roles.BEAT):
            self.stage.stack.start_role(role)
        self.stage.stack.wait_ready()
        self._wait_until_sent()
        self._post_singles(load, count // 10)  # warm-up: new processes
        self._wait_until_sent()
        before, meter, started = self.stage.counters(), self.stage.meter({"client": [load.pid]}), time.monotonic()
        self._post_singles(load, count)
        self._wait_until_sent()
        seconds = time.monotonic() - started
        return {
            "items": count,
            "rate_per_s": round(count / seconds, 1),
            "cpu_us": meter.read().per_item_us(count),
            "per_item": self.stage.counted_since(before, count),
        }

    def _wait_until_sent(self) -> None:
        deadline = time.monotonic() + DRAIN_S
        with self.stage.connect() as connection:
            while connection.execute("SELECT EXISTS (SELECT FROM delivery WHERE ring_at IS NOT NULL)").fetchone() == (
                True,
            ):
                if time.monotonic() > deadline:
                    raise RuntimeError("what was accepted is not sent")
                time.sleep(0.1)

    def _turn(
        self,
        load: Contestant,
        made: Requests,
        port: int,
        items: int,
        *,
        status: int,
        web: int | None = None,
        connections: int | None = None,
    ) -> dict[str, Any]:
        path = self.stage.home / "requests.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in made))
        load.run(step="prepare", file=str(path), port=port, connections=connections or self.options.connections)
        self.stage.checkpoint()
        meter = self.stage.meter({"client": [load.pid]} | ({} if web is None else {"web": [web]}))
        done = load.run(step="go")
        usage = meter.read()
        if done["statuses"] != {str(status): len(made)}:
            raise RuntimeError(f"expected {len(made)} times {status}, got {done['statuses']}")
        return {
            "items": items,
            "rate_per_s": items / done["seconds"],
            "cpu_us": usage.per_item_us(items),
            "ms": done["ms"],
        }

    def _wait_for_web(self) -> None:
        deadline = time.monotonic() + PLAIN_START_S
        while True:
            try:
                self.stage.call("GET", "/v1/categories")
                return
            except (requests.ConnectionError, RuntimeError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def _body(self, number: int) -> dict[str, Any]:
        return {
            "user_id": user_id_of(number % self.options.people + 1),
            "type": "news",
            "priority": "high",
            "channels": ["push"],
            "content": TEXT,
        }

    def _item(self, number: int) -> dict[str, Any]:
        return self._body(number) | {"priority": "bulk", "idempotency_key": uuid.uuid4().hex}

    def _plain_body(self, number: int) -> dict[str, Any]:
        return {"user_id": user_id_of(number % self.options.people + 1), **TEXT}


@contextmanager
def plain_web(stage: Stage, env: dict[str, str]) -> Iterator[tuple[int, int]]:
    """The plain application under granian; PID and port."""
    port = free_port()
    command = [sys.executable, "-m", "granian", "--interface=wsgi", "--host=127.0.0.1", f"--port={port}", "--workers=1"]
    command += [
        f"--blocking-threads={WEB_THREADS}",
        "--no-ws",
        "--no-access-log",
        "benchmarks.plain_celery.wsgi:application",
    ]
    with (stage.home / "plain-web.log").open("ab") as log:
        server = subprocess.Popen(command, env=env, cwd=ROOT, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + PLAIN_START_S
        while True:
            try:
                requests.get(f"http://127.0.0.1:{port}/", timeout=2)
                break
            except requests.ConnectionError:
                if time.monotonic() > deadline or server.poll() is not None:
                    raise
                time.sleep(0.1)
        yield server.pid, port
    finally:
        server.terminate()
        server.wait(15)


def summarise(turns: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    rates = {name: [turn["rate_per_s"] for turn in of] for name, of in turns.items()}
    costs = {name: [turn["cpu_us"]["web"] for turn in of] for name, of in turns.items()}
    return {
        "ratios": {
            "throughput_product_to_plain": results.ratio(rates["product"], rates["plain"]),
            "web_cpu_plain_to_product": results.ratio(costs["plain"], costs["product"]),
        },
        "single": {
            "product": _median(turns["product"]),
            "product_few": _median(turns["few"]),
            "plain": _median(turns["plain"]),
        },
        "batch": _median(turns["batch"]),
        "turns": turns,
    }


def _median(turns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "rate_per_s": round(statistics.median(turn["rate_per_s"] for turn in turns), 1),
        **{
            part: {name: round(statistics.median(turn[part][name] for turn in turns), 2) for name in turns[0][part]}
            for part in ("cpu_us", "ms")
        },
    }


def judge(result: dict[str, Any]) -> list[dict[str, Any]]:
    web_ms = result["single"]["product"]["cpu_us"]["web"] / 1000
    few_ms = result["single"]["product_few"]["cpu_us"]["web"] / 1000
    ratio = result["ratios"]["throughput_product_to_plain"]["median"]
    return [
        results.claim("CPU of the web process for a POST, ms", web_ms, at_most=MOST_SINGLE_MS),
        results.claim(f"the same with {FEW_CONNECTIONS} callers, ms", few_ms, at_most=MOST_SINGLE_MS),
        results.claim("POSTs a second, product : plain DRF view", ratio, at_least=LEAST_OF_PLAIN),
        results.claim(
            "CPU of the web process for an item of a batch, µs", result["batch"]["cpu_us"]["web"], at_most=MOST_BATCH_US
        ),
    ]


def show(result: dict[str, Any]) -> None:
    results.print_claims(result["claims"])
    rows = [
        {"ratio": name, **{key: str(of[key]) for key in ("median", "low", "high")}}
        for name, of in result["ratios"].items()
    ]
    results.print_rows("Ratios, round by round", rows)
    sides = {
        "product": result["single"]["product"],
        f"product, {FEW_CONNECTIONS} callers": result["single"]["product_few"],
        "plain DRF": result["single"]["plain"],
        "product, batch": result["batch"],
    }
    rows = [
        {"": name, "a second": one["rate_per_s"], **{f"{key} ms": value for key, value in one["ms"].items()}}
        for name, one in sides.items()
    ]
    results.print_rows("Throughput and time of a call (medians)", rows)
    costs = {name: one["cpu_us"] for name, one in sides.items()} | {"product, sent": result["end_to_end"]["cpu_us"]}
    results.print_rows("CPU µs for each notification", [{"": name, **cost} for name, cost in costs.items()])


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=5_000, help="single POSTs a turn")
    parser.add_argument("--batches", type=int, default=20, help=f"batches of {BATCH_ITEMS} a turn")
    parser.add_argument("--connections", type=int, default=32, help="kept alive")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--broker", choices=["valkey", "rabbitmq"], default="valkey")
    parser.add_argument("--name", default=NAME, help="of the files in benchmarks/results")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())

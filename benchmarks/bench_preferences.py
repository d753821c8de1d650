"""``make bench-preferences``: what it costs a worker to decide for a batch of 500 recipients.

Measures the CPU time of this process (client side, system calls included) from the user ids to the decisions, as intake
and dispatch go: versions from PostgreSQL, snapshots from the cache (warm) or from PostgreSQL and into the cache (cold),
the categories' rules, one decision each. On a PostgreSQL and a Valkey of its own. Prints a table and writes
``benchmarks/results/preferences.json``. Ends with 1 if a target is missed.
"""

import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import django
from django.core.management import call_command
from rich.console import Console
from rich.table import Table

from notify_project.local.postgres import Postgres
from notify_project.local.valkey import Purpose, Valkey

BATCH = 500
TARGETS_US = {"warm": 25.0, "cold": 60.0}
RESULTS = Path(__file__).resolve().parent / "results" / "preferences.json"
ZONES = ["Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Sydney", "UTC", ""]
NIGHT = {"start": "22:00", "end": "07:00"}
WEEKEND = {"days": ["sat", "sun"], "start": "00:00", "end": "10:00"}


@contextmanager
def django_on_own_stores() -> Iterator[None]:
    """Django, set up and migrated, on stores that go away afterwards."""
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        home.chmod(0o755)
        stores = {
            "DATABASE_URL": Postgres(home / "postgres", is_throw_away=True),
            "CACHE_URL": Valkey(home / "cache", purpose=Purpose.THROW_AWAY),
        }
        try:
            for name, store in stores.items():
                store.launch()
                store.wait_ready()
                os.environ[name] = store.url
            os.environ |= {"DJANGO_SETTINGS_MODULE": "notify_project.settings.test", "LOG_LEVEL": "ERROR"}
            django.setup()
            call_command("migrate", verbosity=0)
            yield
        finally:
            for store in stores.values():
                store.stop()


def make_recipients(count: int) -> list[str]:
    """People as they are: two contact points and one to three devices each; half have said something about a channel
    or a category, four in ten have quiet hours."""
    from apps.preferences.bulk import upsert_recipients  # noqa: PLC0415 - Django is set up by now

    chance = random.Random(2026)
    for start in range(0, count, 500):
        results = upsert_recipients([_make_recipient(number, chance) for number in range(start, start + 500)])
        assert not any(result.faults for result in results), results
    return [f"bench-{number}" for number in range(count)]


def _make_recipient(number: int, chance: random.Random) -> dict[str, Any]:
    preferences: dict[str, Any] = {}
    if chance.random() < 0.02:
        preferences["opted_out"] = True
    if chance.random() < 0.3:
        preferences["channels"] = {chance.choice(["push", "sms", "email"]): False}
    if chance.random() < 0.3:
        preferences["categories"] = {"marketing": {"email": False, "push": True}}
    if chance.random() < 0.4:
        preferences["quiet_hours"] = [NIGHT, WEEKEND] if chance.random() < 0.3 else [NIGHT]
    return {
        "user_id": f"bench-{number}",
        "email": f"user.{number}@example.com",
        "phone": f"+1500555{number % 10_000:04}",
        "locale": "en-US",
        "time_zone": chance.choice(ZONES),
        "preferences": preferences,
        "devices": [
            {"token": f"token-{number}-{device}-" + "c3D4" * 35, "platform": "android"}
            for device in range(chance.choice([1, 1, 2, 3]))
        ],
    }


def measure(user_ids: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """CPU µs a recipient of every stage, for batches that find everything in the cache and such that find nothing."""
    from django_redis import get_redis_connection  # noqa: PLC0415

    from apps.channels import Channel  # noqa: PLC0415
    from apps.preferences import cache  # noqa: PLC0415
    from apps.preferences.categories import DEFAULT_KEY  # noqa: PLC0415
    from apps.preferences.policy import Action, decide  # noqa: PLC0415
    from apps.preferences.selectors import load_categories, load_snapshots, select_versions  # noqa: PLC0415

    redis = get_redis_connection("default")
    now = datetime(2026, 11, 22, 3, 17, tzinfo=UTC)  # night for some, day for others
    batches = [user_ids[start : start + BATCH] for start in range(0, len(user_ids), BATCH)]

    def run(batch: list[str], clock: "Stages") -> None:
        versions = {user_id: version for user_id, (_, version) in select_versions(batch).items()}
        clock.lap("versions")
        snapshots = load_snapshots(versions)
        clock.lap("snapshots")
        categories = load_categories(("marketing",))
        rules = categories.get("marketing", categories[DEFAULT_KEY])
        decisions = [decide(snapshots[user_id], Channel.PUSH, rules, now) for user_id in batch]
        clock.lap("decisions")
        assert len({decision.action for decision in decisions}) == len(Action)

    results = {}
    for name in TARGETS_US:
        laps = []
        for number in range(rounds + 3):
            batch = batches[number % len(batches)]
            if name == "cold":
                redis.flushdb()
            elif number < len(batches):
                load_snapshots({user_id: version for user_id, (_, version) in select_versions(batch).items()})
            cache.availability.reset()
            clock = Stages(time.process_time)
            run(batch, clock)
            if number >= 3:  # the first ones warm up connections and caches of Python's
                laps.append(clock.laps)
        results[name] = summarise(laps)
    return results


class Stages:
    """Laps of a clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.laps: dict[str, float] = {}
        self._clock, self._last = clock, clock()

    def lap(self, name: str) -> None:
        now = self._clock()
        self.laps[name], self._last = now - self._last, now


def summarise(laps: list[dict[str, float]]) -> dict[str, float]:
    """Median µs a recipient of every stage and of the whole; p90 and mean of the whole."""
    totals = [sum(lap.values()) / BATCH * 1e6 for lap in laps]
    stages = {name: statistics.median(lap[name] for lap in laps) / BATCH * 1e6 for name in laps[0]}
    figures = {**stages, "total": statistics.median(totals), "mean": statistics.fmean(totals)}
    return {name: round(value, 2) for name, value in (figures | {"p90": statistics.quantiles(totals, n=10)[8]}).items()}


def show(results: dict[str, dict[str, float]]) -> None:
    """The table."""
    table = Table(title=f"Deciding for a batch of {BATCH}, CPU µs a recipient (median of the batches)")
    for column in ("cache", "versions", "snapshots", "decisions", "total", "mean", "p90", "target"):
        table.add_column(column, justify="left" if column == "cache" else "right")
    for name, figures in results.items():
        columns = ("versions", "snapshots", "decisions", "total", "mean", "p90")
        table.add_row(name, *(f"{figures[column]:.1f}" for column in columns), f"≤ {TARGETS_US[name]:.0f}")
    Console(width=120).print(table)


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--recipients", type=int, default=5_000, help="a multiple of 500")
    parser.add_argument("--rounds", type=int, default=100)
    options = parser.parse_args()
    with django_on_own_stores():
        results = measure(make_recipients(options.recipients), options.rounds)
    show(results)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "machine": platform.machine()}
    result = {
        "machine": machine,
        "batch": BATCH,
        "recipients": options.recipients,
        "rounds": options.rounds,
        "unit": "CPU microseconds per recipient, client process",
        "targets": TARGETS_US,
        "results": results,
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    return int(any(results[name]["total"] > target for name, target in TARGETS_US.items()))


if __name__ == "__main__":
    sys.exit(main())

"""Many scenarios in a row: those that want the same stack share one, and one that fails does not stop the others."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, groupby
from pathlib import Path

import msgspec
import psycopg
import redis
import requests
from kombu.exceptions import KombuError
from rich.console import Console

from notify_project.local.errors import LocalError
from tests.chaos.report import Omission
from tests.chaos.rig import HarnessError, Rig
from tests.chaos.rigs import RigUnavailableError, build_rig
from tests.chaos.run import Scenario, Verdict, execute

BROKERS = ("valkey", "rabbitmq")
MAX_SINGLES_FACTOR = 2.0  # single calls are many processes' work; batches make volume
# What the harness may stumble over: a store that is away for longer than it should, a role that does not come back.
TROUBLE = (HarnessError, LocalError, psycopg.Error, redis.RedisError, requests.RequestException, KombuError, OSError)


@dataclass
class Session:
    """``verdicts`` and what was left out (``omissions``) or failed (``failures``), as they come; ``note`` is called
    after each."""

    console: Console
    home: Path
    seed: str
    scale: float = 1.0
    rate: float = 1.0
    seeds: int = 1
    is_verbose: bool = False
    note: Callable[[], None] = lambda: None
    verdicts: list[Verdict] = field(default_factory=list)
    omissions: list[Omission] = field(default_factory=list)
    failures: list[Omission] = field(default_factory=list)
    _homes: "count[int]" = field(default_factory=count)

    def run(self, scenarios: Sequence[Scenario], brokers: Sequence[str]) -> None:
        for broker in brokers:
            wanted = sorted((one for one in scenarios if broker in one.brokers), key=lambda one: one.rig)
            for rig_name, group in groupby(wanted, key=lambda one: one.rig):
                remaining = list(group)
                while remaining:
                    remaining = self._run_some(remaining, rig_name, broker)

    def _run_some(self, scenarios: list[Scenario], rig_name: str, broker: str) -> list[Scenario]:
        """On one stack; returns what is left to be done on a new one, after something failed."""
        home = self.home / f"{next(self._homes):02}-{broker}-{rig_name}"
        say = self.console.print if self.is_verbose else (lambda line: None)
        started = 0
        try:
            with build_rig(rig_name, broker, home, say=say) as rig:
                for scenario in scenarios:
                    started += 1
                    self._run_one(scenario, rig, home)
        except RigUnavailableError as error:
            self.omissions += [Omission(one.name, broker, str(error)) for one in scenarios]
            self.console.print(f"left out on {broker}: {', '.join(one.name for one in scenarios)}: {error}")
            return []
        except TROUBLE as error:
            failed = scenarios[max(0, started - 1)]
            self.failures.append(Omission(failed.name, broker, f"{type(error).__name__}: {error}"))
            self.console.print(f"[red]{failed.name} on {broker} failed: {type(error).__name__}: {error}[/red]")
            self.note()
            return scenarios[max(1, started) :]
        return []

    def _run_one(self, scenario: Scenario, rig: Rig, home: Path) -> None:
        """Once for each seed."""
        for turn in range(self.seeds):
            rig.stack.wait_ready()
            seed = f"{self.seed}-{scenario.number}" + (f"-{turn}" if turn else "")
            place = home / "runs" / f"{scenario.name}-{turn}"
            verdict = execute(with_rate(scenario, self.rate), rig, place, seed=seed, scale=self.scale)
            self.verdicts.append(verdict)
            self.verdicts.sort(key=lambda one: (one.number, BROKERS.index(one.broker)))
            tell(verdict, self.console)
            self.note()


def with_rate(scenario: Scenario, rate: float) -> Scenario:
    """The scenario with ``rate`` times its load."""
    load = scenario.load
    singles_per_s = load.singles_per_s * min(rate, MAX_SINGLES_FACTOR)
    changed = msgspec.structs.replace(load, singles_per_s=singles_per_s, batches_per_s=load.batches_per_s * rate)
    return replace(scenario, load=changed)


def tell(verdict: Verdict, console: Console) -> None:
    """Says on a few lines what came of a scenario."""
    tally = verdict.tally
    console.print(
        f"{verdict.number:>2} {verdict.name} on {verdict.broker}: {tally.accepted:,} accepted, {tally.lost} lost, "
        f"{tally.stuck} stuck, {tally.duplicates} duplicates (≤ {verdict.duplicates_allowed}), "
        f"{verdict.took_s:.0f} s, settled in {verdict.settled_s:.0f} s {verdict.notes or ''}"
    )
    for breach in verdict.breaches:
        console.print(f"   [red]{breach}[/red]")
    for kind, examples in tally.examples.items():
        if examples:
            console.print(f"   {kind}: {' '.join(examples)}")

"""``python -m tests.chaos``: the fault suite. Exit code 1 if a limit was broken, 2 if the harness itself failed."""

import argparse
import secrets
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from tests.chaos import report
from tests.chaos.scenarios import SCENARIOS, find_scenario
from tests.chaos.session import BROKERS, Session

PLAIN_WIDTH = 240  # where nobody looks at a terminal


def main(arguments: Sequence[str]) -> int:
    options = _parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    started = time.monotonic()
    command = f"make chaos ARGS='{shlex.join(arguments)}'" if arguments else "make chaos"

    def make_report() -> report.Report:
        return report.Report.of(session, command=command, took_s=time.monotonic() - started)

    with ExitStack() as stack:
        home = options.home or stack.enter_context(tempfile.TemporaryDirectory(prefix="notify-chaos-"))
        session = Session(
            console,
            Path(home),
            options.seed,
            scale=options.scale,
            rate=options.rate,
            seeds=options.seeds,
            is_verbose=options.verbose,
            note=lambda: None if options.into else report.write(make_report(), options.json),
        )
        session.run(options.only, options.brokers)
    made = make_report()
    if options.into:
        options.json, made = options.into, report.merge(report.read(options.into), made)
    report.show(made, console)
    report.write(made, options.json)
    console.print(f"written to {options.json}")
    if session.failures:
        return 2
    return 1 if any(verdict.breaches for verdict in session.verdicts) else 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    names = ", ".join(f"{one.number} {one.name}" for one in SCENARIOS)
    parser.add_argument("--only", type=find_scenario, nargs="+", default=list(SCENARIOS), metavar="NAME", help=names)
    parser.add_argument("--brokers", nargs="+", choices=BROKERS, default=list(BROKERS))
    parser.add_argument("--seed", default=secrets.token_hex(4), help="the same dice again")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each scenario, with other dice each time")
    parser.add_argument("--scale", type=float, default=1.0, help="stretches the scenarios' time")
    parser.add_argument("--rate", type=float, default=1.0, help="multiplies their load")
    parser.add_argument("--json", type=Path, default=report.RESULTS)
    parser.add_argument("--into", type=Path, help="a run's file, in which this one takes the place of what it repeats")
    parser.add_argument("--home", type=Path, help="keep the stacks' data and logs here; else they are deleted")
    parser.add_argument("--verbose", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

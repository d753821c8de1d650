"""``make bench``: all parts, one after the other, then the simulation and the figures of README and capacity page.

``--quick`` takes small numbers, a few minutes, to see that everything runs: it writes ``quick-*.json`` (which git
ignores) and leaves the pages alone.
"""

import argparse
import subprocess
import sys
import time
from typing import Any

from benchmarks import extras, results

PARTS = ("intake", "broadcast", "isolation", "scaling")
QUICK: dict[str, list[str]] = {
    "intake": ["--people=500", "--requests=300", "--batches=3", "--rounds=2"],
    "broadcast": ["--people=5000", "--plain=200", "--firebase=500", "--rounds=1"],
    "isolation": ["--people=20000", "--seconds=5", "--rounds=1"],
    "scaling": ["--sizes", "1000", "10000", "--rounds=1"],
}
PAGES = ("benchmarks.capacity", "benchmarks.simulate", "benchmarks.readme")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that it runs")
    parser.add_argument("--broker", choices=["valkey", "rabbitmq"], default="valkey")
    options = parser.parse_args()
    extras.python()  # now, not in the middle
    prefix = "quick-" if options.quick else ""
    failed = [part for part in PARTS if not _run(part, prefix, options)]
    if not options.quick:
        for page in PAGES:
            subprocess.run([sys.executable, "-m", page], check=True)
    claims: list[dict[str, Any]] = [one for part in PARTS for one in results.read(prefix + part).get("claims", ())]
    results.print_claims(claims)
    if failed:
        results.console.print(f"[red]did not run to its end: {', '.join(failed)}[/]")
    return 1 if failed else results.exit_code(claims)


def _run(part: str, prefix: str, options: argparse.Namespace) -> bool:
    """Whether it came to its end; whether its claims hold is in its result."""
    results.console.rule(f"bench-{part}")
    started = time.time()
    command = [sys.executable, "-m", f"benchmarks.bench_{part}", f"--broker={options.broker}", f"--name={prefix}{part}"]
    subprocess.run([*command, *(QUICK[part] if options.quick else ())], check=False)
    path = results.FOLDER / f"{prefix}{part}.json"
    return path.is_file() and path.stat().st_mtime >= started


if __name__ == "__main__":
    raise SystemExit(main())

"""A ten-fold spike of ten minutes, simulated with the measured service times: ``python -m benchmarks.simulate``.

Two lanes of jobs meet workers (a core each). A high-lane job is one notification, a bulk job a chunk of 500. Arrivals
are Poisson, service times exponential around the measured CPU of a worker, queues first come, first served; with lanes
the high lane has workers of its own, without them all share one queue. The same seed gives the same figures. A tenth of
the fleet is simulated, which has a tenth of the load.
"""

import argparse
import heapq
import math
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any, NamedTuple

from benchmarks import results
from benchmarks.capacity import AVERAGE_PER_S, CHUNK, LOAD, PAGE, PEAK_TIMES, Measured, read_measured
from benchmarks.plotting import plot
from benchmarks.readme import replace_between

BEGIN, END = "<!-- simulation: python -m benchmarks.simulate -->\n", "<!-- end of simulation -->"
LANES = ("high", "bulk")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is simulated. Rates are notifications a second outside the spike, service times seconds of a core; the
    spike begins and ends at these minutes."""

    high_per_s: float
    bulk_per_s: float
    high_service_s: float
    bulk_service_s: float  # of a chunk
    high_workers: int
    bulk_workers: int
    minutes: int
    spike_minutes: tuple[int, int]
    times: float = PEAK_TIMES
    seed: int = 1


class Job(NamedTuple):
    """What became of a job, in seconds since the start."""

    lane: str
    arrived: float
    started: float
    ended: float


def arrivals(per_s: float, setting: Setting, dice: random.Random) -> Iterator[float]:
    """Poisson, ``times`` as many within the spike. By thinning: made at the highest rate, kept by chance."""
    begin, end = (minute * 60.0 for minute in setting.spike_minutes)
    highest = per_s * setting.times
    now = 0.0
    while (now := now + dice.expovariate(highest)) < setting.minutes * 60.0:
        if begin <= now < end or dice.random() * setting.times < 1.0:
            yield now


def serve(waiting: Sequence[tuple[float, str]], workers: int, service_s: Mapping[str, float], seed: int) -> list[Job]:
    """First come, first served by so many workers. ``waiting`` are arrivals with their lanes, in order."""
    dice = random.Random(seed)
    free_at = [0.0] * workers
    jobs = []
    for arrived, lane in waiting:
        started = max(arrived, free_at[0])
        ended = started + dice.expovariate(1.0 / service_s[lane])
        heapq.heapreplace(free_at, ended)
        jobs.append(Job(lane, arrived, started, ended))
    return jobs


def simulate(setting: Setting, *, has_lanes: bool) -> list[Job]:
    """All jobs of both lanes."""
    dice = random.Random(setting.seed)
    rates = {"high": setting.high_per_s, "bulk": setting.bulk_per_s / CHUNK}
    made = {lane: [(at, lane) for at in arrivals(rates[lane], setting, dice)] for lane in LANES}
    service_s = {"high": setting.high_service_s, "bulk": setting.bulk_service_s}
    if has_lanes:
        workers = {"high": setting.high_workers, "bulk": setting.bulk_workers}
        return [job for lane in LANES for job in serve(made[lane], workers[lane], service_s, setting.seed)]
    everything = sorted(made["high"] + made["bulk"])
    return serve(everything, setting.high_workers + setting.bulk_workers, service_s, setting.seed)


def summarise(jobs: Sequence[Job], setting: Setting) -> dict[str, Any]:
    """By minute and lane: notifications waiting at its end, and the p99 of those that arrived in it."""
    series = [
        {"minute": minute, **{lane: _look(jobs_of, minute) for lane, jobs_of in _by_minute(jobs, setting).items()}}
        for minute in range(setting.minutes)
    ]
    begin, end = setting.spike_minutes
    waits = {
        lane: [job.ended - job.arrived for job in jobs if job.lane == lane and begin * 60 <= job.arrived < end * 60]
        for lane in LANES
    }
    return {
        "p99_in_spike_s": {lane: _p99(waits[lane]) for lane in LANES},
        "most_queued": {lane: max(point[lane]["queued"] for point in series) for lane in LANES},
        "caught_up_minute": {
            lane: max((p["minute"] + 1 for p in series if p[lane]["queued"] > _usual(setting, lane)), default=end)
            for lane in LANES
        },
        "series": series,
    }


def _usual(setting: Setting, lane: str) -> float:
    """Notifications of a second: fewer are no backlog."""
    return setting.high_per_s if lane == "high" else setting.bulk_per_s


class _Lane(NamedTuple):
    size: int
    waits: list[list[float]]  # by the minute of arrival
    queued: list[int]  # at the end of each minute


def _by_minute(jobs: Sequence[Job], setting: Setting) -> dict[str, _Lane]:
    lanes = {lane: _Lane(1 if lane == "high" else CHUNK, [], []) for lane in LANES}
    changes = {lane: [0] * (setting.minutes + 1) for lane in LANES}  # of those who wait at the end of a minute
    for lane in lanes.values():
        lane.waits.extend([] for _ in range(setting.minutes))
    for job in jobs:
        first = int(job.arrived // 60)
        lanes[job.lane].waits[first].append(job.ended - job.arrived)
        changes[job.lane][first] += 1
        changes[job.lane][min(int(job.started // 60), setting.minutes)] -= 1
    for name, lane in lanes.items():
        lane.queued.extend(lane.size * n for n in accumulate(changes[name][: setting.minutes]))
    return lanes


def _look(lane: _Lane, minute: int) -> dict[str, float]:
    return {"queued": lane.queued[minute], "p99_s": _p99(lane.waits[minute])}


def _p99(values: Sequence[float]) -> float:
    return round(sorted(values)[max(0, math.ceil(len(values) * 0.99) - 1)], 4) if values else 0.0


def erlang_c_wait_s(per_s: float, service_s: float, workers: int) -> float:
    """The mean wait of M/M/c (Erlang C), for the test of the simulation."""
    offered = per_s * service_s
    terms = [offered**k / math.factorial(k) for k in range(workers)]
    last = offered**workers / math.factorial(workers) * workers / (workers - offered)
    return last / (sum(terms) + last) * service_s / (workers - offered)


def make_setting(measured: Measured, options: argparse.Namespace) -> Setting:
    """A tenth of a fleet that can do ``options.fleet`` times the average in bulk, and the high lane's own peak."""
    total = AVERAGE_PER_S * options.scale
    high, bulk = total * options.high_share, total * (1 - options.high_share)
    high_s, chunk_s = measured.single.cpu_us["worker"] / 1e6, measured.broadcast.cpu_us["worker"] * CHUNK / 1e6
    begin = 10
    return Setting(
        high_per_s=high,
        bulk_per_s=bulk,
        high_service_s=high_s,
        bulk_service_s=chunk_s,
        high_workers=max(2, math.ceil(high * PEAK_TIMES * high_s / LOAD)),
        bulk_workers=max(2, math.ceil(bulk / CHUNK * chunk_s * options.fleet)),
        minutes=options.minutes,
        spike_minutes=(begin, begin + 10),
        seed=options.seed,
    )


def render(result: Mapping[str, Any]) -> str:
    if not result:
        return "Not simulated yet: run `make bench`.\n"
    setting, options = result["setting"], result["parameters"]
    begin, end = setting["spike_minutes"]
    workers = f"{setting['high_workers']} high-lane and {setting['bulk_workers']} bulk workers"
    lines = [
        f"A tenth of the fleet, with {workers} of a core each. {setting['high_per_s']:,.0f} high-lane and "
        f"{setting['bulk_per_s']:,.0f} bulk notifications arrive in a second, {setting['times']} times as many from "
        f"minute {begin} to {end}. As measured, a high-lane send takes a worker {setting['high_service_s'] * 1000:.2f} "
        f"ms and a chunk of {CHUNK} {setting['bulk_service_s'] * 1000:.0f} ms; the bulk workers can do "
        f"{options['fleet']:g} times the average.",
        "",
        "| in the spike | high: p99 | most waiting | bulk: p99 | most waiting | caught up in minute |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, one in result["scenarios"].items():
        p99, most = one["p99_in_spike_s"], one["most_queued"]
        lines.append(
            f"| {name} | {_duration(p99['high'])} | {most['high']:,} | {_duration(p99['bulk'])} | {most['bulk']:,} "
            f"| {one['caught_up_minute']['bulk']} |"
        )
    return "\n".join([*lines, "", "![simulation](../benchmarks/results/simulation.svg)", ""])


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:,.0f} s"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=0.1, help="share of the fleet and its load")
    parser.add_argument("--high-share", type=float, default=0.05, help="of all notifications")
    parser.add_argument("--fleet", type=float, default=4.0, help="what the bulk workers can do, in averages")
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    measured = read_measured()
    if measured is None:
        print("Nothing measured yet: run make bench")
        return 1
    setting = make_setting(measured, options)
    scenarios = {
        name: summarise(simulate(setting, has_lanes=has_lanes), setting)
        for name, has_lanes in (("with lanes", True), ("one queue for all", False))
    }
    result = results.describe_run(**vars(options)) | {
        "setting": asdict(setting),
        "spike_minutes": setting.spike_minutes,
        "scenarios": scenarios,
    }
    results.write("simulation", result)
    plot("simulation")
    replace_between(PAGE, BEGIN, END, render(result))
    print(f"written into {PAGE.relative_to(results.ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

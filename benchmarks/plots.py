"""Draws the plots of a result: ``python -m benchmarks.plots broadcast`` reads ``results/broadcast.json`` and writes the
SVG and the PNG beside it. Runs in the benchmarks' own environment."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

FOLDER = Path(__file__).resolve().parent / "results"
COLOURS = {
    "web": "#4878a8", "worker": "#e49444", "beat": "#bab0ac", "database": "#5a9e6f", "broker": "#c85a54",
    "cache": "#9c6fb0", "sandbox": "#c9c9c9", "client": "#8c6d52",
}  # fmt: skip
LABELS = {
    "product": "the platform", "limit": "limit probe\n(no Celery)", "plain": "plain Celery\n+ requests",
    "firebase": "firebase-admin\nsend_each", "email": "the platform,\ne-mail",
}  # fmt: skip
pyplot.rcParams.update({
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "figure.dpi": 110,
    "svg.hashsalt": "notify", "svg.fonttype": "none",
})  # fmt: skip


def draw_broadcast(result: Mapping[str, Any]) -> Figure:
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2))
    contestants = result["contestants"]
    names = [name for name in LABELS if name in contestants]
    rates = [contestants[name]["rate_per_s"] for name in names]
    bars = left.barh([LABELS[name] for name in names], rates, color="#4878a8")
    left.bar_label(bars, [f" {rate:,.0f}/s" for rate in rates])
    left.set_xscale("log")
    left.set_xlim(right=max(rates) * 4)
    left.invert_yaxis()
    left.set_title("Messages a second, recorded (log scale)", loc="left")
    near = {LABELS[name]: contestants[name]["cpu_us"] for name in ("product", "limit", "email") if name in contestants}
    _stack_bars(right, near)
    far = ", ".join(f"{name} {contestants[name]['cpu_us']['all']:,.0f}" for name in ("plain", "firebase"))
    right.set_title("CPU µs a message, everything on the box", loc="left")
    right.set_xlabel(f"off the scale: {far}")
    return figure


def draw_intake(result: Mapping[str, Any]) -> Figure:
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 3.6))
    sides = {"the platform": result["single"]["product"], "plain DRF view\n+ delay()": result["single"]["plain"]}
    bars = left.barh(list(sides), [side["rate_per_s"] for side in sides.values()], color="#4878a8")
    left.bar_label(bars, [f" {side['rate_per_s']:,.0f}/s" for side in sides.values()])
    left.invert_yaxis()
    left.set_title("POSTs a second", loc="left")
    costs = {name: side["cpu_us"] for name, side in sides.items()}
    _stack_bars(right, costs | {"the platform,\nbatch, an item": result["batch"]["cpu_us"]})
    right.set_title("CPU µs a notification accepted", loc="left")
    return figure


def draw_isolation(result: Mapping[str, Any]) -> Figure:
    figure, axes = pyplot.subplots(figsize=(8, 4))
    for name, label in (("idle", "idle machine"), ("during", "while the broadcast runs")):
        values = sorted(value for one in result["rounds"] for value in one[name]["ms"])
        shares = [100 * (place + 1) / len(values) for place in range(len(values))]
        axes.plot(values, shares, label=label, drawstyle="steps-post")
    axes.axvline(250, color="#bab0ac", linestyle="--")
    axes.axhline(99, color="#bab0ac", linestyle=":")
    axes.set_xscale("log")
    axes.set_xlabel("accept → provider, ms; dashed: 250 ms")
    axes.set_ylabel("% of high-lane pushes; dotted: 99 %")
    axes.legend(frameon=False, loc="lower right")
    axes.set_title(f"High-lane pushes, {result['parameters']['rate']:g}/s", loc="left")
    return figure


def draw_scaling(result: Mapping[str, Any]) -> Figure:
    figure, axes = pyplot.subplots(figsize=(8, 4))
    sizes = [one["recipients"] for one in result["sizes"]]
    axes.plot(sizes, [one["cpu_us"]["all"] for one in result["sizes"]], "o-", label="CPU µs a recipient, all groups")
    axes.plot(sizes, [1e6 / one["rate_per_s"] for one in result["sizes"]], "s--", label="wall-clock µs a recipient")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("recipients of the broadcast")
    axes.legend(frameon=False)
    axes.set_title("Cost of a recipient", loc="left")
    return figure


def draw_simulation(result: Mapping[str, Any]) -> Figure:
    scenarios = result["scenarios"]
    figure, grid = pyplot.subplots(2, len(scenarios), figsize=(5.5 * len(scenarios), 6.5), sharex=True, squeeze=False)
    for column, (name, scenario) in enumerate(scenarios.items()):
        depth, latency = grid[0][column], grid[1][column]
        for lane, colour in (("high", "#c85a54"), ("bulk", "#4878a8")):
            minutes = [point["minute"] for point in scenario["series"]]
            depth.plot(minutes, [point[lane]["queued"] for point in scenario["series"]], color=colour, label=lane)
            latency.plot(minutes, [point[lane]["p99_s"] or None for point in scenario["series"]], color=colour)
        for axes in (depth, latency):
            axes.axvspan(*result["spike_minutes"], color="#f3ead7", zorder=0)
        depth.set_yscale("symlog", linthresh=10)
        latency.set_yscale("log")
        depth.set_title(name, loc="left")
        depth.set_ylabel("queued" if column == 0 else "")
        latency.set_ylabel("p99 accept → provider, s" if column == 0 else "")
        latency.set_xlabel("minute")
    grid[0][0].legend(frameon=False)
    return figure


def _stack_bars(axes: Axes, costs: Mapping[str, Mapping[str, float]]) -> None:
    """One horizontal bar each, cut by group of processes."""
    groups = [group for group in COLOURS if any(cost.get(group) for cost in costs.values())]
    starts = dict.fromkeys(costs, 0.0)
    for group in groups:
        widths = [cost.get(group, 0.0) for cost in costs.values()]
        axes.barh(list(costs), widths, left=list(starts.values()), color=COLOURS[group], label=group)
        starts = {name: starts[name] + width for name, width in zip(costs, widths, strict=True)}
    for name, end in starts.items():
        axes.annotate(f" {end:,.0f}", (end, name), va="center")
    axes.set_xlim(right=max(starts.values()) * 1.3)
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize=8, ncols=2)


DRAWINGS: dict[str, Callable[[Mapping[str, Any]], Figure]] = {
    "broadcast": draw_broadcast,
    "intake": draw_intake,
    "isolation": draw_isolation,
    "scaling": draw_scaling,
    "simulation": draw_simulation,
}


def main(names: Sequence[str]) -> None:
    for name in names:
        result = json.loads((FOLDER / f"{name}.json").read_text())
        figure = DRAWINGS[name.removeprefix("quick-")](result)
        machine = result["machine"]
        note = f"{result['at'][:10]}, commit {result['commit']}, {machine['cores']} × {machine['cpu']}, all on one box"
        figure.text(0.01, 0.005, note, fontsize=7, color="#777777")
        figure.tight_layout(rect=(0, 0.03, 1, 1))
        figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})
        figure.savefig(FOLDER / f"{name}.png", metadata={"Software": None})
        pyplot.close(figure)


if __name__ == "__main__":
    main(sys.argv[1:])

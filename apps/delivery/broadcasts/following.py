"""Watching a broadcast from a terminal: a progress bar, or a line each second where nobody looks."""

import time
from collections.abc import Callable, Iterator
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from apps.delivery.broadcasts.models import Broadcast, State
from apps.delivery.broadcasts.progress import Progress, progress
from apps.delivery.statuses import Status

EVERY_S = 1.0
_COLOURS = {
    Status.SENT: "blue", Status.DELIVERED: "green", Status.FAILED: "red", Status.BOUNCED: "red", Status.DEAD: "red",
    Status.UNKNOWN: "magenta", Status.QUEUED: "yellow", Status.SENDING: "yellow",
}  # fmt: skip


def follow(read: Callable[[], Broadcast], console: Console) -> Progress:
    """Shows how far it is until it is over or halts by itself; returns how it stood then. ``read`` reads it anew."""
    if console.is_terminal:
        return _draw(_watch(read), console)
    for figures in _watch(read):
        console.print(to_line(figures), soft_wrap=True, highlight=False)
        console.file.flush()  # for whoever reads at the other end of a pipe
    return figures


def to_line(figures: Progress) -> str:
    """The figures in a line of plain text."""
    parts = [
        f"{figures.as_of:%H:%M:%S}",
        figures.state.name.lower(),
        f"{figures.done:,}/{figures.recipients:,}{'' if figures.is_planned else '+'}",
        *([f"{share_of(figures):.1%}"] if figures.recipients else []),
        f"{figures.rate_per_s:,.0f}/s",
        *(f"{status.label}={count:,}" for status, count in sorted(figures.counts.items())),
    ]
    if (left := _time_left(figures)) is not None:
        parts.append(f"left={left}")
    return " ".join(parts)


def share_of(figures: Progress) -> float:
    """How much of what is known to be done is done."""
    return figures.done / figures.recipients if figures.recipients else 0.0


def _watch(read: Callable[[], Broadcast]) -> Iterator[Progress]:
    while True:
        broadcast = read()
        figures = progress(broadcast)
        yield figures
        if broadcast.finished_at is not None or figures.state is State.HALTED:
            return
        time.sleep(EVERY_S)


def _draw(watched: Iterator[Progress], console: Console) -> Progress:
    columns = (
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=console, expand=True) as bar:
        task = bar.add_task("", total=None, figures="")
        for figures in watched:
            bar.update(
                task,
                description=figures.state.name.lower(),
                total=figures.recipients if figures.is_planned else None,
                completed=figures.done,
                figures=_to_markup(figures),
            )
    return figures


def _to_markup(figures: Progress) -> str:
    parts = [f"{figures.done:,}/{figures.recipients:,}", f"{figures.rate_per_s:,.0f}/s"]
    for status, count in sorted(figures.counts.items()):
        colour = _COLOURS.get(status, "bright_black")
        parts.append(f"[{colour}]{status.label} {count:,}[/{colour}]")
    if (left := _time_left(figures)) is not None:
        parts.append(f"{left} left")
    return "  ".join(parts)


def _time_left(figures: Progress) -> timedelta | None:
    """In whole seconds."""
    if figures.eta is None:
        return None
    return timedelta(seconds=max(0, round((figures.eta - figures.as_of).total_seconds())))

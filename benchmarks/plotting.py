"""Asks the benchmarks' own environment, which has matplotlib, to draw the plots of a result."""

from benchmarks import extras


def plot(name: str) -> None:
    """``benchmarks/results/<name>.svg`` and ``.png`` from ``<name>.json``."""
    extras.run("benchmarks.plots", name)

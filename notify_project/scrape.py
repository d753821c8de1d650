"""Gathering all metrics for one scrape: the counts of every process, and the gauges read at this moment."""

import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import structlog
from django.db import connections
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from apps import metrics
from notify_project.broker import queue_depths
from notify_project.deadline import SingleFlight

logger = structlog.get_logger("notify.metrics")

GAUGES_DEADLINE_S = 1.5
_FOLDED = "folded"

metrics.register_gauge(
    "notify_queue_depth", "Messages (doorbells) waiting in the broker, by queue.", ["queue"], queue_depths
)


def scrape_registry() -> CollectorRegistry:
    """What ``/metrics`` and a worker's metrics port show. The gauges come last, so that a gauge that failed is already
    counted in the next scrape and never spoils this one."""
    registry = CollectorRegistry()
    registry.register(CountCollector())
    registry.register(GaugeCollector())
    return registry


class CountCollector(Collector):
    """Counters and histograms: of this process, or of all that share ``PROMETHEUS_MULTIPROC_DIR``."""

    def collect(self) -> Iterable[Metric]:
        directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")  # where prometheus-client itself looks
        if not directory:
            return list(REGISTRY.collect())
        with _sole_reader(Path(directory)):
            fold_dead_processes(Path(directory))
            return list(MultiProcessCollector(None, path=directory).collect())

    def describe(self) -> Iterable[Metric]:
        return ()


class GaugeCollector(Collector):
    """Reads every registered gauge, all at once, within ``GAUGES_DEADLINE_S`` together."""

    def collect(self) -> Iterator[Metric]:
        deadline = time.monotonic() + GAUGES_DEADLINE_S
        flights = [(gauge, _flight_of(gauge).start()) for gauge in metrics.registered_gauges()]
        for gauge, flight in flights:
            family = _read(gauge, flight, max(0.0, deadline - time.monotonic()))
            if family is not None:
                yield family

    def describe(self) -> Iterable[Metric]:
        return ()


def _read(gauge: metrics.Gauge, flight: "Future[GaugeMetricFamily]", timeout_s: float) -> GaugeMetricFamily | None:
    try:
        return flight.result(timeout=timeout_s)
    except Exception as error:
        metrics.scrape_failed(gauge.name)
        logger.warning("gauge_failed", gauge=gauge.name, error=type(error).__name__)
        return None


@cache
def _flight_of(gauge: metrics.Gauge) -> SingleFlight[GaugeMetricFamily]:
    return SingleFlight(f"gauge-{gauge.name}", lambda: _family_of(gauge))


def _family_of(gauge: metrics.Gauge) -> GaugeMetricFamily:
    try:
        family = GaugeMetricFamily(gauge.name, gauge.help, labels=gauge.labels)
        for label_values, number in gauge.read().items():
            family.add_metric(label_values, number)
        return family
    finally:
        connections.close_all()  # this thread's own; with the pool they go back to it


@contextmanager
def _sole_reader(directory: Path) -> Iterator[None]:
    with (directory / "scrape.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fold_dead_processes(directory: Path) -> None:
    """Add the files of processes that are gone to one file and delete them, so that ``directory`` does not grow with
    every restart and no count is lost. For the holder of the lock only.

    The processes must share one PID namespace: give each container a directory of its own.
    """
    for kind in ("counter", "histogram"):
        dead = [path for path in directory.glob(f"{kind}_*.db") if not _is_in_use(path)]
        if dead:
            _fold(directory / f"{kind}_{_FOLDED}.db", dead)


def _is_in_use(path: Path) -> bool:
    owner = path.stem.rpartition("_")[2]
    if not owner.isdigit():
        return True  # the folded file itself
    try:
        os.kill(int(owner), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _fold(folded: Path, dead: list[Path]) -> None:
    sources = [str(path) for path in (*dead, folded) if path.exists()]
    next_file = folded.with_suffix(".next")
    next_file.unlink(missing_ok=True)
    target = MmapedDict(str(next_file))
    for metric in MultiProcessCollector.merge(sources, accumulate=False):
        for sample in metric.samples:
            names = tuple(sample.labels)
            key = mmap_key(metric.name, sample.name, names, tuple(sample.labels.values()), metric.documentation)
            target.write_value(key, sample.value, 0.0)
    target.close()
    next_file.replace(folded)
    for path in dead:
        path.unlink(missing_ok=True)


def prepare_directory(directory: Path) -> None:
    """Make ``directory`` ready for ``PROMETHEUS_MULTIPROC_DIR``; counts start from nothing. Call before any process of
    the platform starts."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.glob("*.db"):
        path.unlink(missing_ok=True)

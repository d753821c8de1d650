"""Gathering all metrics for one scrape: the counts of every process, and the gauges read at this moment."""

import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from functools import cache
from pathlib import Path

import structlog
from django.db import connections
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from apps import metrics
from notify_project.broker import queue_depths
from notify_project.deadline import SingleFlight
from notify_project.metric_files import read_counts

logger = structlog.get_logger("notify.metrics")

GAUGES_DEADLINE_S = 1.5

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
        return read_counts(Path(directory))

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

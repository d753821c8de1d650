"""What is counted and timed, and the functions that do it. The names are part of the interface: docs/observability.md.

Recording is cheap enough for the hot path: children of a metric are kept by their labels, a batch is recorded with a
handful of additions however large it is, and nothing here ever does I/O beyond a write to mapped memory. With
``PROMETHEUS_MULTIPROC_DIR`` set (see prometheus-client, "Multiprocess Mode") each process writes files of its own
there and any of them can answer for all.

Labels are closed sets. Never label with an id, an address or a provider's free text.
"""

import os
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from prometheus_client import Counter, Histogram

# prometheus-client opens its files there as soon as a metric is defined.
_shared_directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
if _shared_directory:
    Path(_shared_directory).mkdir(parents=True, exist_ok=True)

# Dense around what is promised: push p99 below one second from accept to provider.
_LATENCY_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_DELIVERED_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 43200.0)
# Up to the transport's total time-out of 2 s, and one beyond it.
_CALL_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
_REQUEST_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class BatchHistogram(Histogram):
    """A histogram that takes a whole batch in one go: one addition per bucket touched instead of two per value."""

    def observe_many(self, values: Sequence[float]) -> None:
        """Record every value of ``values`` (seconds); below 0, as clocks differ, counts as 0."""
        counts: dict[int, int] = {}
        for value in values:
            position = bisect_left(self._upper_bounds, value)
            counts[position] = counts.get(position, 0) + 1
        self._sum.inc(sum(value for value in values if value > 0))
        for position, count in counts.items():
            self._buckets[position].inc(count)


ACCEPTED = Counter(
    "notify_accepted_total", "Deliveries accepted by the API (one per channel and address).", ["channel", "lane"]
)
DELIVERIES = Counter(
    "notify_deliveries_total", "Deliveries that reached a status.", ["status", "channel", "lane", "provider"]
)
SUPPRESSED = Counter("notify_suppressed_total", "Deliveries not sent, by the reason why.", ["reason", "channel"])
ACCEPT_TO_PROVIDER = BatchHistogram(
    "notify_accept_to_provider_seconds",
    "From the accepted request to the provider's yes.",
    ["channel", "lane"],
    buckets=_LATENCY_BUCKETS,
)
ACCEPT_TO_DELIVERED = BatchHistogram(
    "notify_accept_to_delivered_seconds",
    "From the accepted request to the provider's word that it arrived.",
    ["channel"],
    buckets=_DELIVERED_BUCKETS,
)
PROVIDER_CALL = BatchHistogram(
    "notify_provider_call_seconds", "Duration of one HTTP call to a provider.", ["provider"], buckets=_CALL_BUCKETS
)
PROVIDER_RESULTS = Counter(
    "notify_provider_results_total",
    "Results of messages handed to a provider.",
    ["provider", "outcome", "code_class"],
)
SMS_SEGMENTS = Counter("notify_sms_segments_total", "Parts of the texts that a provider took, as billed.", ["provider"])
FAILOVERS = Counter(
    "notify_failovers_total",
    "Deliveries handed to this provider after another could not take them.",
    ["channel", "provider"],
)
RETRIES = Counter("notify_retries_total", "Deliveries put back for another attempt.", ["channel"])
QUEUE_LATENCY = BatchHistogram(
    "notify_queue_latency_seconds",
    "From ringing to a worker, measured with a canary in every queue.",
    ["queue"],
    buckets=_LATENCY_BUCKETS,
)
GARBAGE = Counter("notify_garbage_total", "Messages no worker could use, kept in notif.dead.", ["queue", "reason"])
SWEEP_RUNG = Counter("notify_sweep_rung_total", "Deliveries the sweep had to enqueue (again).")
BROADCAST_PAUSES = Counter(
    "notify_broadcast_pause_seconds_total", "Seconds for which broadcasts have yielded to urgent deliveries."
)
CACHE_HITS = Counter("notify_cache_hits_total", "Cache look-ups that found a current value.", ["cache"])
CACHE_MISSES = Counter("notify_cache_misses_total", "Cache look-ups that went on to the database.", ["cache"])
HTTP_REQUESTS = Counter("http_requests_total", "HTTP requests answered.", ["route", "method", "status"])
HTTP_SECONDS = BatchHistogram(
    "http_request_seconds", "Time to answer an HTTP request.", ["route", "method"], buckets=_REQUEST_BUCKETS
)
SCRAPE_ERRORS = Counter("notify_scrape_errors_total", "Gauges that could not be computed for a scrape.", ["gauge"])


@cache
def _counter(metric: Counter, labels: tuple[str, ...]) -> Counter:
    return metric.labels(*labels)


@cache
def _histogram(metric: BatchHistogram, labels: tuple[str, ...]) -> BatchHistogram:
    return metric.labels(*labels)


def accepted(channel: str, lane: str, n: int = 1) -> None:
    """``n`` deliveries of ``channel`` were accepted into ``lane``."""
    _counter(ACCEPTED, (channel, lane)).inc(n)


def deliveries(status: str, channel: str, lane: str, provider: str, n: int = 1) -> None:
    """``n`` deliveries reached ``status``; ``provider`` is its alias, ``""`` if none was involved."""
    _counter(DELIVERIES, (status, channel, lane, provider)).inc(n)


def suppressed(reason: str, channel: str, n: int = 1) -> None:
    """``n`` deliveries of ``channel`` are not sent for ``reason`` (the label of a decision's reason)."""
    _counter(SUPPRESSED, (reason, channel)).inc(n)


def accept_to_provider(channel: str, lane: str, seconds: Sequence[float]) -> None:
    """Times from accepting to the provider's yes, one per delivery, in seconds."""
    _histogram(ACCEPT_TO_PROVIDER, (channel, lane)).observe_many(seconds)


def accept_to_delivered(channel: str, seconds: Sequence[float]) -> None:
    """Times from accepting to the receipt that says ``delivered``, one per delivery, in seconds."""
    _histogram(ACCEPT_TO_DELIVERED, (channel,)).observe_many(seconds)


def provider_call(provider: str, seconds: float) -> None:
    """One HTTP call to ``provider`` took ``seconds``, whatever came of it."""
    _histogram(PROVIDER_CALL, (provider,)).observe_many((seconds,))


def provider_calls(provider: str, seconds: Sequence[float]) -> None:
    """The same for a batch of calls."""
    _histogram(PROVIDER_CALL, (provider,)).observe_many(seconds)


def provider_results(provider: str, outcome: str, n: int = 1, *, code_class: str = "") -> None:
    """``n`` messages came to ``outcome`` at ``provider``; ``code_class`` is coarse: ``4xx``, ``timeout``."""
    _counter(PROVIDER_RESULTS, (provider, outcome, code_class)).inc(n)


def sms_segments(provider: str, n: int) -> None:
    """``provider`` took texts of ``n`` parts in all."""
    _counter(SMS_SEGMENTS, (provider,)).inc(n)


def failed_over(channel: str, provider: str, n: int = 1) -> None:
    """``n`` deliveries came to ``provider`` because the one before it in their route could not take them."""
    _counter(FAILOVERS, (channel, provider)).inc(n)


def retried(channel: str, n: int = 1) -> None:
    """``n`` deliveries were put back for another attempt."""
    _counter(RETRIES, (channel,)).inc(n)


def queue_latency(queue: str, seconds: float) -> None:
    """A canary was ``seconds`` in ``queue`` before a worker heard it."""
    _histogram(QUEUE_LATENCY, (queue,)).observe_many((seconds,))


def garbage(queue: str, reason: str) -> None:
    """A message in ``queue`` was none of ours, for ``reason``."""
    _counter(GARBAGE, (queue, reason)).inc()


def sweep_rung(n: int = 1) -> None:
    """The sweep enqueued ``n`` deliveries."""
    SWEEP_RUNG.inc(n)


def broadcast_paused(seconds: float) -> None:
    """A thread that sends a broadcast has paused for so long."""
    BROADCAST_PAUSES.inc(seconds)


def cache_lookup(cache: str, hits: int, misses: int) -> None:
    """A look-up of ``hits + misses`` keys in ``cache`` (``preferences``, …)."""
    if hits:
        _counter(CACHE_HITS, (cache,)).inc(hits)
    if misses:
        _counter(CACHE_MISSES, (cache,)).inc(misses)


def http_request(route: str, method: str, status: int, seconds: float) -> None:
    """One HTTP request to the URL pattern ``route`` was answered with ``status`` after ``seconds``."""
    _counter(HTTP_REQUESTS, (route, method, str(status))).inc()
    _histogram(HTTP_SECONDS, (route, method)).observe_many((seconds,))


def scrape_failed(gauge: str) -> None:
    """``gauge`` could not be computed and is missing from a scrape."""
    _counter(SCRAPE_ERRORS, (gauge,)).inc()


@dataclass(frozen=True, slots=True)
class Gauge:
    """A value read when somebody looks, not kept: ``read`` returns label values → number."""

    name: str
    help: str
    labels: tuple[str, ...]
    read: Callable[[], Mapping[tuple[str, ...], float]]


_gauges: dict[str, Gauge] = {}


def register_gauge(
    name: str, help: str, labels: Sequence[str], read: Callable[[], Mapping[tuple[str, ...], float]]
) -> None:
    """Have ``read`` called for each scrape; it returns ``{label values: number}`` (``{(): number}`` without labels).

    ``read`` may query the database or the broker and may raise: the gauge is then left out of that scrape. It runs in
    a thread of its own with a time limit. Registering a name again replaces it.
    """
    _gauges[name] = Gauge(name, help, tuple(labels), read)


def unregister_gauge(name: str) -> None:
    """No longer read the gauge ``name``; it need not be registered."""
    _gauges.pop(name, None)


def registered_gauges() -> tuple[Gauge, ...]:
    """The gauges to read for a scrape, in the order of registration."""
    return tuple(_gauges.values())

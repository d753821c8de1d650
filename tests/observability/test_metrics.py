"""Counting: right in batches, across processes, and without ever harming a page or the hot path."""

import os
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from apps import metrics
from notify_project import scrape

pytestmark = pytest.mark.urls("tests.observability.urls")

BUCKETS = (0.1, 0.5, 1.0)


def histogram():
    registry = CollectorRegistry()
    return registry, metrics.BatchHistogram("h_seconds", "h", buckets=BUCKETS, registry=registry)


@settings(deadline=None)
@given(st.lists(st.one_of(st.floats(0, 5), st.sampled_from(BUCKETS)), max_size=50))
def test_a_batch_counts_like_its_values_one_by_one(values):
    batch_registry, batch = histogram()
    single_registry, single = histogram()
    batch.observe_many(values)
    for value in values:
        single.observe(value)
    for bound in ("0.1", "0.5", "1.0", "+Inf"):
        name, labels = "h_seconds_bucket", {"le": bound}
        assert batch_registry.get_sample_value(name, labels) == single_registry.get_sample_value(name, labels)
    assert batch_registry.get_sample_value("h_seconds_sum") == pytest.approx(
        single_registry.get_sample_value("h_seconds_sum")
    )


def test_clocks_that_differ_never_make_a_sum_shrink():
    registry, batch = histogram()
    batch.observe_many([-3.0, 0.2])
    assert registry.get_sample_value("h_seconds_sum") == 0.2
    assert registry.get_sample_value("h_seconds_count") == 2


@pytest.mark.parametrize(
    ("record", "name", "labels", "amount"),
    [
        (lambda: metrics.accepted("push", "high", 3), "notify_accepted_total", {"channel": "push", "lane": "high"}, 3),
        (
            lambda: metrics.deliveries("sent", "push", "high", "fcm", 2),
            "notify_deliveries_total",
            {"status": "sent", "channel": "push", "lane": "high", "provider": "fcm"},
            2,
        ),
        (
            lambda: metrics.suppressed("opted_out", "sms"),
            "notify_suppressed_total",
            {"reason": "opted_out", "channel": "sms"},
            1,
        ),
        (
            lambda: metrics.accept_to_provider("push", "bulk", [0.1, 0.2]),
            "notify_accept_to_provider_seconds_count",
            {"channel": "push", "lane": "bulk"},
            2,
        ),
        (
            lambda: metrics.accept_to_delivered("sms", [1.0]),
            "notify_accept_to_delivered_seconds_count",
            {"channel": "sms"},
            1,
        ),
        (lambda: metrics.provider_call("fcm", 0.1), "notify_provider_call_seconds_count", {"provider": "fcm"}, 1),
        (
            lambda: metrics.provider_calls("fcm", [0.1] * 4),
            "notify_provider_call_seconds_count",
            {"provider": "fcm"},
            4,
        ),
        (
            lambda: metrics.provider_results("fcm", "transient", 5, code_class="5xx"),
            "notify_provider_results_total",
            {"provider": "fcm", "outcome": "transient", "code_class": "5xx"},
            5,
        ),
        (lambda: metrics.sms_segments("vonage", 3), "notify_sms_segments_total", {"provider": "vonage"}, 3),
        (lambda: metrics.retried("email", 2), "notify_retries_total", {"channel": "email"}, 2),
        (lambda: metrics.sweep_rung(9), "notify_sweep_rung_total", {}, 9),
        (lambda: metrics.cache_lookup("preferences", 3, 0), "notify_cache_hits_total", {"cache": "preferences"}, 3),
        (lambda: metrics.cache_lookup("preferences", 0, 4), "notify_cache_misses_total", {"cache": "preferences"}, 4),
    ],
)
def test_each_function_grows_its_metric(increase, record, name, labels, amount):
    grown = increase(name, **labels)
    record()
    assert grown() == amount


def samples(text):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def gauge():
    """Registers a gauge for the test's time."""
    names = []

    def register(name, read, labels=()):
        names.append(name)
        metrics.register_gauge(name, "A gauge of the tests.", labels, read)

    yield register
    for name in names:
        metrics.unregister_gauge(name)


def test_the_page_shows_counts_and_gauges(client, gauge):
    gauge("test_queue_age_seconds", lambda: {("high",): 1.5, ("bulk",): 60}, ["lane"])
    client.get("/healthz")
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response["Content-Type"].startswith("text/plain; version=")
    shown = samples(response.content.decode())
    assert shown["test_queue_age_seconds", (("lane", "high"),)] == 1.5
    assert shown["notify_queue_depth", (("queue", "notif.push.high"),)] >= 0
    assert any(name == "http_requests_total" for name, _ in shown)


def test_a_gauge_that_fails_is_left_out_and_counted(client, gauge, increase):
    def fail():
        raise ConnectionError("someone@example.com")

    failures = increase("notify_scrape_errors_total", gauge="test_broken")
    gauge("test_broken", fail)
    gauge("test_fine", lambda: {(): 1})
    shown = samples(client.get("/metrics").content.decode())
    assert ("test_broken", ()) not in shown
    assert shown["test_fine", ()] == 1
    assert failures() == 1
    failures_shown = samples(client.get("/metrics").content.decode())
    assert failures_shown["notify_scrape_errors_total", (("gauge", "test_broken"),)] >= 1


def test_a_gauge_that_hangs_costs_one_thread_however_often_it_is_read(client, gauge):
    release, entered = threading.Event(), []

    def hang():
        entered.append(1)
        release.wait(30)
        return {(): 1}

    gauge("test_hanging", hang)
    try:
        for _ in range(2):
            started = time.monotonic()
            assert client.get("/metrics").status_code == 200
            assert time.monotonic() - started < scrape.GAUGES_DEADLINE_S + 3
        assert entered == [1]
    finally:
        release.set()


def test_a_gauge_without_values_or_with_wrong_labels_breaks_nothing(client, gauge):
    gauge("test_empty", dict)
    gauge("test_mislabelled", lambda: {("a", "b"): 1.0}, ["one"])
    assert client.get("/metrics").status_code == 200


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": "secret-token"}])
def test_with_a_token_set_nobody_else_may_look(client, settings, headers):
    settings.METRICS_TOKEN = "secret-token"
    response = client.get("/metrics", headers=headers)
    assert response.status_code == 401
    assert response["WWW-Authenticate"].startswith("Bearer")


def test_the_token_opens_the_page_from_anywhere(client, settings):
    settings.METRICS_TOKEN = "secret-token"
    response = client.get("/metrics", headers={"authorization": "Bearer secret-token"}, REMOTE_ADDR="203.0.113.5")
    assert response.status_code == 200


@pytest.mark.parametrize(
    "extra", [{"REMOTE_ADDR": "203.0.113.5"}, {"HTTP_X_FORWARDED_FOR": "203.0.113.5"}, {"HTTP_FORWARDED": "for=x"}]
)
def test_without_a_token_only_this_machine_may_look(client, settings, extra):
    settings.METRICS_TOKEN = ""
    assert client.get("/metrics", **extra).status_code == 403


def test_the_page_is_read_only(client):
    assert client.post("/metrics").status_code == 405


# --- several processes ---

_COUNT = """
from apps import metrics
metrics.accepted("push", "high", 5)
metrics.sweep_rung(2)
metrics.accept_to_provider("push", "high", [0.05, 0.4, 99999])
"""
_FORK = """
import os
from apps import metrics
metrics.accepted("push", "high", 1)
for _ in range(2):
    if os.fork() == 0:
        metrics.accepted("push", "high", 10)
        os._exit(0)
os.wait(), os.wait()
"""
_THREADS = """
import threading
from apps import metrics
def work():
    for _ in range(500):
        metrics.accepted("push", "high", 1)
        metrics.accept_to_provider("push", "high", [0.1, 0.2])
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""
ACCEPTED = ("notify_accepted_total", (("channel", "push"), ("lane", "high")))


@pytest.fixture
def directory(tmp_path, monkeypatch):
    path = tmp_path / "metrics"
    path.mkdir()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(path))
    return path


def run(code):
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def collect():
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in scrape.CountCollector().collect()
        for sample in family.samples
    }


def test_the_counts_of_all_processes_are_added_up(directory):
    for _ in range(3):
        run(_COUNT)
    shown = collect()
    assert shown[ACCEPTED] == 15
    assert shown["notify_sweep_rung_total", ()] == 6
    labels = (("channel", "push"), ("lane", "high"))
    assert shown["notify_accept_to_provider_seconds_count", labels] == 9
    assert (
        shown["notify_accept_to_provider_seconds_bucket", (("channel", "push"), ("lane", "high"), ("le", "0.5"))] == 6
    )


def test_forked_children_count_for_themselves(directory):
    run(_FORK)
    assert collect()[ACCEPTED] == 21


def test_threads_lose_no_count(directory):
    run(_THREADS)
    shown = collect()
    assert shown[ACCEPTED] == 4000
    assert shown["notify_accept_to_provider_seconds_count", (("channel", "push"), ("lane", "high"))] == 8000


def test_files_of_the_dead_are_folded_into_one_and_nothing_is_lost(directory):
    expected = None
    for round_ in range(1, 4):
        run(_COUNT)
        shown = collect()
        assert shown[ACCEPTED] == 5 * round_
        assert {path.name for path in directory.glob("*.db")} == {"counter_folded.db", "histogram_folded.db"}
        expected = collect()
        assert expected == shown
    assert expected is not None
    bucket = ("notify_accept_to_provider_seconds_bucket", (("channel", "push"), ("lane", "high"), ("le", "+Inf")))
    assert expected[bucket] == 9


def test_files_of_the_living_are_left_alone(directory):
    code = _COUNT + "\nimport sys; print('ready', flush=True); sys.stdin.read()\nmetrics.accepted('push', 'high', 1)"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        assert collect()[ACCEPTED] == 5
        assert (directory / f"counter_{process.pid}.db").exists()
        process.stdin.close()
        process.wait(timeout=30)
    assert collect()[ACCEPTED] == 6


def test_a_missing_directory_is_made(directory):
    directory.rmdir()
    run(_COUNT)
    assert collect()[ACCEPTED] == 5


def test_this_process_is_used_where_no_directory_is_set(monkeypatch, increase):
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    grown = increase(ACCEPTED[0], channel="push", lane="high")
    metrics.accepted("push", "high", 2)
    assert grown() == 2
    assert ACCEPTED in collect()
    assert os.environ.get("PROMETHEUS_MULTIPROC_DIR") is None

"""A worker is seen to be well, or not to be; and it sweeps when nobody else does."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from django.db import connection
from django_redis import get_redis_connection
from prometheus_client import REGISTRY

from apps.delivery import canary, sweep
from apps.delivery.queues import ALL_QUEUES, RECEIPTS
from apps.delivery.selectors import heartbeat_ages
from notify_project import attendant
from tests.brokers import broker as broker
from tests.waiting import wait_for
from tests.workers import WorkerProcess

ROOT = Path(__file__).resolve().parent.parent.parent


def probe(name, directory):
    done = subprocess.run(
        [sys.executable, "-m", "apps.liveness", name],
        cwd=ROOT,
        env=os.environ | {"WORKER_HEARTBEAT_DIR": str(directory)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return done.returncode, done.stdout.strip()


@pytest.mark.django_db(transaction=True)
def test_a_worker_that_consumes_is_alive_and_one_that_does_not_is_not(broker, tmp_path):
    environment = broker.environment | {"WORKER_HEARTBEAT_DIR": str(tmp_path)}
    with WorkerProcess([RECEIPTS], environment=environment) as worker:
        file = tmp_path / f"{worker.name}.alive"
        wait_for(file.exists, worker.tail)
        assert probe(worker.name, tmp_path) == (0, f"worker {worker.name} consumes")
        first = file.stat().st_mtime
        # Its own canary comes back through the broker, and only a canary that was consumed renews the file.
        wait_for(lambda: file.stat().st_mtime > first, worker.tail, timeout_s=40)
        worker.terminate()
        assert worker.wait() == 0
        assert not file.exists()


def test_the_probe_tells_how_long_it_has_been(tmp_path):
    code, line = probe("high", tmp_path)
    assert (code, "has started here" in line) == (1, True)
    file = tmp_path / "high.alive"
    file.touch()
    assert probe("high", tmp_path) == (0, "worker high consumes")
    long_ago = time.time() - 47
    os.utime(file, (long_ago, long_ago))
    code, line = probe("high", tmp_path)
    assert code == 1
    assert line.startswith("worker high has consumed nothing for 47 s")


@pytest.fixture
def life(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKER_HEARTBEAT_DIR", str(tmp_path))
    return tmp_path / "x.alive"


def test_only_what_was_consumed_counts(monkeypatch, life):
    monkeypatch.setattr(attendant, "ring", lambda *message: True)  # the broker takes everything
    one = attendant.Attendant("x")
    one._show_life()
    assert life.exists()
    life.unlink()
    one._show_life()
    assert not life.exists()
    one.note_task()
    one._show_life()
    assert life.exists()


def test_a_broker_that_is_away_is_not_the_workers_fault(monkeypatch, life):
    monkeypatch.setattr(attendant, "ring", lambda *message: False)  # what it answers then
    one = attendant.Attendant("x")
    one._show_life()
    life.unlink()
    one._next_canary = 0.0
    one._show_life()
    assert life.exists()


def age_beat(seconds):
    with connection.cursor() as cursor:
        cursor.execute("UPDATE heartbeat SET finished_at = now() - make_interval(secs => %s)", [seconds])


@pytest.mark.django_db
def test_workers_sweep_only_while_beat_is_away(monkeypatch):
    sweeps = []
    monkeypatch.setattr(sweep, "sweep", lambda: sweeps.append(1))
    assert not sweep.stand_in_for_beat(is_patient=True)  # it may not have begun yet
    sweep.sweep_for_beat()
    assert not sweep.stand_in_for_beat(is_patient=False)
    age_beat(11)
    assert sweep.stand_in_for_beat(is_patient=False)
    assert not sweep.stand_in_for_beat(is_patient=False)  # one of all workers, once a second
    age_beat(11)
    assert sweep.stand_in_for_beat(is_patient=False)
    assert len(sweeps) == 3
    sweep.sweep_for_beat()
    assert not sweep.stand_in_for_beat(is_patient=False)


@pytest.mark.parametrize("broker", ["valkey"], indirect=True)
@pytest.mark.django_db(transaction=True)
def test_a_worker_sweeps_within_seconds_although_there_is_no_beat(broker):
    with WorkerProcess([RECEIPTS], environment=broker.environment) as worker:
        age = wait_for(lambda: heartbeat_ages("sweep"), worker.tail)
        assert age[()] < 5
        worker.wait_for_line(lambda line: line["event"] == "standing_in_for_beat")


@pytest.mark.django_db
def test_canaries_measure_every_queue(broker, increase_of_latency):
    canary.ring_canaries()
    for queue in ALL_QUEUES:
        (rung_for,) = broker.take(queue)
        assert rung_for == queue
        canary.hear(queue, time.time() - 3)
        assert increase_of_latency(queue) == (1, pytest.approx(3, abs=1))


@pytest.fixture
def increase_of_latency():
    def read(queue):
        name = "notify_queue_latency_seconds"
        return tuple(REGISTRY.get_sample_value(f"{name}_{part}", {"queue": queue}) or 0.0 for part in ("count", "sum"))

    before = {queue: read(queue) for queue in ALL_QUEUES}
    return lambda queue: tuple(now - then for now, then in zip(read(queue), before[queue], strict=True))


def test_a_queue_nobody_hears_is_named():
    get_redis_connection("default").flushdb()
    now = time.time()
    canary.hear("notif.sms.high", now)
    depths = {"notif.sms.high": 5.0, "notif.push.high": 2.0}
    assert canary.find_silent(depths, now_s=now + 10) == {}
    assert list(canary.find_silent(depths, now_s=now + 90)) == ["notif.sms.high"]
    assert canary.find_silent({"notif.email.high": 3.0}, now_s=now) == {"notif.email.high": None}

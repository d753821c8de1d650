"""The simulation against queueing theory."""

import random
import statistics
from dataclasses import replace

import pytest

from benchmarks.simulate import Setting, arrivals, erlang_c_wait_s, serve, simulate, summarise

SETTING = Setting(
    high_per_s=20.0,
    bulk_per_s=1_000.0,
    high_service_s=0.002,
    bulk_service_s=0.2,
    high_workers=2,
    bulk_workers=2,
    minutes=20,
    spike_minutes=(2, 5),
)


@pytest.fixture(scope="module")
def jobs():
    return simulate(SETTING, has_lanes=True)


def waits(per_s, service_s, workers, count=60_000):
    dice = random.Random(7)
    at, waiting = 0.0, []
    for _ in range(count):
        at += dice.expovariate(per_s)
        waiting.append((at, "high"))
    return [job.started - job.arrived for job in serve(waiting, workers, {"high": service_s}, seed=11)]


def test_erlang_c_of_one_worker_is_the_textbooks():
    # M/M/1 at 80 % load: ρ / (1 - ρ) × service time
    assert erlang_c_wait_s(8.0, 0.1, 1) == pytest.approx(0.8 / 0.2 * 0.1)


@pytest.mark.parametrize(("per_s", "service_s", "workers"), [(8.0, 0.1, 1), (14.0, 0.1, 2), (68.0, 0.1, 8)])
def test_the_mean_wait_is_that_of_theory(per_s, service_s, workers):
    assert statistics.fmean(waits(per_s, service_s, workers)) == pytest.approx(
        erlang_c_wait_s(per_s, service_s, workers), rel=0.12
    )


def test_ten_times_as_many_arrive_in_the_spike():
    moments = list(arrivals(50.0, SETTING, random.Random(3)))
    inside = sum(120.0 <= at < 300.0 for at in moments)
    assert inside / 180.0 == pytest.approx(500.0, rel=0.03)
    assert (len(moments) - inside) / (SETTING.minutes * 60 - 180.0) == pytest.approx(50.0, rel=0.03)


def test_a_spike_of_bulk_does_not_touch_a_lane_of_its_own(jobs):
    with_lanes = summarise(jobs, SETTING)
    without = summarise(simulate(SETTING, has_lanes=False), SETTING)
    assert with_lanes["p99_in_spike_s"]["high"] < 0.05
    assert without["p99_in_spike_s"]["high"] > 10
    assert with_lanes["most_queued"]["bulk"] > 100_000
    assert 5 < with_lanes["caught_up_minute"]["bulk"] < SETTING.minutes


def test_the_backlog_is_what_came_less_what_could_be_done(jobs):
    found = summarise(jobs, SETTING)
    came, done = SETTING.bulk_per_s * 10 * 180, SETTING.bulk_workers / SETTING.bulk_service_s * 500 * 180
    assert found["most_queued"]["bulk"] == pytest.approx(came - done, rel=0.1)


def test_the_same_seed_gives_the_same_figures(jobs):
    assert simulate(SETTING, has_lanes=True) == jobs
    assert simulate(replace(SETTING, seed=2), has_lanes=True) != jobs

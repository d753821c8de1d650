"""apps/yielding.py, with a real Valkey between those who tell and those who hear."""

import os
import subprocess
import sys
import time

import pytest
from django_redis import get_redis_connection
from pytest_django import Settings

from apps import metrics, redis_script, yielding
from apps.quickest import Quickest
from apps.yielding import HIGH_STRAIN, KEY, STEP_DOWN, STEP_UP, TELL_S, TOLD_FOR_MS, Pace, Strain

MOST = 16.0


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    settings.BROADCAST_YIELD = MOST
    monkeypatch.setattr(redis_script, "availability", redis_script.Availability())
    monkeypatch.setattr(yielding, "_strain", Strain())
    monkeypatch.setattr(yielding, "_pace", Pace())
    get_redis_connection("default").delete(KEY)


def use_cpu(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def pause_after(seconds: float) -> float:
    with yielding.yielding():
        use_cpu(seconds)
        return yielding.pause_s()


class TestQuickest:
    def test_is_the_smallest_of_late(self) -> None:
        quickest = Quickest(10.0)
        for now, value in enumerate([3.0, 2.0, 5.0]):
            quickest.learn(value, float(now))
        assert quickest.value == 2.0

    def test_forgets_after_one_or_two_spans(self) -> None:
        quickest = Quickest(10.0)
        quickest.learn(1.0, 0.0)
        quickest.learn(4.0, 12.0)
        assert quickest.value == 1.0
        quickest.learn(5.0, 23.0)
        assert quickest.value == 4.0


class TestStrain:
    def test_is_how_much_longer_than_the_quickest_it_takes_of_late(self) -> None:
        strain = Strain()
        for number in range(100):
            strain.note("push", 0.002, number * 0.05)
        told = [strain.note("push", 0.006, 5.0 + number * 0.05) for number in range(100)]
        assert [each for each in told if each is not None][-1] == pytest.approx(3.0, rel=0.01)

    def test_one_slow_one_is_no_strain(self) -> None:
        strain = Strain()
        for number in range(20):
            strain.note("push", 0.002, number * 0.05)
        told = strain.note("push", 0.01, 20 * 0.05 + TELL_S)
        assert told is not None
        assert told < HIGH_STRAIN

    def test_each_kind_is_held_to_its_own(self) -> None:
        strain = Strain()
        strain.note("push", 0.002, 1.0)
        assert strain.note("email", 0.02, 1.0 + TELL_S) == pytest.approx(1.0)

    def test_is_told_at_intervals(self) -> None:
        strain = Strain()
        told = [strain.note("push", 0.002, 1.0 + number * TELL_S / 5) for number in range(21)]
        assert len([each for each in told if each is not None]) == 5

    def test_of_long_ago_says_nothing(self) -> None:
        strain = Strain()
        strain.note("push", 0.001, 0.0)
        for number in range(50):
            strain.note("push", 0.008, number * 0.1)
        assert strain.note("push", 0.001, 6.0 + TOLD_FOR_MS / 1000) == pytest.approx(1.0)


class TestPace:
    def test_slows_down_fast_and_recovers_slowly(self) -> None:
        pace = Pace()
        for _ in range(200):
            pace.learn(1.2)
        assert pace._multiple == 0.0
        pace.learn(HIGH_STRAIN + 0.1)
        assert pace._multiple == STEP_UP
        pace.learn(1.2)
        assert pace._multiple == STEP_UP - STEP_DOWN
        for _ in range(100):
            pace.learn(9.0)
        assert pace._multiple == MOST


def test_a_broadcast_pauses_in_proportion_to_its_work_while_the_urgent_suffer() -> None:
    yielding.note_urgent("push", 0.002)
    pauses = [pause_after(seconds) for seconds in (0.001, 0.002)]
    assert 0.001 * MOST * 0.8 < pauses[0] < pauses[1] <= yielding.MOST_PAUSE_S


def test_the_transport_needs_no_settings_of_django() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    program = "from apps import yielding; import apps.providers.transport; print(yielding.pause_s())"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "0.0\n"


def test_nobody_pauses_without_anything_urgent() -> None:
    assert pause_after(0.002) == 0.0


def test_what_is_told_is_soon_forgotten() -> None:
    yielding.note_urgent("push", 0.002)
    assert 0 < get_redis_connection("default").pttl(KEY) <= TOLD_FOR_MS


def test_strain_and_pauses_are_there_to_be_seen() -> None:
    assert yielding.strain_now() == {}
    yielding.note_urgent("push", 0.002)
    assert yielding.strain_now() == {(): 1.0}
    before = metrics.BROADCAST_PAUSES._value.get()
    paused_s = pause_after(0.001)
    assert metrics.BROADCAST_PAUSES._value.get() - before == pytest.approx(paused_s)


def test_only_what_can_wait_pauses() -> None:
    yielding.note_urgent("push", 0.002)
    assert pause_after(0.001) > 0
    use_cpu(0.001)
    assert yielding.pause_s() == 0.0


def test_can_be_turned_off(settings: Settings) -> None:
    settings.BROADCAST_YIELD = 0
    yielding.note_urgent("push", 0.002)
    assert pause_after(0.002) == 0.0


def test_nobody_pauses_while_the_cache_is_away(settings: Settings) -> None:
    settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": "redis://127.0.0.1:1/0"}}
    yielding.note_urgent("push", 0.002)
    assert pause_after(0.002) == 0.0

"""The benchmarks' own instruments."""

import os
import subprocess
import sys
import time

import pytest

from benchmarks import results
from benchmarks.accounting import Meter, cpu_seconds, peak_bytes, reset_peaks
from benchmarks.people import token_of
from benchmarks.starting_line import Contestant

BURN = "import time\nwhile time.process_time() < 0.3: pass\n"
ECHO = "from benchmarks.starting_line import run_when_told\nrun_when_told(lambda order: {'got': order})\n"


def test_a_child_that_has_ended_counts_with_its_parent():
    parent = (
        f"import subprocess, sys, time\nsubprocess.run([sys.executable, '-c', {BURN!r}])\nprint(1, flush=True)\ninput()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "1\n"
        assert cpu_seconds([process.pid]) >= 0.3
        process.communicate("\n")


def test_a_meter_reads_what_was_used_since_it_was_made():
    meter = Meter(lambda: {"own": [os.getpid()], "gone": [999_999_999]})
    before = time.process_time()
    while time.process_time() - before < 0.2:
        pass
    usage = meter.read()
    assert usage.groups["own"] == pytest.approx(0.2, abs=0.1)
    assert usage.groups["gone"] == 0.0
    per_item = usage.per_item_us(100)
    assert per_item["all"] == pytest.approx(per_item["own"])
    assert per_item["own"] == pytest.approx(usage.groups["own"] / 100 * 1e6, abs=0.1)


def test_the_peak_of_memory_is_the_highest_since_the_reset():
    waste = (
        "data = bytearray(b'x' * 80_000_000)\ndel data\nprint(1, flush=True)\ninput()\nprint(2, flush=True)\ninput()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", waste], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        process.stdout.readline()
        assert peak_bytes([process.pid])[process.pid] > 80_000_000
        reset_peaks([process.pid])
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        assert peak_bytes([process.pid])[process.pid] < 80_000_000
        process.communicate("\n")


def test_a_contestant_works_when_told_and_ends_with_its_input(tmp_path):
    with Contestant([sys.executable, "-c", ECHO], env=dict(os.environ), log=tmp_path / "log") as contestant:
        assert contestant.run(step="prepare", count=3) == {"got": {"step": "prepare", "count": 3}}
        assert contestant.run(step="go") == {"got": {"step": "go"}}
    assert contestant._process.returncode == 0


def test_a_contestant_that_dies_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="ended with 3"):
        Contestant(
            [sys.executable, "-c", "raise SystemExit(3)"], env=dict(os.environ), log=tmp_path / "log"
        ).__enter__()


def test_ratios_are_taken_round_by_round():
    assert results.ratio([10.0, 30.0, 8.0], [10.0, 20.0, 10.0]) == {
        "median": 1.0,
        "low": 0.8,
        "high": 1.5,
        "rounds": [1.0, 1.5, 0.8],
    }


def test_percentiles_are_values_that_occurred():
    assert results.percentiles(float(n) for n in range(1, 101)) == {"p50": 50.0, "p95": 95.0, "p99": 99.0, "max": 100.0}
    assert results.percentiles([]) == {}


@pytest.mark.parametrize(
    ("value", "bounds", "holds"),
    [(0.8, {"at_least": 0.8}, True), (0.79, {"at_least": 0.8}, False), (1.3, {"at_most": 1.2}, False)],
)
def test_a_claim_holds_or_does_not(value, bounds, holds):
    assert results.claim("x", value, **bounds)["holds"] is holds


def test_only_what_must_hold_decides_the_exit_code():
    aim = results.claim("x", 2.0, at_most=1.0, is_aim=True)
    assert results.exit_code([aim]) == 0
    assert results.exit_code([aim, results.claim("x", 2.0, at_most=1.0)]) == 1


def test_a_result_survives_being_written(tmp_path):
    results.write("x", {"ratio": 0.8, "what": "µs"}, folder=tmp_path)
    assert results.read("x", folder=tmp_path) == {"ratio": 0.8, "what": "µs"}
    assert results.read("never", folder=tmp_path) == {}


def test_tokens_are_long_and_distinct():
    assert len({token_of(number) for number in range(1_000)}) == 1_000
    assert 100 < len(token_of(1)) < 200

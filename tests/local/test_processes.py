import json
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from notify_project.local import processes
from notify_project.local.errors import LocalError

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
PARENT = """
import sys, time
from pathlib import Path
from notify_project.local.processes import spawn
child = "import time; print('up', flush=True); time.sleep(60)"
print(spawn([sys.executable, "-c", child], log=Path(sys.argv[1])).pid, flush=True)
time.sleep(60)
"""


def wait_for(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "condition not met in time"
        time.sleep(0.01)


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


def test_process_that_ignores_sigterm_is_killed_after_the_grace(log):
    process = processes.spawn([sys.executable, "-c", STUBBORN], log=log)
    wait_for(lambda: "up" in log.read_text())
    assert processes.stop(process, grace_s=0.2) == -signal.SIGKILL


def test_stop_takes_the_processes_that_the_process_started(log):
    script = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {STUBBORN!r}]).pid, flush=True)"
    process = processes.spawn([sys.executable, "-c", script], log=log)
    wait_for(lambda: "up" in log.read_text())
    grandchild = psutil.Process(int(log.read_text().split()[0]))
    processes.stop(process)
    wait_for(lambda: not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="no setpriv: children outlive a killed parent here")
def test_child_dies_with_a_killed_parent(log):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(log)], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(parent.stdout.readline()))
    wait_for(lambda: "up" in log.read_text())  # before that its wish to die with the parent may not be known yet
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_recorded_process_of_an_earlier_run_is_stopped(tmp_path, log):
    process = processes.spawn(["sleep", "60"], log=log)
    processes.record_pid(tmp_path / "pid", process)
    processes.stop_recorded(tmp_path / "pid", sig=signal.SIGTERM)
    process.wait(5)
    assert not psutil.pid_exists(process.pid)
    assert not (tmp_path / "pid").exists()


def test_pid_that_now_belongs_to_another_process_is_left_alone(tmp_path, log):
    process = processes.spawn(["sleep", "60"], log=log)
    (tmp_path / "pid").write_text(json.dumps({"pid": process.pid, "created": time.time() - 1000}))
    processes.stop_recorded(tmp_path / "pid", sig=signal.SIGKILL)
    assert process.poll() is None
    processes.stop(process)


@pytest.mark.parametrize("content", ["", "x", "{}", '{"pid": 1}', '{"pid": "x", "created": 0}'])
def test_broken_pid_file_is_no_obstacle(tmp_path, content):
    (tmp_path / "pid").write_text(content)
    processes.stop_recorded(tmp_path / "pid", sig=signal.SIGKILL)


def test_end_at_start_is_told_with_the_reason(log):
    process = processes.spawn([sys.executable, "-c", "import nowhere"], log=log)
    with pytest.raises(LocalError, match=r"Store ended at start \(exit code 1\): ModuleNotFoundError: .*'nowhere'"):
        processes.wait_until(lambda: False, process=process, name="Store", log=log, timeout_s=20)


def test_command_that_fails_is_told_with_the_reason():
    with pytest.raises(LocalError, match="migrate failed: ValueError: no"):
        processes.run_to_end([sys.executable, "-c", "raise ValueError('no')"], what="migrate", timeout_s=20)


def test_command_that_hangs_is_ended():
    with pytest.raises(LocalError, match="migrate did not end within 0 s"):
        processes.run_to_end(["sleep", "60"], what="migrate", timeout_s=0.2)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("", "no output"),
        ("one\ntwo\n\n", "two"),
        ("Traceback\n  File\nmodule.KeyError: 'x'\nshutting down", "module.KeyError: 'x'"),
        ('{"level":"error","event":"e","exception":"Traceback\\n  f\\nValueError: v"}\nbye', "ValueError: v"),
        ("LOG: x\nFATAL: no space\nLOG: database system is shut down", "FATAL: no space"),
        ("a " * 400, "a " * 149 + "…"),
    ],
)
def test_reason_is_found_in_a_log(output, expected):
    assert processes.last_text(output) == expected


def test_environment_of_a_child_is_the_given_one(log):
    process = processes.spawn([sys.executable, "-c", "import os; print(sorted(os.environ))"], log=log, env={"A": "1"})
    assert process.wait(20) == 0
    assert "'A'" in log.read_text()
    assert "PATH" not in log.read_text() or "PATH" not in os.environ

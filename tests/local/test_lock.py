import os
import signal
import subprocess
import sys
import threading

import pytest

from notify_project.local.errors import LocalError
from notify_project.local.lock import RunLock, read_holder, stop_holder

HOLD = """
import signal, sys
from pathlib import Path
from notify_project.local.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
lock.acquire()
signal.signal(signal.SIGTERM, lambda *_: (lock.announce_stop(), lock.release(), sys.exit()))
print("held", flush=True)
signal.pause()
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.lock"


@pytest.fixture
def holder(path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_second_run_is_refused_with_the_pid_of_the_first(path, holder):
    with pytest.raises(LocalError, match=rf"running already.*process {holder.pid}"):
        RunLock(path).acquire()


def test_lock_of_a_killed_run_is_free(path, holder):
    holder.kill()
    holder.wait()
    lock = RunLock(path)
    lock.acquire()
    assert read_holder(path) == (os.getpid(), "")
    lock.release()


def test_successor_waits_for_a_run_that_is_stopping(path):
    first, second = RunLock(path), RunLock(path)
    first.acquire()
    first.announce_stop()
    successor = threading.Thread(target=second.acquire)
    successor.start()
    first.release()
    successor.join(10)
    assert not successor.is_alive()
    second.release()


def test_down_stops_the_holder(path, holder):
    assert stop_holder(path)
    assert holder.wait(5) == 0


def test_down_without_a_run_does_nothing(path):
    assert not stop_holder(path)
    RunLock(path)._file.close()
    path.write_text(str(os.getppid()))  # of a run long gone; the PID is someone else's
    assert not stop_holder(path)
    assert signal.getsignal(signal.SIGTERM) is not None

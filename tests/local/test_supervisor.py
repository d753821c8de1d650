import os
import re
import signal
import sys

import psutil
import pytest

from notify_project.local.errors import LocalError
from notify_project.local.supervisor import Program, Supervisor, trim_log
from tests.local.test_processes import STUBBORN, wait_for


@pytest.fixture
def lines():
    return []


@pytest.fixture
def supervisor(lines):
    supervisor = Supervisor(say=lines.append)
    supervisor.watch()
    yield supervisor
    supervisor.stop(supervisor.names(), grace_s=0)
    supervisor.close()


@pytest.fixture
def make_program(tmp_path):
    def make(name, *argv):
        return Program(argv, env=os.environ, cwd=tmp_path, log=tmp_path / f"{name}.log", pid_file=tmp_path / name)

    return make


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
def test_killed_program_comes_back_and_says_so(supervisor, make_program, lines, sig):
    supervisor.start("sleeper", make_program("sleeper", "sleep", "60"))
    first = supervisor.pid("sleeper")
    supervisor.kill("sleeper", sig)
    wait_for(lambda: supervisor.pid("sleeper") not in {None, first})
    assert re.match(rf"sleeper ended \(killed by {sig.name}\), starting it again in 0.5 s; log: ", lines[0])


def test_program_that_keeps_failing_is_tried_ever_more_slowly(supervisor, make_program, lines):
    supervisor.start("broken", make_program("broken", sys.executable, "-c", "raise SystemExit('no such setting')"))
    wait_for(lambda: len(lines) == 3)
    assert [re.search(r"in ([\d.]+) s", line)[1] for line in lines] == ["0.5", "1", "2"]
    with pytest.raises(LocalError, match="broken does not start: no such setting"):
        supervisor.check_alive()


def test_stopped_program_stays_down_until_resumed(supervisor, make_program):
    supervisor.start("sleeper", make_program("sleeper", "sleep", "60"))
    supervisor.stop(["sleeper"], grace_s=5)
    assert supervisor.pid("sleeper") is None
    supervisor.resume("sleeper")
    assert supervisor.pid("sleeper") is not None


def test_stop_waits_for_all_at_once(supervisor, make_program, tmp_path):
    for name in ("a", "b", "c"):
        supervisor.start(name, make_program(name, sys.executable, "-c", STUBBORN))
    wait_for(lambda: all("up" in (tmp_path / f"{name}.log").read_text() for name in "abc"))
    pids = [supervisor.pid(name) for name in "abc"]
    supervisor.stop("abc", grace_s=0.3)
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_program_left_by_a_killed_run_is_replaced(supervisor, make_program):
    left = make_program("sleeper", "sleep", "60")
    left.launch()
    supervisor.start("sleeper", make_program("sleeper", "sleep", "60"))
    left.process.wait(5)
    assert not psutil.pid_exists(left.process.pid)


def test_log_over_the_limit_is_put_aside_once(tmp_path):
    log = tmp_path / "web.log"
    for content in ("first", "second"):
        log.write_text(content * 10)
        trim_log(log, limit_bytes=20)
    assert log.read_text() == ""
    assert (tmp_path / "web.log.1").read_text() == "second" * 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["web.log", "web.log.1"]

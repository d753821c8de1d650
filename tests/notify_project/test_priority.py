"""What ``give_way`` changes, seen from the kernel."""

import subprocess
import sys
from pathlib import Path

SWITCH = Path("/proc/sys/kernel/sched_autogroup_enabled")
PROGRAM = """
import os
from notify_project.priority import AUTOGROUP, give_way
give_way(7)
print(os.nice(0), AUTOGROUP.read_text().split()[-1] if AUTOGROUP.exists() else "")
"""


def test_process_and_its_session_give_way() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], start_new_session=True, capture_output=True, text=True, check=True
    )
    nice, *session = done.stdout.split()
    assert nice == "7"
    if SWITCH.exists() and SWITCH.read_text().strip() == "1":
        assert session == ["7"]

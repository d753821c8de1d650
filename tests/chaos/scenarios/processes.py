"""Processes of the platform that die, or are asked to stop."""

import time

from notify_project.local import roles
from tests.chaos import faults
from tests.chaos.run import Run, Scenario

SOFT_STOP_S = 45.0  # CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT and some more


def kill_workers(run: Run) -> None:
    while run.has_time:
        run.broadcast()
        run.pause(3.0, 6.0)
        run.kill_worker(run.dice.choice([roles.HIGH, roles.BULK, roles.BULK, roles.HOUSEKEEPING]))


def kill_web(run: Run) -> None:
    while run.has_time:
        run.pause(2.0, 5.0)
        with run.broken("SIGKILL of web"):
            faults.kill_now(run.rig, roles.WEB)
            run.rig.stack.start_role(roles.WEB)
            faults.wait_until_up(run.rig, roles.WEB)


def restart_everything(run: Run) -> None:
    """As a deployment does: one role after the other, SIGTERM, and as long as it takes."""
    slowest_s = 0.0
    while run.has_time:
        run.broadcast()
        for role in (roles.WEB, roles.HIGH, roles.BULK, roles.HOUSEKEEPING, roles.BEAT):
            run.pause(1.0, 2.0)
            with run.broken(f"restart of {role}"):
                began = time.monotonic()
                run.rig.stack.stop_role(role, grace_s=SOFT_STOP_S)
                slowest_s = max(slowest_s, time.monotonic() - began)
                run.rig.stack.start_role(role)
                if role == roles.WEB:
                    faults.wait_until_up(run.rig, role)
    run.notes["slowest_stop_s"] = round(slowest_s, 1)
    run.expect(slowest_s < SOFT_STOP_S, f"a role had to be killed, as it did not stop within {SOFT_STOP_S:.0f} s")


def skew_clocks(run: Run) -> None:
    """One of two bulk workers lives ten minutes ahead, the other as far behind; both are killed now and then."""
    while run.has_time:
        run.pause(4.0, 8.0)
        run.kill_worker(roles.BULK)


SCENARIOS = (
    Scenario(number=1, name="kill-workers", title="SIGKILL of random workers", act=kill_workers, seconds=40),
    Scenario(number=2, name="kill-web", title="SIGKILL of web", act=kill_web, seconds=25),
    Scenario(
        number=8,
        name="skewed-clocks",
        title="Clock of one worker 10 min ahead, of another 10 min behind",
        act=skew_clocks,
        rig="skewed",
        seconds=25,
    ),
    Scenario(number=12, name="rolling-restart", title="Rolling SIGTERM restart", act=restart_everything, seconds=30),
)

"""The harness must see what it is there to see: a platform with a part torn out fails it."""

from collections.abc import Callable

import pytest

from notify_project.local import roles
from tests.chaos import faults
from tests.chaos.client import Load
from tests.chaos.rig import Rig, RigOptions
from tests.chaos.run import Run, Scenario, execute
from tests.chaos.scenarios.stores import double_messages

SENDERS = (roles.HIGH, roles.BULK)
PEOPLE = 100


def lose_doorbells(run: Run) -> None:
    """Nobody is there to hear the doorbells, and then they are gone."""
    for role in SENDERS:
        run.rig.stack.stop_role(role)
    run.pause(2.0)
    faults.empty_broker(run.rig)
    for role in SENDERS:
        run.rig.stack.start_role(role)


def make_scenario(act: Callable[[Run], None]) -> Scenario:
    load = Load(singles_per_s=20, batches_per_s=0, streams=0)
    return Scenario(number=0, name="sabotaged", title="", act=act, seconds=6.0, settle_s=20.0, load=load)


@pytest.fixture
def run_sabotaged(tmp_path):
    """Runs a scenario on a stack whose workers lack a part."""

    def run(part: str, act: Callable[[Run], None]):
        torn = {"DJANGO_SETTINGS_MODULE": "tests.chaos.sabotage.settings", "CHAOS_SABOTAGE": part}
        options = RigOptions(
            broker="valkey", home=tmp_path, people=PEOPLE, role_settings=dict.fromkeys(roles.WORKER_ROLES, torn)
        )
        with Rig(options) as rig:
            return execute(make_scenario(act), rig, tmp_path / "run", seed="harness")

    return run


def test_without_the_sweep_losses_are_reported(run_sabotaged):
    verdict = run_sabotaged("sweep", lose_doorbells)
    assert verdict.tally.lost > 0
    assert verdict.tally.stuck >= verdict.tally.lost
    assert {breach.partition(":")[0] for breach in verdict.breaches} == {"lost", "stuck"}


def test_without_the_claim_duplicates_are_reported(run_sabotaged):
    verdict = run_sabotaged("claim", double_messages)
    assert verdict.tally.duplicates > 0
    assert any(breach.startswith("duplicates: ") for breach in verdict.breaches)


def test_with_all_its_parts_the_platform_passes_both(tmp_path):
    with Rig(RigOptions(broker="valkey", home=tmp_path, people=PEOPLE)) as rig:
        for number, act in enumerate((lose_doorbells, double_messages)):
            verdict = execute(make_scenario(act), rig, tmp_path / f"run-{number}", seed="harness")
            assert verdict.breaches == ()

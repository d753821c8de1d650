"""The short selection of the fault suite, part of ``make check``: some scenarios on one stack for each broker.

All limits hold but those of time, which are for a machine that does nothing else (``make chaos``).
"""

import os
from dataclasses import replace

import pytest

from notify_project.local.errors import LocalError
from notify_project.local.rabbitmq import RabbitMQ
from tests.chaos.client import Load
from tests.chaos.rig import Rig, RigOptions
from tests.chaos.run import execute
from tests.chaos.scenarios import find_scenario

SHORT = {
    "valkey": ("kill-workers", "broker-away", "database-crash"),
    "rabbitmq": ("kill-workers", "broker-away", "rolling-restart"),
}
SCALE = 0.2
LEASE_S = "10"  # so that the rows of a killed worker come back within seconds
LOAD = Load(singles_per_s=10, batches_per_s=1, batch_size=50)


@pytest.fixture(params=["valkey", "rabbitmq"])
def broker(request, tmp_path):
    """Where there is no RabbitMQ its turn is left out; in CI that is a failure."""
    if request.param == "rabbitmq":
        try:
            RabbitMQ(tmp_path / "probe")
        except LocalError as error:
            if "CI" in os.environ:
                raise
            pytest.skip(str(error))
    return request.param


def test_nothing_is_lost(broker, tmp_path):
    options = RigOptions(broker=broker, home=tmp_path, people=200, settings={"DELIVERY_LEASE_S": LEASE_S})
    breaches = {}
    with Rig(options) as rig:
        for name in SHORT[broker]:
            scenario = find_scenario(name)
            limits = replace(scenario.limits, answer_p99_ms=None, recovery_s=None)
            short = replace(scenario, load=LOAD, limits=limits)
            rig.stack.wait_ready()
            verdict = execute(short, rig, tmp_path / name, seed="short", scale=SCALE)
            if verdict.breaches:
                breaches[name] = (verdict.breaches, verdict.tally.examples)
    assert breaches == {}

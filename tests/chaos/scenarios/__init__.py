"""What is done to the platform, by number."""

from tests.chaos.run import Scenario
from tests.chaos.scenarios import poison, processes, providers, stores

SCENARIOS: tuple[Scenario, ...] = tuple(
    sorted(
        (*poison.SCENARIOS, *processes.SCENARIOS, *providers.SCENARIOS, *stores.SCENARIOS),
        key=lambda scenario: scenario.number,
    )
)


def find_scenario(name: str) -> Scenario:
    """By its name or its number; raises ``KeyError``."""
    for scenario in SCENARIOS:
        if name in (scenario.name, str(scenario.number)):
            return scenario
    raise KeyError(name)

"""What the tests of logs and metrics share."""

import json
from collections.abc import Callable

import pytest
from prometheus_client import REGISTRY


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[dict]]:
    """The log lines written since the last call, parsed."""
    capsys.readouterr()
    return lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.fixture
def increase() -> Callable[..., Callable[[], float]]:
    """``increase(name, **labels)`` begins to watch a metric; calling what it returns says by how much it has grown."""

    def watch(name: str, **labels: str) -> Callable[[], float]:
        before = REGISTRY.get_sample_value(name, labels) or 0.0
        return lambda: (REGISTRY.get_sample_value(name, labels) or 0.0) - before

    return watch

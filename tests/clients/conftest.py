"""A process that remembers nothing of the test before."""

import pytest

from apps import rate_limit, redis_script
from apps.clients import selectors, services


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_script, "availability", redis_script.Availability())
    monkeypatch.setattr(rate_limit, "_local", rate_limit._LocalBuckets())
    selectors.forget_credentials()
    services._recorded_uses.clear()

"""A process that remembers no credential of the test before."""

import pytest

from apps.clients import selectors, services


@pytest.fixture(autouse=True)
def _forget_credentials() -> None:
    selectors.forget_credentials()
    services._recorded_uses.clear()

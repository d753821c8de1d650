from collections.abc import Iterator

import pytest
from django_redis import get_redis_connection
from redis import Redis

from apps.preferences import cache, catalogue


@pytest.fixture(autouse=True)
def redis() -> Iterator[Redis]:
    """The cache's Redis, empty, and known to be there."""
    connection = get_redis_connection("default")
    connection.flushdb()
    cache.availability.reset()
    yield connection
    connection.flushdb()
    cache.availability.reset()


@pytest.fixture(autouse=True)
def _forget_categories() -> Iterator[None]:
    """What a test did to the categories was rolled back; the process must not remember it."""
    catalogue.forget_categories()
    yield
    catalogue.forget_categories()

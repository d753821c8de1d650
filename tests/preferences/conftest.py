from collections.abc import Iterator

import pytest
from django_redis import get_redis_connection
from redis import Redis

from apps.preferences import cache


@pytest.fixture(autouse=True)
def redis() -> Iterator[Redis]:
    """The cache's Redis, empty, and known to be there."""
    connection = get_redis_connection("default")
    connection.flushdb()
    cache.availability.reset()
    yield connection
    connection.flushdb()
    cache.availability.reset()

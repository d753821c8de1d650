"""The stores behind the test suite and behind ``make run``."""

import pytest
import redis
from django.conf import settings
from django.core.cache import cache
from django.db import connection
from kombu import Connection


@pytest.mark.django_db
def test_database_is_postgresql_18():
    with connection.cursor() as cursor:
        cursor.execute("SHOW server_version_num")
        assert cursor.fetchone()[0].startswith("18")


def test_broker_refuses_writes_rather_than_drop_messages():
    with redis.Redis.from_url(settings.CELERY_BROKER_URL) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_broker_and_cache_are_two_servers():
    assert settings.CACHES["default"]["LOCATION"] != settings.CELERY_BROKER_URL
    cache.set("tests:services", 1, timeout=5)
    with redis.Redis.from_url(settings.CELERY_BROKER_URL) as broker:
        assert not broker.exists(":1:tests:services")
    assert cache.get("tests:services") == 1


def test_rabbitmq_node_takes_messages(rabbitmq_url):
    with Connection(rabbitmq_url) as broker, broker.SimpleQueue("tests.services") as queue:
        queue.put({"n": 1})
        assert queue.get(timeout=5).payload == {"n": 1}

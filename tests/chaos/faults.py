"""Breaking things, and bringing them back: real signals, real servers."""

import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import kombu
import psutil
import psycopg
import redis
from celery import Celery

from apps.delivery.queues import ALL_QUEUES, queue_of
from notify_project.local import roles
from tests.chaos.rig import HarnessError, Rig, wait_for

BACK_TIMEOUT_S = 90.0


# --- processes --------------------------------------------------------------------------------------------------------
def kill_now(rig: Rig, role: str) -> None:
    """SIGKILL to a role's processes with all their children; returns when they are gone, and they stay away."""
    pids = set(rig.stack.pids()[role])
    rig.stack.kill(role, signal.SIGKILL)
    if not wait_for(lambda: not pids & set(rig.stack.pids()[role]), timeout_s=10, poll_s=0.005):
        raise HarnessError(f"{role} survived SIGKILL")
    rig.stack.stop_role(role, grace_s=0)


def crash_database(rig: Rig) -> None:
    """``pg_ctl stop -m immediate``: every server process quits where it stands. Returns when it is up again."""
    pids = set(rig.stack.pids()[roles.POSTGRES])
    rig.stack.kill(roles.POSTGRES, signal.SIGQUIT)
    if not wait_for(lambda: not pids & set(rig.stack.pids()[roles.POSTGRES]), timeout_s=30, poll_s=0.005):
        raise HarnessError("PostgreSQL survived SIGQUIT")
    rig.stack.stop_role(roles.POSTGRES, grace_s=0)
    rig.stack.start_role(roles.POSTGRES)
    wait_until_up(rig, roles.POSTGRES)


def wait_until_up(rig: Rig, role: str) -> None:
    """Returns when a store takes connections, or when web answers."""
    checks = {roles.POSTGRES: _is_database_up, roles.BROKER: _is_broker_up, roles.WEB: _is_web_up}
    if not wait_for(lambda: checks[role](rig), timeout_s=BACK_TIMEOUT_S, poll_s=0.05):
        raise HarnessError(f"{role} did not come back within {BACK_TIMEOUT_S:.0f} s")


def _is_database_up(rig: Rig) -> bool:
    with psycopg.connect(rig.database_url, connect_timeout=2):
        return True


def _is_broker_up(rig: Rig) -> bool:
    if rig.broker == "valkey":
        with redis.Redis.from_url(rig.broker_url, socket_timeout=1, retry=None) as client:
            return bool(client.ping())
    try:
        with kombu.Connection(rig.broker_url, connect_timeout=2, transport_options={"read_timeout": 2}) as connection:
            connection.connect()
    except kombu.exceptions.KombuError:
        return False
    return True


def _is_web_up(rig: Rig) -> bool:
    return rig.call("GET", "/healthz").ok


# --- messages ---------------------------------------------------------------------------------------------------------
def empty_broker(rig: Rig) -> None:
    """Valkey: FLUSHALL. RabbitMQ: every queue purged."""
    if rig.broker == "valkey":
        with redis.Redis.from_url(rig.broker_url, socket_timeout=5) as client:
            client.flushall()
        return
    with kombu.Connection(rig.broker_url, connect_timeout=5) as connection:
        for name in ALL_QUEUES:
            connection.default_channel.queue_purge(name)


@contextmanager
def full_broker(rig: Rig) -> Iterator[None]:
    """Within the block the broker takes no message: Valkey is at ``maxmemory``, RabbitMQ sees its disk full."""
    if rig.broker == "valkey":
        with redis.Redis.from_url(rig.broker_url, socket_timeout=5) as client:
            usual = client.config_get("maxmemory")["maxmemory"]
            client.config_set("maxmemory", 1)
            try:
                yield
            finally:
                client.config_set("maxmemory", usual)
        return
    free_bytes = 2**62
    _control_rabbitmq(rig, "set_disk_free_limit", str(free_bytes))
    try:
        yield
    finally:
        _control_rabbitmq(rig, "set_disk_free_limit", "50MB")


def _control_rabbitmq(rig: Rig, *arguments: str) -> None:
    """``rabbitmqctl``, with the environment of the node: its name, cookie and port mapper are its own."""
    (pid,) = rig.stack.pids()[roles.BROKER]
    environment = psutil.Process(pid).environ()
    command = shutil.which("rabbitmqctl", path="/usr/lib/rabbitmq/bin:/opt/rabbitmq/sbin") or "rabbitmqctl"
    done = subprocess.run([command, *arguments], env=environment, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise HarnessError(f"rabbitmqctl {arguments[0]}: {done.stderr[-300:] or done.stdout[-300:]}")


class Postman:
    """Puts messages into the queues, past the platform."""

    def __init__(self, rig: Rig) -> None:
        is_amqp = rig.broker != "valkey"
        self._rig = rig
        self._app = Celery("chaos", broker=rig.broker_url, set_as_current=False)
        self._app.conf.update(
            task_queues=[queue_of(name, quorum=is_amqp) for name in ALL_QUEUES], task_create_missing_queues=False
        )

    def send(self, task: str, args: Sequence[object], queue: str, times: int = 1) -> None:
        with self._app.connection_for_write(connect_timeout=5) as connection:
            for _ in range(times):
                self._app.send_task(task, args, queue=queue, connection=connection, retry=False)

    def send_raw(self, bodies: Iterable[tuple[bytes, str, dict[str, object]]], queue: str) -> None:
        """(body, content type, headers) each, as they are."""
        with self._app.connection_for_write(connect_timeout=5) as connection:
            producer = connection.Producer()
            for body, content_type, headers in bodies:
                producer.publish(
                    body,
                    exchange="",
                    routing_key=queue,
                    content_type=content_type,
                    content_encoding="utf-8",
                    headers=headers,
                    retry=False,
                )
        if self._rig.broker == "valkey":  # not even an envelope; RabbitMQ has no such thing
            with redis.Redis.from_url(self._rig.broker_url, socket_timeout=5) as client:
                client.lpush(queue, b"\xff\x00 no message at all", b"[]", b'{"body": 1}')

    def close(self) -> None:
        self._app.close()

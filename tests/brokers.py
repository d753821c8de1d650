"""The two brokers under one fixture: what a test says of doorbells and queues is said of Valkey and of RabbitMQ."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from celery import Celery
from django.conf import settings as django_settings
from kombu import pools

BROKERS = ("valkey", "rabbitmq")


@dataclass(frozen=True)
class BrokerInUse:
    """The broker that this test's Celery app talks to."""

    kind: str
    url: str

    def take(self, queue: str) -> list[Any]:
        """The first argument of every task message in a queue, oldest first; the queue is empty then."""
        taken = []
        with _app().connection_for_read() as connection:
            channel = connection.default_channel
            while (message := channel.basic_get(queue, no_ack=True)) is not None:
                args, _, _ = json.loads(message.body)
                taken.append(args[0] if args else None)
        return taken

    def put(self, queue: str, body: bytes, *, headers: dict[str, Any] | None = None, **properties: Any) -> None:
        """A message with this body, whatever it is, through the broker's own protocol."""
        options = {"content_type": "application/json", "content_encoding": "utf-8", **properties}
        with _app().connection_for_write() as connection:
            channel = connection.default_channel
            message = channel.prepare_message(body, headers=headers or {}, **options)
            channel.basic_publish(message, exchange="", routing_key=queue)

    def depth(self, queue: str) -> int:
        """How many messages a queue holds that nobody has taken."""
        from apps.delivery.doorbell import queue_depth  # noqa: PLC0415 - Django is not set up when this is imported

        return queue_depth(queue) or 0

    def purge(self) -> None:
        """Empty every queue of ours."""
        from apps.delivery.queues import ALL_QUEUES, DEAD  # noqa: PLC0415

        with _app().connection_for_write() as connection:
            for queue in (*ALL_QUEUES, DEAD):
                connection.default_channel.queue_purge(queue)

    @property
    def environment(self) -> dict[str, str]:
        """What makes another process use it too."""
        return {"BROKER_URL": self.url}


def _app() -> Celery:
    from notify_project.celery import app  # noqa: PLC0415

    return app


@pytest.fixture(params=BROKERS)
def broker(request: pytest.FixtureRequest, settings: Any) -> Iterator[BrokerInUse]:
    """The Celery app of this process on one of the brokers, its queues declared and empty."""
    url = request.getfixturevalue("rabbitmq_url") if request.param == "rabbitmq" else django_settings.BROKER_URL
    from notify_project.settings.broker import read_broker  # noqa: PLC0415
    from notify_project.topology import declare_topology  # noqa: PLC0415

    with pointing_at(read_broker(url), settings):
        declare_topology()
        in_use = BrokerInUse(request.param, url)
        in_use.purge()
        yield in_use


class pointing_at:  # noqa: N801 - reads as a with statement
    """Within it the Celery app of this process, and what else looks at the settings, is on another broker."""

    def __init__(self, broker: Any, settings: Any) -> None:
        self._broker, self._settings = broker, settings
        self._before: dict[str, Any] = {}

    def __enter__(self) -> None:
        conf, broker = _app().conf, self._broker
        names = ("broker_url", "broker_read_url", "broker_write_url", "broker_transport_options", "task_queues")
        self._before = {name: conf[name] for name in names}
        self._settings.BROKER_URL = broker.url
        self._settings.BROKER_IS_AMQP = broker.is_amqp
        self._settings.CELERY_BROKER_TRANSPORT_OPTIONS = broker.transport_options
        values = (broker.url, broker.url, broker.url, broker.transport_options, broker.queues)
        self._apply(dict(zip(names, values, strict=True)))

    def __exit__(self, *_: object) -> None:
        self._apply(self._before)

    def _apply(self, values: dict[str, Any]) -> None:
        from apps.delivery import doorbell  # noqa: PLC0415

        app = _app()
        for name, value in values.items():
            app.conf[name] = value
        app.__dict__.pop("amqp", None)  # it keeps the queues
        doorbell._connection.cache_clear()
        doorbell.reset()
        pools.reset()

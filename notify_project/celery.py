"""The Celery application. Its settings are the ``CELERY_*`` names of ``notify_project.settings.base``."""

import os
from typing import Any

from celery import Celery
from celery.app.amqp import AMQP
from kombu import Connection

from notify_project import redis_transport

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "notify_project.settings.base")

RECONNECT_EVERY_S = 1.0


class EagerConnection(Connection):
    """A connection that keeps knocking once a second. Celery's own waits longer each time, half a minute in the end,
    and so a worker would notice a broker that is back long after everybody else."""

    def ensure_connection(self, *args: Any, **options: Any) -> Any:
        options |= {"interval_start": RECONNECT_EVERY_S, "interval_step": 0.0, "interval_max": RECONNECT_EVERY_S}
        return super().ensure_connection(*args, **options)


class EagerAMQP(AMQP):
    Connection = EagerConnection


redis_transport.install()
app = Celery("notify", amqp=EagerAMQP)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

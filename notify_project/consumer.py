"""The worker's consumer: it looks at every message before it believes it.

Celery acknowledges what it cannot decode, rejects a task it does not know, which on Redis is to forget it, and ends the
whole worker over a message without an id. Here all of that ends in ``notif.dead``.
"""

from collections.abc import Mapping
from typing import Any

import structlog
from celery.worker.consumer import Consumer
from kombu.message import Message

from apps.delivery.message_checks import CHECKS
from notify_project.garbage import keep_on_redis, report

MAX_BODY_BYTES = 262_144  # a doorbell of 500 ids has 20,000
log = structlog.get_logger("notify.consumer")


def find_fault(message: Message, tasks: Mapping[str, Any]) -> str | None:
    """Why this message is no call of one of ``tasks``; ``None`` if it is one."""
    headers = message.headers
    if not isinstance(headers, dict) or not all(isinstance(headers.get(name), str) for name in ("task", "id")):
        return "no task message"
    if message.content_type != "application/json" or message.content_encoding not in {"utf-8", "utf8"}:
        return "no JSON"
    if len(message.body or b"") > MAX_BODY_BYTES:
        return "too long"
    task = tasks.get(headers["task"])
    if task is None:
        return "unknown task"
    try:
        args, kwargs, _embedded = message.payload
        task.__header__(*args, **kwargs)  # what Celery has made of the function's signature; does nothing else
    except TypeError:
        return "wrong arguments"
    except Exception:  # a decoder's errors are of many kinds
        return "undecodable body"
    check = CHECKS.get(headers["task"])
    return check(*args, **kwargs) if check else None


class CarefulConsumer(Consumer):
    """Celery's consumer with ``find_fault`` before it, and without delays by the broker: it would declare 28 queues for
    what is never used here."""

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc, valid-type]
        default_steps = [step for step in Consumer.Blueprint.default_steps if not step.endswith(":DelayedDelivery")]

    def create_task_handler(self, *args: Any, **options: Any) -> Any:
        handle = super().create_task_handler(*args, **options)
        tasks = self.app.tasks
        not_about_the_message = (*self.connection_errors, *self.channel_errors)  # type: ignore[attr-defined]

        def on_task_received(message: Message) -> None:
            if fault := find_fault(message, tasks):
                self.bury(message, fault)
                return
            try:
                handle(message)
            except not_about_the_message:
                raise
            except Exception as error:
                log.error("message_refused", exc_info=error)
                self.bury(message, "refused by Celery")

        return on_task_received

    def bury(self, message: Message, reason: str) -> None:
        """Takes the message out of its queue for good, and leaves it to be looked at."""
        if message.acknowledged:
            return
        info = message.delivery_info or {}
        queue = str(info.get("routing_key") or "")
        report(queue if queue.startswith("notif.") else "other", reason)
        connection: Any = self.connection
        if connection.transport.driver_type == "redis":
            client = connection.default_channel.client
            keep_on_redis(client, queue, reason, headers=message.headers, body=message.body)
        message.reject_log_error(log, self.connection_errors)  # type: ignore[attr-defined]

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        self.bury(message, "undecodable body")

    def on_unknown_message(self, body: object, message: Message) -> None:
        self.bury(message, "no task message")

    def on_unknown_task(self, body: object, message: Message, exc: Exception) -> None:
        self.bury(message, "unknown task")

    def on_invalid_task(self, body: object, message: Message, exc: Exception) -> None:
        self.bury(message, "invalid headers")

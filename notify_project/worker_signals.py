"""What a Celery process does besides its tasks: pass traces on, and show its metrics where web cannot do it for it."""

from typing import TYPE_CHECKING, Any

import structlog
from celery import Celery
from celery.signals import (
    before_task_publish,
    celeryd_after_setup,
    task_postrun,
    task_prerun,
    worker_ready,
    worker_shutting_down,
)
from django.conf import settings
from prometheus_client import start_http_server
from structlog import contextvars as log_context

from apps import trace
from apps.collecting import collect_rarely
from notify_project.priority import give_way
from notify_project.scrape import scrape_registry

if TYPE_CHECKING:
    from notify_project.attendant import Attendant

logger = structlog.get_logger("notify.worker")
TRACE_HEADER = "trace_id"
_attendant: "Attendant | None" = None


@celeryd_after_setup.connect
def prepare_attendant(sender: str, instance: Any, **kwargs: Any) -> None:
    """The worker gets a queue of its own, and somebody who looks after it."""
    from notify_project.attendant import Attendant, add_own_queue  # noqa: PLC0415 - needs the models

    global _attendant
    app: Celery = instance.app
    name = sender.partition("@")[0]
    add_own_queue(app, name)
    _attendant = Attendant(name)


@worker_ready.connect
def settle(**kwargs: Any) -> None:
    """All code is loaded. Also finds its place among the machine's processes."""
    collect_rarely()
    give_way(settings.WORKER_NICE)


@worker_ready.connect
def start_attendant(**kwargs: Any) -> None:
    """It consumes from now on."""
    if _attendant is not None:
        _attendant.start()


@worker_shutting_down.connect
def stop_attendant(**kwargs: Any) -> None:
    """It ends, and is not to be taken for stuck."""
    if _attendant is not None:
        _attendant.stop()


@before_task_publish.connect
def send_trace(headers: dict[str, Any] | None = None, **kwargs: Any) -> None:
    """A message carries the trace in which it was published."""
    trace_id = trace.current_trace_id()
    if headers is not None and trace_id:
        headers.setdefault(TRACE_HEADER, trace_id)


@task_prerun.connect
def begin_task(task: Any, task_id: str, **kwargs: Any) -> None:
    """The task's log lines carry the publisher's trace, or a new one if it had none (beat, the sweep), and its id."""
    if _attendant is not None:
        _attendant.note_task()
    log_context.clear_contextvars()
    carried = getattr(task.request, TRACE_HEADER, None)
    trace.adopt_trace(
        carried if isinstance(carried, str) and trace.is_valid_trace_id(carried) else trace.new_trace_id()
    )
    log_context.bind_contextvars(task=task.name, task_id=task_id)


@task_postrun.connect
def end_task(**kwargs: Any) -> None:
    """The thread's next task starts without a trace."""
    trace.forget_trace()
    log_context.clear_contextvars()


@worker_ready.connect
def show_metrics(**kwargs: Any) -> None:
    """With METRICS_PORT set, a worker answers ``/metrics`` itself: for a container that shares no directory with web.

    A port that is taken is reported, and the worker goes on.
    """
    if not settings.METRICS_PORT:
        return
    try:
        start_http_server(settings.METRICS_PORT, settings.METRICS_HOST, registry=scrape_registry())
    except OSError as error:
        logger.error("metrics_port_unavailable", port=settings.METRICS_PORT, error=error.strerror)

"""What a Celery process does besides its tasks: pass traces on, and show its metrics where web cannot do it for it."""

from typing import Any

import structlog
from celery.signals import before_task_publish, task_postrun, task_prerun, worker_ready
from django.conf import settings
from prometheus_client import start_http_server
from structlog import contextvars as log_context

from apps import trace
from notify_project.scrape import scrape_registry

logger = structlog.get_logger("notify.worker")
TRACE_HEADER = "trace_id"


@before_task_publish.connect
def send_trace(headers: dict[str, Any] | None = None, **kwargs: Any) -> None:
    """A message carries the trace in which it was published."""
    trace_id = trace.current_trace_id()
    if headers is not None and trace_id:
        headers.setdefault(TRACE_HEADER, trace_id)


@task_prerun.connect
def begin_task(task: Any, task_id: str, **kwargs: Any) -> None:
    """The task's log lines carry the publisher's trace, or a new one if it had none (beat, the sweep), and its id."""
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

"""One JSON object a line on standard error, from whoever speaks: our own loggers, Django, Celery, kombu, granian.

``settings.LOGGING_CONFIG`` names ``configure_logging``, so Django calls it in every process that sets Django up. Our
own code says ``structlog.get_logger("notify.…")``; those lines skip the ``logging`` module altogether. Both kinds pass
through the same processors, of which redaction is the last. See docs/observability.md for the fields.
"""

import logging
import os
import re
import select
import sys
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson
import structlog
from celery.signals import setup_logging
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from notify_project.redaction import TRUSTED_NAMES, clean_text, clean_value

MAX_FRAMES = 25
_LONGEST_TRACEBACK = 50_000
_SERVERS = ("web", "worker", "beat", "flower")  # roles begin so: worker, worker-high-1, …

# What these say at INFO is either said by a line of our own or said once a second. SQL (django.db.backends at DEBUG)
# and task arguments (celery.worker.strategy at DEBUG) must not be written whatever LOG_LEVEL is.
_QUIETER = {
    "amqp": logging.WARNING,
    "asyncio": logging.WARNING,
    "celery.app.trace": logging.WARNING,
    "celery.beat": logging.WARNING,
    "celery.worker.strategy": logging.WARNING,
    "django.db.backends": logging.INFO,
    "django.request": logging.ERROR,
    "django.server": logging.WARNING,
    "granian.access": logging.WARNING,
    "kombu": logging.WARNING,
    "tornado.access": logging.WARNING,
    "urllib3": logging.WARNING,
}

_CARETS = re.compile(r"\n +[~^]+(?=\n|$)")

_processors: list[Processor] = []  # one list for good: loggers bound before a reconfiguration keep pointing at it
_write_lock = threading.RLock()  # re-entrant: a signal handler may log while its thread is writing


def configure_logging(config: Mapping[str, Any]) -> None:
    """Set logging up for this process; safe to call again.

    ``config`` is ``settings.LOGGING``: ``level`` (a name such as ``INFO``), ``format`` (``json`` or ``console``) and
    optionally ``role`` (what this process is, else guessed). Raises ``ValueError`` for another level or format.
    """
    level, style = str(config.get("level", "INFO")).upper(), config.get("format", "json")
    if level not in logging.getLevelNamesMapping():
        raise ValueError(f"LOG_LEVEL must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL, not {level!r}")
    if style not in {"json", "console"}:
        raise ValueError(f"LOG_FORMAT must be json or console, not {style!r}")
    role = config.get("role") or process_role(sys.argv)
    _processors[:] = _chain(role, _render_json if style == "json" else _console_renderer())
    structlog.configure(
        processors=_processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=_LineLogger,
        cache_logger_on_first_use=True,
    )
    _take_over_stdlib(level)
    _take_over_uncaught_exceptions(role)


def _chain(role: str, renderer: Processor) -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _ProcessFields(role),
        _format_exception,
        _redact,
        renderer,
    ]


@setup_logging.connect
def keep_celery_quiet(**kwargs: Any) -> None:
    """That somebody listens to this signal keeps Celery from setting up logging of its own and from redirecting stdout.
    Django has called ``configure_logging`` by then."""


def process_role(argv: list[str]) -> str:
    """What a process is, from its command line: ``web``, ``worker``, ``beat``, ``flower``, ``manage:<command>``, or the
    program's name."""
    program, words = Path(argv[0]).name if argv else "", argv[1:]
    if program == "celery" or (program == "__main__.py" and "celery" in argv[0]):
        return next((word for word in words if word in {"worker", "beat", "flower"}), "celery")
    if program == "granian":
        return "web"
    if program in {"manage.py", "django-admin"}:
        return f"manage:{words[0]}" if words else "manage"
    return program or "python"


class _LineLogger:
    """What structlog's bound loggers call: writes the rendered line. ``name`` is the one given to ``get_logger``."""

    def __init__(self, name: str = "notify") -> None:
        self.name = name

    def msg(self, line: str) -> None:
        _write(line)

    debug = info = warning = error = critical = fatal = exception = log = warn = msg


class LineFormatter(logging.Formatter):
    """Takes a stdlib record through the same processors. Formats whole, so that no argument gets by the redaction.

    To be named in the ``dictConfig`` of a process that does not set Django up (granian's parent: granian.json).
    """

    def format(self, record: logging.LogRecord) -> str:
        line: Any = {"event": _message_of(record)}
        if record.exc_info and record.exc_info[0] is not None:
            line["exc_info"] = record.exc_info
        for processor in _processors or _chain(process_role(sys.argv), _render_json):
            line = processor(_Named(record.name), record.levelname.lower(), line)
        return str(line)


class _LineHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            _write(self.format(record))
        except Exception:  # a log line must never break what it is about
            self.handleError(record)


class _Named:
    def __init__(self, name: str) -> None:
        self.name = name


class _ProcessFields:
    """Adds what is the same for every line of a process, and orders the fields for a human eye."""

    def __init__(self, role: str) -> None:
        self.role = role

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        head: EventDict = {
            "timestamp": event.pop("timestamp"),
            "level": "warning" if method == "warn" else "error" if method == "exception" else method,
            "event": event.pop("event", ""),
            "logger": getattr(logger, "name", "notify"),
            "role": self.role,
            "pid": os.getpid(),
        }
        head.update(event)
        return head


def _message_of(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:
        return f"{record.msg} (its arguments do not fit)"


def _format_exception(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """``exc_info`` becomes ``exception``: the traceback as text, without local variables."""
    exc_info = event.pop("exc_info", None)
    if exc_info:
        error = _exception_of(exc_info)
        if error is not None:
            lines = traceback.format_exception(type(error), error, error.__traceback__, limit=-MAX_FRAMES)
            event["exception"] = _CARETS.sub("", "".join(lines).rstrip())
    if event.pop("stack_info", None):
        event["stack"] = "".join(traceback.format_stack(limit=MAX_FRAMES)).rstrip()
    return event


def _exception_of(exc_info: BaseException | ExcInfo | bool) -> BaseException | None:
    if isinstance(exc_info, BaseException):
        return exc_info
    return exc_info[1] if isinstance(exc_info, tuple) else sys.exc_info()[1]


def _redact(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    try:
        return {name: clean_value(name, value) for name, value in event.items()}
    except Exception as error:  # an object that cannot even be looked at
        trusted = {name: value for name, value in event.items() if name in TRUSTED_NAMES}
        return trusted | {"event": "unloggable", "error": type(error).__name__}


def _render_json(logger: WrappedLogger, method: str, event: EventDict) -> str:
    try:
        return orjson.dumps(event, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # a lone surrogate, an integer beyond 64 bits: spell it out
        return orjson.dumps({name: ascii(value) for name, value in event.items()}).decode()


def _console_renderer() -> Processor:
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)


def _write(line: str) -> None:
    # Standard error as it is now, not as it was at start: a process may have been given another one since. A full disk
    # or a reader that is gone costs the line, never the work it is about.
    stream = sys.stderr
    data = line.encode("utf-8", "backslashreplace") + b"\n"
    with suppress(OSError, ValueError):
        if (own := sys.__stderr__) is not None and stream is own and len(data) <= select.PIPE_BUF:
            os.write(own.fileno(), data)  # in one piece by itself: threads need not wait for each other
            return
        with _write_lock:
            stream.write(line + "\n")
            stream.flush()


def _renew_write_lock() -> None:
    global _write_lock
    _write_lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_write_lock)  # another thread of the parent may have held it


def _take_over_stdlib(level: str) -> None:
    """One handler, at the root, and ours: what others set up before us (Django's defaults, granian) goes."""
    logging.raiseExceptions = False  # its report prints the arguments of the failed line
    logging.captureWarnings(True)
    for existing in list(logging.Logger.manager.loggerDict.values()):
        if isinstance(existing, logging.Logger):
            existing.handlers.clear()
            existing.propagate = True
    root = logging.getLogger()
    ours = _LineHandler()
    ours.setFormatter(LineFormatter())
    root.handlers = [handler for handler in root.handlers if not _is_plain_output(handler)] + [ours]
    root.setLevel(level)
    logging.getLogger("django.request").filters = [_is_news]
    for name, minimum in _QUIETER.items():
        logging.getLogger(name).setLevel(max(minimum, root.level))


def _is_news(record: logging.LogRecord) -> bool:
    """Django says the status of every 4xx and 5xx again; the access line has it. An exception is said only there."""
    return bool(record.exc_info)


def _is_plain_output(handler: logging.Handler) -> bool:
    # By exact type: a subclass is somebody's instrument (an error tracker, a test's recorder) and stays.
    return type(handler) in {logging.StreamHandler, _LineHandler}


def _take_over_uncaught_exceptions(role: str) -> None:
    """What a process or thread dies of is told like anything else, without personal data. Others' hooks stay."""
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _log_uncaught if role.startswith(_SERVERS) else _print_uncaught
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _log_thread_death


def _print_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """For commands that a person has started: the usual traceback, redacted."""
    text = "".join(traceback.format_exception(kind, error, trace))
    _write(clean_text(text, is_free_text=True, limit=_LONGEST_TRACEBACK).rstrip())


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    structlog.get_logger("notify.process").critical("uncaught_exception", exc_info=error)


def _log_thread_death(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit:
        name = args.thread.name if args.thread else ""
        structlog.get_logger("notify.process").critical("thread_died", thread=name, exc_info=args.exc_value or True)

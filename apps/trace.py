"""The trace id of what is being worked on: taken from the caller or made at the edge, and put on every log line.

Identifiers follow W3C Trace Context, level 1 (https://www.w3.org/TR/trace-context-1/). A caller may also name a
notification's trace in the request body, in words of its own; such an id is followed just the same.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass
from typing import Any

from structlog import contextvars as log_context

from apps.randomness import random_bytes

MAX_TRACE_ID_LENGTH = 64
_TRACE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})", re.ASCII)
_HEX_TRACE_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)
_NO_TRACE = "0" * 32
_NO_PARENT = "0" * 16
_SAMPLED = 0x01

_current: ContextVar[str] = ContextVar("trace_id", default="")


@dataclass(frozen=True, slots=True)
class TraceParent:
    """A parsed ``traceparent``: 32 hex digits of trace, 16 hex digits of the caller's span, the sampled flag."""

    trace_id: str
    parent_id: str
    is_sampled: bool


def current_trace_id() -> str:
    """The trace id bound here, or ``""`` where there is none."""
    return _current.get()


def new_trace_id() -> str:
    """A fresh random trace id of 32 lower-case hex digits."""
    return random_bytes(16).hex()


def is_valid_trace_id(value: str) -> bool:
    """Whether ``value`` may be a caller's own trace id: 1 to 64 of ``A-Z a-z 0-9 . _ -``."""
    return _TRACE_ID.fullmatch(value) is not None


def parse_traceparent(header: str | None) -> TraceParent | None:
    """The ``traceparent`` header's content, or ``None`` if it is missing, malformed or of another version than 00.

    A header that cannot be understood is ignored and a new trace begun, as section 4.3 of the specification asks.
    """
    match = _TRACEPARENT.fullmatch(header) if header else None
    if match is None:
        return None
    trace_id, parent_id, flags = match.groups()
    if trace_id == _NO_TRACE or parent_id == _NO_PARENT:
        return None
    return TraceParent(trace_id, parent_id, bool(int(flags, 16) & _SAMPLED))


def format_traceparent(trace_id: str, *, parent_id: str = "", is_sampled: bool = True) -> str:
    """A ``traceparent`` header for ``trace_id``; ``parent_id`` is made up when empty.

    Raises ``ValueError`` for a trace id that is not 32 lower-case hex digits, e.g. a caller's own words: those
    cannot travel in this header.
    """
    if not _HEX_TRACE_ID.fullmatch(trace_id) or trace_id == _NO_TRACE:
        raise ValueError("trace_id must be 32 lower-case hex digits, not all zero")
    return f"00-{trace_id}-{parent_id or random_bytes(8).hex()}-{_SAMPLED if is_sampled else 0:02x}"


@contextmanager
def bind_trace(trace_id: str) -> Iterator[str]:
    """Within the block, ``trace_id`` is the current trace and stands on every log line. An empty one binds nothing."""
    if not trace_id:
        yield current_trace_id()
        return
    tokens = _bind(trace_id)
    try:
        yield trace_id
    finally:
        _unbind(tokens)


def adopt_trace(trace_id: str | None) -> str:
    """Let ``trace_id`` (the caller's own, from a request body) take over for the rest of the current request or task.

    Whoever began the request or task (``TraceMiddleware``, the worker's signals) ends it. ``None`` and ``""`` leave the
    trace as it is. Returns the trace id in force.
    """
    if trace_id:
        _bind(trace_id)
    return current_trace_id()


def forget_trace() -> None:
    """From here on there is no current trace: the end of what ``adopt_trace`` began in a thread that is used again."""
    _current.set("")
    log_context.unbind_contextvars("trace_id")


def _bind(trace_id: str) -> tuple[Token[str], dict[str, Token[Any]]]:
    return _current.set(trace_id), dict(log_context.bind_contextvars(trace_id=trace_id))


def _unbind(tokens: tuple[Token[str], dict[str, Token[Any]]]) -> None:
    _current.reset(tokens[0])
    log_context.reset_contextvars(**tokens[1])

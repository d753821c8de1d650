"""One HTTP exchange as the provider modules see it, free of the server that carries it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import orjson

JSON_HEADERS = (("content-type", "application/json; charset=UTF-8"),)
HTML_HEADERS = (("content-type", "text/html; charset=UTF-8"),)

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Request:
    """``path`` lies below the provider's prefix and has no leading slash; ``header`` takes a lower-case name.
    ``http_version`` is ``1.1``, ``2`` and the like; ``authority`` is what HTTP/2 has in the place of a Host header."""

    method: str
    path: str
    query: str
    header: Callable[[str], str | None]
    body: bytes
    http_version: str = "1.1"
    authority: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back. ``delay_s`` is waited first; with ``is_dropped`` the connection is cut instead of answered."""

    status: int
    headers: Headers = ()
    body: bytes = b""
    delay_s: float = 0.0
    is_dropped: bool = False

    def after(self, delay_s: float) -> "Answer":
        return replace(self, delay_s=delay_s) if delay_s else self


def json_answer(status: int, content: Any, headers: Headers = ()) -> Answer:
    return Answer(status, JSON_HEADERS + headers, orjson.dumps(content))


def html_answer(status: int, title: str) -> Answer:
    """A bare HTML error page, as a load balancer in front of a provider answers."""
    page = (
        f"<!doctype html><html><head><title>{escape(title)}</title></head><body><h1>{escape(title)}</h1></body></html>"
    )
    return Answer(status, HTML_HEADERS, page.encode())


def dropped(delay_s: float = 0.0) -> Answer:
    return Answer(0, delay_s=delay_s, is_dropped=True)


def as_mapping(value: object) -> Mapping[str, Any]:
    """``value`` if it is a JSON object, else an empty one: for reading optional parts of a body."""
    return value if isinstance(value, dict) else {}

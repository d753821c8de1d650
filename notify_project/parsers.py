"""Reading JSON bodies: strict, bounded, and nothing that PostgreSQL could not store."""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import IO, Any

import orjson
from rest_framework.parsers import BaseParser

from apps.problems import FieldError, Problem
from notify_project.problems import MAX_FIELD_ERRORS, body_limit, body_too_large, escape_pointer

MAX_DEPTH = 32
"""Levels of objects and lists in a body, the outermost included."""
_CONTAINERS = frozenset({dict, list})  # what orjson makes, and no subclass


class JSONParser(BaseParser):
    """``application/json`` (RFC 8259) in UTF-8: one object of at most the route's ``body_limit`` in bytes.

    Raises ``Problem``: 400 for what is no JSON object, 413 for too much of it, 422 with pointers for NUL characters.
    """

    media_type = "application/json"

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The body's object."""
        return parse_object(read_bounded(stream, (parser_context or {}).get("request")))


def read_bounded(stream: IO[Any], request: Any = None) -> bytes:
    """The stream's bytes; raises ``Problem`` 413 as soon as they are known to be too many, without keeping them."""
    path = request.path if request is not None else ""
    limit = body_limit(path)
    declared = request.META.get("CONTENT_LENGTH") if request is not None else None
    if declared and declared.isdigit() and int(declared) > limit:
        raise body_too_large(path)
    raw: bytes = stream.read(limit + 1)
    if len(raw) > limit:
        raise body_too_large(path)
    return raw


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in ``raw``; raises ``Problem`` as ``JSONParser`` does."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Problem(400, "malformed-json", f"The body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise Problem(400, "malformed-json", "The body must be a JSON object: {…}.")
    # There cannot be more levels than opening brackets, so an ordinary body is not walked.
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _is_deeper_than(value, MAX_DEPTH):
        raise Problem(400, "malformed-json", f"The body is nested more than {MAX_DEPTH} levels deep.")
    # In valid JSON a NUL can only be written as an escape.
    if b"\\u0000" in raw:
        _refuse_nul(value)
    return value


def _is_deeper_than(value: Any, levels: int) -> bool:
    layer = [value]
    for _ in range(levels):
        children = chain.from_iterable(item.values() if type(item) is dict else item for item in layer)
        layer = [child for child in children if type(child) in _CONTAINERS]
        if not layer:
            return False
    return True


def _refuse_nul(value: dict[str, Any]) -> None:
    detail = "NUL characters (\\u0000) cannot be stored. Remove them."
    errors = [FieldError(pointer, detail, "nul") for pointer in _find_nul(value, "")]
    if errors:
        raise Problem(422, "invalid-request", detail, errors=errors[:MAX_FIELD_ERRORS])


def _find_nul(value: Any, pointer: str) -> Iterator[str]:
    if isinstance(value, str):
        if "\0" in value:
            yield pointer
    elif isinstance(value, dict):
        for key, item in value.items():
            if "\0" in key:
                yield pointer
            yield from _find_nul(item, f"{pointer}/{escape_pointer(key)}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _find_nul(item, f"{pointer}/{index}")

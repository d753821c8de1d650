"""Writing JSON answers."""

import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

import orjson
from django.utils.functional import Promise
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.utils.encoders import JSONEncoder

_PLAIN_ACCEPTS = frozenset({"*/*", "application/json"})


class JSONRenderer(BaseRenderer):
    """``application/json`` in UTF-8; times as RFC 3339 with ``Z``, UUIDs and decimals as text."""

    media_type = "application/json"
    format = "json"
    charset = None  # RFC 8259, 11: the media type has no charset parameter
    render_style = "binary"

    def render(
        self, data: Any, accepted_media_type: str | None = None, renderer_context: Mapping[str, Any] | None = None
    ) -> bytes:
        """``data`` as JSON; nothing for None."""
        if data is None:
            return b""
        try:
            return orjson.dumps(data, default=_to_plain, option=orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS)
        except orjson.JSONEncodeError:
            # What is stored is no reason for a 500: an integer of more than 64 bits, half a surrogate pair.
            return json.dumps(data, cls=_PlainEncoder, separators=(",", ":")).encode()


class JSONNegotiation(DefaultContentNegotiation):
    """DRF's, which takes a third as long as the rest of it for what nearly everybody asks."""

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        """The renderer and its media type."""
        accept = request.META.get("HTTP_ACCEPT", "*/*")
        if accept in _PLAIN_ACCEPTS and not request.META.get("QUERY_STRING"):
            for renderer in renderers:
                if renderer.media_type == JSONRenderer.media_type:
                    return renderer, renderer.media_type
        return super().select_renderer(request, renderers, format_suffix)  # type: ignore[no-any-return]


class _PlainEncoder(JSONEncoder):
    def default(self, obj: Any) -> Any:
        try:
            return _to_plain(obj)
        except TypeError:
            return super().default(obj)


def _to_plain(value: Any) -> Any:
    if isinstance(value, Promise | Decimal):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")

"""What is refused or put right before any view sees a request."""

import io
import re
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from apps.problems import Problem
from notify_project.problems import body_incomplete, body_too_large, render_problem

# Django has decoded the path and left the bytes that are not UTF-8 as %XX. A path that holds such a %XX by intention
# (sent as %25XX) is refused along with them: nobody names a thing so but by encoding it twice.
_BROKEN_BYTE = re.compile(r"%[89A-Fa-f][0-9A-Fa-f]", re.ASCII)


class EdgeMiddleware:
    """Answers 400 to a URL that holds NUL or is not UTF-8, and gives a chunked body the length WSGI asks for.

    Keeps the API's answers out of caches: X-API-Key does not do that by itself, as Authorization does (RFC 9111, 3.5).
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        problem = _find_bad_url(request) or _receive_chunked(request)
        response = render_problem(problem) if problem is not None else self._get_response(request)
        if request.path_info.startswith("/v1/"):
            response.headers.setdefault("Cache-Control", "no-store")
        return response


def _find_bad_url(request: HttpRequest) -> Problem | None:
    path, query = request.path_info, request.META.get("QUERY_STRING", "")
    is_bad = "\0" in path or _BROKEN_BYTE.search(path) is not None
    if "%" in query or not query.isascii():
        try:
            is_bad = is_bad or "\0" in unquote_to_bytes(query.encode("latin-1")).decode()
        except UnicodeError:
            is_bad = True
    if not is_bad:
        return None
    return Problem(400, "bad-request", "The URL must be UTF-8, percent-encoded, without NUL characters.")


def _receive_chunked(request: HttpRequest) -> Problem | None:
    """Read a body that came without Content-Length: Django takes a missing length for an empty body."""
    if request.META.get("CONTENT_LENGTH") or "chunked" not in request.META.get("HTTP_TRANSFER_ENCODING", "").lower():
        return None
    limit: int = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    try:
        body: bytes = request.META["wsgi.input"].read(limit + 1)
    except OSError:
        return body_incomplete()
    if len(body) > limit:
        return body_too_large()
    request.META["CONTENT_LENGTH"] = str(len(body))
    request.META["wsgi.input"] = request._stream = io.BytesIO(body)
    return None

"""What is refused or put right before any view sees a request."""

import re
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from django.conf import settings
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from apps.problems import Problem
from notify_project.middleware import API_PREFIX
from notify_project.problems import body_incomplete, body_too_large, render_problem
from notify_project.proxies import believe_proxies
from notify_project.refusals import REFUSAL, Refusal

# Django has decoded the path and left the bytes that are not UTF-8 as %XX. A path that holds such a %XX by intention
# (sent as %25XX) is refused along with them: nobody names a thing so but by encoding it twice.
_BROKEN_BYTE = re.compile(r"%[89A-Fa-f][0-9A-Fa-f]", re.ASCII)


class EdgeMiddleware:
    """Finds out who asks, and answers what is refused unseen: a URL that holds NUL or is not UTF-8, and what the front
    says.

    Keeps the API's answers out of caches: X-API-Key does not do that by itself, as Authorization does (RFC 9111, 3.5).
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        believe_proxies(request.META, settings.TRUSTED_PROXIES)
        problem = _find_bad_url(request) or _find_refusal(request)
        response = render_problem(problem) if problem is not None else self._get_response(request)
        if request.path_info.startswith(API_PREFIX):
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


def _find_refusal(request: HttpRequest) -> Problem | None:
    """What ``notify_project.front`` refused; behind another server, a body whose length Django cannot know."""
    refusal = request.META.get(REFUSAL)
    if refusal is None:
        is_unknown = not request.META.get("CONTENT_LENGTH") and "HTTP_TRANSFER_ENCODING" in request.META
        refusal = Refusal.LENGTH_REQUIRED if is_unknown else None
    match refusal:
        case None:
            return None
        case Refusal.BODY_TOO_LARGE:
            return body_too_large(request.path_info)
        case Refusal.BODY_INCOMPLETE:
            return body_incomplete()
        case Refusal.BODY_TOO_SLOW:
            detail = f"The body did not arrive within {settings.WEB_BODY_TIMEOUT_S:g} s. Send it again."
            return Problem(408, "body-too-slow", detail)
        case Refusal.LENGTH_REQUIRED:
            return Problem(411, "length-required", "Send the body with Content-Length, not chunked.")
        case Refusal.HEADER_REPEATED:
            return Problem(400, "bad-request", "A header that may come once came twice.")
        case _:
            detail = "Too much is going on at once. Try again; with the same idempotency key nothing is done twice."
            return Problem(503, "unavailable", detail, headers={"Retry-After": "1"})

"""The middlewares of our own: one opens and closes the book on a request, one serves static files, and Django's own for
browsers leave the API alone."""

import time
from collections.abc import Callable

import structlog
from django.conf import settings
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.messages.middleware import MessageMiddleware
from django.contrib.sessions.middleware import SessionMiddleware
from django.contrib.staticfiles.views import serve
from django.core.exceptions import SuspiciousFileOperation
from django.http import Http404, HttpRequest, HttpResponseNotFound
from django.http.response import HttpResponseBase
from structlog import contextvars as log_context

from apps import metrics, trace

logger = structlog.get_logger("notify.access")
GetResponse = Callable[[HttpRequest], HttpResponseBase]

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
API_PREFIX = "/v1/"
_NO_ROUTE = "(none)"
_STATIC_ROUTE = "(static)"
_STATIC_MAX_AGE_S = 3600
# Asked for every few seconds by machines: counted, not told.
_QUIET_ROUTES = frozenset({"healthz", "readyz", "metrics", _STATIC_ROUTE})


class TraceMiddleware:
    """Every request belongs to a trace, is counted, and leaves one access line.

    The trace is the caller's (``traceparent``) or a new one; ``request.trace_id`` has it. A body may name another
    (``apps.trace.adopt_trace``), which then is what the access line and ``X-Trace-Id`` say. Must be the first
    middleware, so that the time and the status are those the caller sees.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        started = time.perf_counter()
        parent = trace.parse_traceparent(request.META.get("HTTP_TRACEPARENT"))
        edge_id = parent.trace_id if parent else trace.new_trace_id()
        request.trace_id = edge_id  # type: ignore[attr-defined]
        trace.adopt_trace(edge_id)
        try:
            response = self.get_response(request)
            response["traceparent"] = trace.format_traceparent(
                edge_id, is_sampled=parent.is_sampled if parent else True
            )
            response["X-Trace-Id"] = trace.current_trace_id()
            _close_the_book(request, response.status_code, time.perf_counter() - started)
            return response
        finally:  # the thread will serve another request
            trace.forget_trace()
            log_context.clear_contextvars()


def _close_the_book(request: HttpRequest, status: int, seconds: float) -> None:
    route = route_of(request)
    method = request.method if request.method in _METHODS else "OTHER"
    metrics.http_request(route, str(method), status, seconds)
    edge_id, own_id = request.trace_id, trace.current_trace_id()  # type: ignore[attr-defined]
    write = logger.debug if route in _QUIET_ROUTES and status < 500 else logger.info
    write(
        "request",
        method=method,
        route=route,
        path=request.path,  # without the query, which may hold anything
        status=status,
        ms=round(seconds * 1000, 2),
        client_id=client_id_of(request),
        **({} if edge_id == own_id else {"edge_trace_id": edge_id}),
    )


def route_of(request: HttpRequest) -> str:
    """The URL pattern that matched, e.g. ``v1/users/<str:user_id>``: few values, fit for a metric's label."""
    if getattr(request, "is_static", False):
        return _STATIC_ROUTE
    return request.resolver_match.route if request.resolver_match else _NO_ROUTE


def client_id_of(request: HttpRequest) -> str | None:
    """The id of the client that authenticated, if one did (``rest_framework`` leaves it on the Django request)."""
    client_id = getattr(getattr(request, "auth", None), "id", None)
    return None if client_id is None else str(client_id)


class StaticFilesMiddleware:
    """Serves the admin's and the API docs' static files straight out of the installed packages.

    No ``collectstatic`` and no web server needed, DEBUG or not. In production a web server or CDN in front answers
    ``STATIC_URL`` before it gets here; then this costs one comparison of strings.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self.prefix = settings.STATIC_URL

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        if not request.path.startswith(self.prefix) or request.method not in {"GET", "HEAD"}:
            return self.get_response(request)
        request.is_static = True  # type: ignore[attr-defined]
        try:
            # "insecure" is Django's word for "not made for heavy traffic"; the path is confined all the same.
            response = serve(request, request.path.removeprefix(self.prefix), insecure=True)
        except (Http404, SuspiciousFileOperation):
            return HttpResponseNotFound("No such file.\n", content_type="text/plain; charset=utf-8")
        response["Cache-Control"] = f"public, max-age={_STATIC_MAX_AGE_S}"
        return response


class _ForBrowsers:
    """Mixed into a middleware: requests to the API, which knows neither sessions nor their users, pass by it."""

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        follow: GetResponse = self.get_response if request.path_info.startswith(API_PREFIX) else super().__call__  # type: ignore[attr-defined, misc]
        return follow(request)


class BrowserSessionMiddleware(_ForBrowsers, SessionMiddleware):
    """Django's, but not for the API."""


class BrowserAuthenticationMiddleware(_ForBrowsers, AuthenticationMiddleware):
    """Django's, but not for the API."""


class BrowserMessageMiddleware(_ForBrowsers, MessageMiddleware):
    """Django's, but not for the API."""

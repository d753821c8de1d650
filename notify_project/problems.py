"""Every error as an RFC 9457 problem document: the exception handler of the API and Django's own error views."""

import json
import math
import sys
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

import orjson
import psycopg
import structlog
from django.conf import settings
from django.core.exceptions import BadRequest, PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.core.signals import got_request_exception
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, UnreadablePostError
from django.views import defaults
from rest_framework import exceptions
from rest_framework.settings import api_settings

from apps.problems import FieldError, Problem, describe_problem
from apps.trace import current_trace_id
from notify_project.database import note_error

logger = structlog.get_logger("notify.api")

CONTENT_TYPE = "application/problem+json"
MAX_FIELD_ERRORS = 100
_STORE_RETRY_AFTER_S = 1
_HTML_PATHS = ("/admin/", "/docs")  # what people look at in a browser keeps Django's own error pages

_API_CODES: tuple[tuple[type[exceptions.APIException], str], ...] = (
    (exceptions.ParseError, "malformed-json"),
    (exceptions.AuthenticationFailed, "unauthenticated"),
    (exceptions.NotAuthenticated, "unauthenticated"),
    (exceptions.PermissionDenied, "forbidden"),
    (exceptions.NotFound, "not-found"),
    (exceptions.MethodNotAllowed, "method-not-allowed"),
    (exceptions.NotAcceptable, "not-acceptable"),
    (exceptions.UnsupportedMediaType, "unsupported-media-type"),
    (exceptions.Throttled, "rate-limited"),
)


def exception_handler(exc: Exception, context: Mapping[str, Any]) -> HttpResponseBase:
    """DRF's hook: the answer to whatever a view raised. An unexpected exception is logged and answered with 500."""
    problem = to_problem(exc)
    if problem.code == "internal-error":
        # For whoever watches Django for crashes; Django's test client raises what it is told here.
        request = getattr(context.get("request"), "_request", None)
        got_request_exception.send(sender=exception_handler, request=request)
    return render_problem(problem)


def to_problem(exc: BaseException) -> Problem:
    """What the caller is told of ``exc``. One that nobody foresaw goes to the log, and no word of it to the caller."""
    if isinstance(exc, Problem):
        return exc
    if isinstance(exc, exceptions.APIException):
        return _from_api_exception(exc)
    if isinstance(exc, Http404):
        return _not_found()
    if isinstance(exc, PermissionDenied):
        return Problem(403, "forbidden", "This call is not allowed.")
    if isinstance(exc, RequestDataTooBig):
        return body_too_large()
    if isinstance(exc, SuspiciousOperation | BadRequest):  # e.g. a thousand query parameters
        return Problem(400, "bad-request", "The request is malformed.")
    if isinstance(exc, UnreadablePostError):
        return body_incomplete()
    if is_database_away(exc):
        return _database_away(exc)
    logger.error("unhandled_exception", exc_info=exc)
    return Problem(500, "internal-error", "An unexpected error occurred. It was logged under this trace_id.")


def body_limit(path: str) -> int:
    """How many bytes a body sent to ``path`` may have."""
    limit: int = settings.BODY_LIMITS.get(path, settings.DATA_UPLOAD_MAX_MEMORY_SIZE)
    return limit


def body_too_large(path: str = "") -> Problem:
    """413, naming the limit of ``path``."""
    return Problem(413, "body-too-large", f"The body may have at most {body_limit(path)} bytes.")


def body_incomplete() -> Problem:
    """400 for a body whose sender went away; hardly anyone will read it."""
    return Problem(400, "bad-request", "The body did not arrive whole.")


def _not_found() -> Problem:
    return Problem(404, "not-found", "There is nothing at this address, or it is not yours to see.")


def is_database_away(exc: BaseException) -> bool:
    """Whether it is PostgreSQL's state and no fault of the request: away, out of room, or a standby just now."""
    return isinstance(exc, OperationalError | InterfaceError) or isinstance(
        exc.__cause__, psycopg.errors.ReadOnlySqlTransaction
    )


def _database_away(exc: BaseException) -> Problem:
    note_error(exc.__cause__)
    logger.error("database_away", error=type(exc.__cause__ or exc).__name__)
    return Problem(
        503,
        "unavailable",
        "The database does not answer. Try again; with the same idempotency key nothing is done twice.",
        headers={"Retry-After": str(_STORE_RETRY_AFTER_S)},
    )


def _from_api_exception(exc: exceptions.APIException) -> Problem:
    if isinstance(exc, exceptions.ValidationError):
        errors = list(_field_errors(exc.detail, ""))
        detail = errors[0].detail if len(errors) == 1 else f"{len(errors)} fields are wrong; see errors."
        return Problem(422, "invalid-request", detail, errors=errors[:MAX_FIELD_ERRORS])
    code = next((code for kind, code in _API_CODES if isinstance(exc, kind)), None)
    if code is None:
        code = "bad-request" if exc.status_code < HTTPStatus.INTERNAL_SERVER_ERROR else "unavailable"
    headers: dict[str, str] = {}
    if (challenge := getattr(exc, "auth_header", None)) is not None:
        headers["WWW-Authenticate"] = challenge
    detail = str(exc.detail)
    if isinstance(exc, exceptions.Throttled):
        wait_s = max(1, math.ceil(getattr(exc, "wait", None) or 1))
        headers["Retry-After"] = str(wait_s)
        detail = f"The client's rate limit is reached. Try again in {wait_s} s."
    elif isinstance(exc, exceptions.NotAuthenticated):
        detail = "Send an API key as 'Authorization: Api-Key <key>' or a JWT as 'Authorization: Bearer <jwt>'."
    elif isinstance(exc, exceptions.UnsupportedMediaType):
        detail = "Send the body as JSON, with 'Content-Type: application/json'."
    return Problem(exc.status_code, code, detail, headers=headers)


def _field_errors(detail: Any, pointer: str) -> Iterator[FieldError]:
    """DRF's nested lists and dicts of messages as JSON pointers."""
    if isinstance(detail, Mapping):
        for key, value in detail.items():
            is_whole = key == api_settings.NON_FIELD_ERRORS_KEY
            yield from _field_errors(value, pointer if is_whole else f"{pointer}/{escape_pointer(str(key))}")
    elif isinstance(detail, list | tuple):
        for index, item in enumerate(detail):
            is_message = isinstance(item, str)
            yield from _field_errors(item, pointer if is_message else f"{pointer}/{index}")
    else:
        yield FieldError(pointer, str(detail), getattr(detail, "code", None) or "invalid")


def escape_pointer(word: str) -> str:
    """One reference token of a JSON pointer (RFC 6901, 3)."""
    return word.replace("~", "~0").replace("/", "~1")


def render_problem(problem: Problem) -> HttpResponse:
    """The answer: ``application/problem+json`` with the problem's document."""
    return HttpResponse(
        _to_json(describe_problem(problem, current_trace_id())),
        status=problem.status_code,
        content_type=CONTENT_TYPE,
        headers={"Cache-Control": "no-store", **problem.headers},
    )


def _to_json(document: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(document)
    except TypeError:  # a detail that quotes a lone surrogate
        return json.dumps(document).encode()


# --- Django's own error views, for what never reaches a view of the API -----------------------------------------------


def handle_bad_request(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """handler400: a suspicious request, e.g. for a host that is not ours."""
    if _wants_html(request):
        return defaults.bad_request(request, exception)
    if isinstance(exception, RequestDataTooBig):
        return render_problem(body_too_large())
    return render_problem(Problem(400, "bad-request", "The request is malformed or not meant for this host."))


def handle_forbidden(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """handler403."""
    if _wants_html(request):
        return defaults.permission_denied(request, exception)
    return render_problem(to_problem(PermissionDenied()))


def handle_not_found(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    """handler404."""
    if _wants_html(request):
        return defaults.page_not_found(request, exception)
    return render_problem(_not_found())


def handle_server_error(request: HttpRequest) -> HttpResponseBase:
    """handler500: what was raised outside the API's views. Django has logged it."""
    exception = sys.exception()
    if exception is not None and is_database_away(exception):
        return render_problem(_database_away(exception))
    if _wants_html(request):
        return defaults.server_error(request)
    return render_problem(Problem(500, "internal-error", "An unexpected error occurred. It was logged."))


def _wants_html(request: HttpRequest) -> bool:
    return request.path.startswith(_HTML_PATHS)

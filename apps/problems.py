"""The one exception the apps raise to answer an API call with an RFC 9457 problem document, and that document."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rest_framework.exceptions import APIException

# Every kind of problem: its status and title, for the documents and for the docs page.
KINDS: dict[str, tuple[int, str]] = {
    "bad-request": (400, "The request cannot be understood"),
    "malformed-json": (400, "The body cannot be read"),
    "idempotency-key-missing": (400, "The idempotency key is missing"),
    "idempotency-key-invalid": (400, "The idempotency key is malformed"),
    "malformed-receipt": (400, "The receipt cannot be read"),
    "unauthenticated": (401, "No valid credential was given"),
    "forbidden": (403, "The call is not allowed"),
    "insufficient-scope": (403, "The client lacks the scope for this call"),
    "forged-receipt": (403, "The receipt's signature does not verify"),
    "not-found": (404, "There is no such thing"),
    "unknown-user": (404, "There is no such user"),
    "unknown-device": (404, "There is no such device"),
    "unknown-suppression": (404, "There is no such suppression"),
    "method-not-allowed": (405, "The method is not available here"),
    "not-acceptable": (406, "The answer cannot be given in the form asked for"),
    "body-too-slow": (408, "The body took too long"),
    "idempotency-key-in-progress": (409, "A request with this idempotency key is in progress"),
    "audience-in-use": (409, "A broadcast uses this audience already"),
    "template-exists": (409, "There is a template of this name"),
    "broadcast-state": (409, "The broadcast is in a state that does not allow this"),
    "length-required": (411, "The length of the body is not known"),
    "preferences-changed": (412, "The preferences were changed in the meantime"),
    "body-too-large": (413, "The body is too large"),
    "unsupported-media-type": (415, "The body is not of a type understood here"),
    "invalid-request": (422, "Fields of the request are wrong"),
    "invalid-user-id": (422, "The user id in the address cannot exist"),
    "idempotency-key-reused": (422, "The idempotency key was used for another request"),
    "rate-limited": (429, "Too many requests"),
    "internal-error": (500, "Something went wrong on our side"),
    "unavailable": (503, "A part of the platform is away"),
}


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong field: ``pointer`` is a JSON pointer (RFC 6901) into the request's body."""

    pointer: str
    detail: str
    code: str = "invalid"


class Problem(APIException):
    """An answer other than success.

    ``code`` names the kind of problem for machines (the last part of the document's ``type``);
    ``detail`` says what is wrong and how to mend it; ``errors`` point at the wrong fields;
    ``headers`` are added to the answer (``Retry-After`` and the like).
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail=detail, code=code)
        self.status_code = status
        self.code = code
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


def invalid_field(pointer: str, detail: str, code: str = "invalid") -> Problem:
    """422 for one wrong field of the body."""
    return Problem(422, "invalid-request", detail, errors=[FieldError(pointer, detail, code)])


def describe_problem(problem: Problem, trace_id: str = "", *, below: str = "") -> dict[str, Any]:
    """The document: type, title, status, detail, instance, trace_id and errors, whose pointers start with ``below``.

    ``type`` is a reference relative to the API's own address and is the same everywhere: ``/problems/<code>``.
    """
    document: dict[str, Any] = {
        "type": f"/problems/{problem.code}",
        "title": KINDS[problem.code][1] if problem.code in KINDS else problem.code.replace("-", " ").capitalize(),
        "status": problem.status_code,
        "detail": str(problem.detail),
    }
    if trace_id:
        document |= {"instance": f"/traces/{trace_id}", "trace_id": trace_id}
    if problem.errors:
        document["errors"] = [
            {"pointer": below + error.pointer, "detail": error.detail, "code": error.code} for error in problem.errors
        ]
    return document

"""The one exception the apps raise to answer an API call with an RFC 9457 problem document."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rest_framework.exceptions import APIException


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

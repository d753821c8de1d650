"""Audiences over HTTP: lists of people uploaded before a broadcast."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import msgspec
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.exceptions import UnsupportedMediaType
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.clients.models import Client
from apps.delivery.api.line_parsers import CsvParser, NdjsonParser
from apps.delivery.api.schemas import schema_of
from apps.delivery.broadcasts.models import AudienceUpload
from apps.delivery.broadcasts.uploads import append_lines, create_upload, select_upload
from apps.preferences.import_formats import Format
from apps.problems import Problem, invalid_field

NAME_MAX = 200
_LINES = {
    "text/csv": {"type": "string", "description": "A column `user_id`; without a header, nothing else."},
    "application/x-ndjson": {"type": "string", "description": 'A line for each person: `{"user_id": "user-1"}`.'},
}
_EXAMPLES = [
    OpenApiExample("CSV", "user_id\nuser-1\nuser-2\n", media_type="text/csv", request_only=True),
    OpenApiExample("NDJSON", '{"user_id": "user-1"}\n', media_type="application/x-ndjson", request_only=True),
]


class LineProblemBody(msgspec.Struct, frozen=True):
    """A line that names nobody."""

    line: int
    detail: str


class AudienceAnswer(msgspec.Struct, frozen=True):
    """An uploaded list. `lines` counts what came so far, without headers and blank lines; `known` of them name a
    person, `unknown` one we have not got, the rest cannot be read. `problems` are the first hundred of a request's,
    numbered from its first line. Once a broadcast uses it, it is `sealed` and takes no more."""

    id: UUID
    name: str
    created_at: datetime
    lines: int
    known: int
    unknown: int
    sealed: bool
    problems: list[LineProblemBody]


class _LinesView(APIView):
    parser_classes = [CsvParser, NdjsonParser]

    def handle_exception(self, exc: Exception) -> Any:
        """Names the types that are taken here."""
        if isinstance(exc, UnsupportedMediaType):
            detail = "Send the people as lines, with 'Content-Type: text/csv' or 'application/x-ndjson'."
            exc = Problem(415, "unsupported-media-type", detail)
        return super().handle_exception(exc)


class AudiencesView(_LinesView):
    """Upload a list."""

    required_scopes = {"POST": "broadcasts:write"}

    @extend_schema(
        operation_id="create_audience",
        summary="Upload a list of people for a broadcast",
        description="As many as one body holds; more of them go to `POST /v1/audiences/{id}/lines`. A person who is on "
        "it several times gets a broadcast once. Kept for as long as the delivery log.",
        tags=["broadcasts"],
        parameters=[OpenApiParameter("name", {"type": "string", "maxLength": NAME_MAX}, description="For people.")],
        request=_LINES,
        examples=_EXAMPLES,
        responses={201: OpenApiResponse(schema_of(AudienceAnswer))},
    )
    def post(self, request: Request) -> Response:
        name = _read_name(request)
        upload, bite = create_upload(_client_id(request), *_read_lines(request), name=name)
        return Response(_describe(upload, [problem._asdict() for problem in bite.problems]), status=201)


class AudienceLinesView(_LinesView):
    """Add to a list."""

    required_scopes = {"POST": "broadcasts:write"}

    @extend_schema(
        operation_id="append_audience_lines",
        summary="Add people to an uploaded list",
        description="Until a broadcast uses it. A request counts whole or not at all; sent again it does no harm but "
        "to the counts.",
        tags=["broadcasts"],
        request=_LINES,
        examples=_EXAMPLES,
        responses={200: OpenApiResponse(schema_of(AudienceAnswer))},
    )
    def post(self, request: Request, audience_id: UUID) -> Response:
        upload, bite = append_lines(_client_id(request), audience_id, *_read_lines(request))
        return Response(_describe(upload, [problem._asdict() for problem in bite.problems]))


class AudienceView(APIView):
    """One list's counts."""

    required_scopes = {"GET": "broadcasts:read"}

    @extend_schema(
        operation_id="get_audience",
        summary="See what became of an uploaded list",
        tags=["broadcasts"],
        responses={200: OpenApiResponse(schema_of(AudienceAnswer))},
    )
    def get(self, request: Request, audience_id: UUID) -> Response:
        upload = select_upload(_client_id(request), audience_id)
        if upload is None:
            raise Problem(404, "not-found", "you have no audience with this id")
        return Response(_describe(upload, upload.problems))


def _describe(upload: AudienceUpload, problems: Sequence[dict[str, Any]]) -> Any:
    return msgspec.to_builtins(
        AudienceAnswer(
            id=upload.id,
            name=upload.name,
            created_at=upload.created_at,
            lines=upload.lines,
            known=upload.known,
            unknown=upload.unknown,
            sealed=upload.is_complete,
            problems=[LineProblemBody(**problem) for problem in problems],
        )
    )


def _read_lines(request: Request) -> tuple[Format, bytes]:
    if not isinstance(request.data, tuple):  # there is no body, which no parser sees
        raise invalid_field("", "the body holds no line", "required")
    format_, body = request.data
    return format_, body


def _read_name(request: Request) -> str:
    name: str = request.query_params.get("name", "")
    if len(name) > NAME_MAX or not name.isprintable():
        raise invalid_field("/name", f"at most {NAME_MAX} printable characters")
    return name


def _client_id(request: Request) -> int:
    return int(cast(Client, request.auth).pk)  # set by ClientAuthentication

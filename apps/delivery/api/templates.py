"""Templates over HTTP: make, list, look at, preview, switch versions."""

import re
from typing import Annotated, Any, TypeVar, cast

import msgspec
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from msgspec import Meta
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.channels import Channel
from apps.clients.models import Client
from apps.delivery.api.paging import LIMIT_DEFAULT, LIMIT_MAX
from apps.delivery.api.requests import decode_body, to_field_error
from apps.delivery.api.schemas import schema_of
from apps.delivery.api.template_answers import (
    PreviewAnswer,
    TemplateAnswer,
    TemplatePage,
    TemplateSummary,
    VersionAnswer,
    describe_previews,
    describe_template,
    describe_version,
    summarise_template,
)
from apps.delivery.templating import selectors, services
from apps.delivery.templating.drafts import (
    DEFAULT_LOCALE,
    ChannelName,
    Locale,
    VersionBody,
    find_faults,
    to_version,
)
from apps.delivery.templating.models import Template, TemplateVersion
from apps.delivery.templating.previews import preview
from apps.delivery.templating.resolving import NAME_PATTERN
from apps.delivery.templating.variables import NAME as VARIABLE_NAME
from apps.delivery.templating.variables import Variable
from apps.delivery.templating.versions import Version, load_versions
from apps.preferences.profile import InvalidValue, check_locale
from apps.problems import Problem, invalid_field

READ = "templates:read"
WRITE = "templates:write"
TemplateName = Annotated[str, Meta(pattern=rf"^{NAME_PATTERN}\Z")]
_Body = TypeVar("_Body", bound=VersionBody)
VersionNumber = Annotated[int, Meta(ge=1, le=1_000_000_000)]


class NewVersionBody(VersionBody, forbid_unknown_fields=True):
    """A new version. `activate`: the name means it from now on."""

    activate: bool = False


class NewTemplateBody(VersionBody, forbid_unknown_fields=True, kw_only=True):
    """A template and its first version. `default_locale` is whose words people get in whose own language there are
    none; it stays."""

    name: TemplateName
    description: Annotated[str, Meta(max_length=500)] = ""
    default_locale: Locale = DEFAULT_LOCALE
    activate: bool = True


class ActiveBody(msgspec.Struct, forbid_unknown_fields=True):
    """The version that the name means from now on; null for none."""

    version: VersionNumber | None


class PreviewBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What to preview: without a `context` sample values, without a `channel` all that there are words for, without a
    `locale` the default one, without a `version` the active one."""

    context: dict[str, Any] | None = None
    channel: ChannelName | None = None
    locale: Locale | None = None
    version: VersionNumber | None = None


class UnsavedPreviewBody(VersionBody, forbid_unknown_fields=True, kw_only=True):
    """A version that is not stored, and what to fill it with."""

    default_locale: Locale = DEFAULT_LOCALE
    context: dict[str, Any] | None = None
    channel: ChannelName | None = None
    locale: Locale | None = None


_NAME = OpenApiParameter(
    "name", {"type": "string", "pattern": f"^{NAME_PATTERN}$"}, OpenApiParameter.PATH, description="Its name."
)
_VERSION = {
    "variables": {
        "name": {"type": "string", "max_length": 80, "example": "Ann"},
        "total": {"type": "number", "example": 19.9},
        "link": {"type": "url", "default": "https://example.com/orders"},
    },
    "texts": [
        {"channel": "push", "locale": "en", "title": "Thank you, {{ name }}", "body": "Your order is on its way."},
        {
            "channel": "email",
            "locale": "en",
            "title": "Your order",
            "body": "Dear {{ name }},\nyou paid € {{ total | number(2) }}: {{ link }}",
            "html": '<p>Dear {{ name }},</p><p>you paid <a href="{{ link }}">€ {{ total | number(2) }}</a>.</p>',
        },
    ],
}
_EXAMPLE = OpenApiExample("An order confirmation", {"name": "order-confirmed", **_VERSION}, request_only=True)


class TemplatesView(APIView):
    """Make a template; list those there are."""

    required_scopes = {"GET": READ, "POST": WRITE}

    @extend_schema(
        operation_id="list_templates",
        summary="List your templates and the shared ones, by name",
        tags=["templates"],
        parameters=[
            OpenApiParameter(
                "limit", {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT}
            ),
            OpenApiParameter("cursor", str, description="The `next` of the page before."),
        ],
        responses={200: OpenApiResponse(schema_of(TemplatePage))},
    )
    def get(self, request: Request) -> Response:
        limit, cursor = _read_page(request)
        rows = selectors.select_templates(_client(request).pk, after=cursor, limit=limit + 1)
        results = [summarise_template(row, row.latest_version) for row in rows[:limit]]  # type: ignore[attr-defined]
        return _answer(TemplatePage(results, rows[limit - 1].name if len(rows) > limit else None))

    @extend_schema(
        operation_id="create_template",
        summary="Make a template with its first version",
        description="Everything is checked: each text compiles, uses declared variables only, and renders with sample "
        "values (`example`, else `default`). A name of your own hides a shared template of that name.",
        tags=["templates"],
        request={"application/json": schema_of(NewTemplateBody)},
        responses={
            201: OpenApiResponse(schema_of(VersionAnswer), "It can be used at once, unless `activate` is false."),
            409: OpenApiResponse({}, "You have a template of this name."),
        },
        examples=[_EXAMPLE],
    )
    def post(self, request: Request) -> Response:
        body = _decode(request, NewTemplateBody)
        client = _client(request)
        new = services.NewTemplate(client.pk, body.name, body.default_locale, body.description)
        template = services.create_template(new, body, by=client.name, is_active=body.activate)
        return _answer(describe_version(template, _stored(template, 1)), 201)


class TemplateView(APIView):
    """One template."""

    required_scopes = {"GET": READ}

    @extend_schema(
        operation_id="get_template",
        summary="Read a template, its versions and the words of one of them",
        tags=["templates"],
        parameters=[
            _NAME,
            OpenApiParameter(
                "version",
                {"type": "integer", "minimum": 1},
                description="The version to read; the active one if not given.",
            ),
        ],
        responses={200: OpenApiResponse(schema_of(TemplateAnswer))},
    )
    def get(self, request: Request, name: str) -> Response:
        template = selectors.find_template(_client(request).pk, name)
        number = _read_version(request)
        return _answer(describe_template(template, selectors.select_versions(template), _stored(template, number)))


class VersionsView(APIView):
    """New versions."""

    required_scopes = {"POST": WRITE}

    @extend_schema(
        operation_id="create_template_version",
        summary="Make the next version of your template",
        description="A version never changes. It becomes active by `activate` or by `PUT …/active`; until then it can "
        "be named as `name@3` and previewed.",
        tags=["templates"],
        parameters=[_NAME],
        request={"application/json": schema_of(NewVersionBody)},
        responses={201: OpenApiResponse(schema_of(VersionAnswer))},
        examples=[OpenApiExample("A version", {**_VERSION, "activate": True}, request_only=True)],
    )
    def post(self, request: Request, name: str) -> Response:
        body = _decode(request, NewVersionBody)
        client = _client(request)
        template = selectors.find_own_template(client.pk, name)
        version = services.add_version(template, body, by=client.name, is_active=body.activate)
        template.refresh_from_db()
        return _answer(describe_version(template, version), 201)


class ActiveView(APIView):
    """Which version a name means."""

    required_scopes = {"PUT": WRITE}

    @extend_schema(
        operation_id="activate_template_version",
        summary="Roll your template back or forward to a version",
        description="What was accepted before is sent with the version it was accepted with.",
        tags=["templates"],
        parameters=[_NAME],
        request={"application/json": schema_of(ActiveBody)},
        responses={200: OpenApiResponse(schema_of(TemplateSummary))},
        examples=[OpenApiExample("Back to the first", {"version": 1}, request_only=True)],
    )
    def put(self, request: Request, name: str) -> Response:
        body = decode_body(request.data, ActiveBody)
        template = selectors.find_own_template(_client(request).pk, name)
        services.activate(template, body.version)
        template.refresh_from_db()
        return _answer(summarise_template(template, selectors.select_versions(template)[0].number))


class PreviewView(APIView):
    """What a template would say."""

    required_scopes = {"POST": READ}

    @extend_schema(
        operation_id="preview_template",
        summary="See what a template says, and how large that is",
        tags=["templates"],
        parameters=[_NAME],
        request={"application/json": schema_of(PreviewBody)},
        responses={200: OpenApiResponse(schema_of(PreviewAnswer))},
        examples=[
            OpenApiExample(
                "In Austrian German", {"context": {"name": "Ann", "total": 19.9}, "locale": "de-AT"}, request_only=True
            )
        ],
    )
    def post(self, request: Request, name: str) -> Response:
        body = decode_body(request.data, PreviewBody)
        template = selectors.find_template(_client(request).pk, name)
        stored = _stored(template, body.version, "/version")
        return _preview(load_versions([stored.pk])[stored.pk], body)


class UnsavedPreviewView(APIView):
    """What a version would say that is not stored."""

    required_scopes = {"POST": READ}

    @extend_schema(
        operation_id="preview_unsaved_template",
        summary="Check and preview a version without storing it",
        tags=["templates"],
        request={"application/json": schema_of(UnsavedPreviewBody)},
        responses={200: OpenApiResponse(schema_of(PreviewAnswer))},
        examples=[OpenApiExample("A version", {**_VERSION, "locale": "en"}, request_only=True)],
    )
    def post(self, request: Request) -> Response:
        body = _decode(request, UnsavedPreviewBody)
        default_locale = _locale(body.default_locale, "/default_locale")
        if faults := find_faults(body, default_locale):
            raise Problem(422, "invalid-request", faults[0].detail, errors=faults)
        return _preview(to_version(body, default_locale), body)


def _decode(request: Request, shape: type[_Body]) -> _Body:
    """The body; a wrong declaration is pointed at by its name, which msgspec leaves out."""
    variables = cast(dict[str, Any], request.data).get("variables")
    for name, variable in variables.items() if isinstance(variables, dict) else ():
        pointer = f"/variables/{name.replace('~', '~0').replace('/', '~1')}"
        if not re.match(VARIABLE_NAME, name):
            raise invalid_field(pointer, "a name has 1 to 64 letters, digits and _, beginning with a letter")
        try:
            msgspec.convert(variable, Variable, strict=True)
        except msgspec.ValidationError as error:
            fault = to_field_error(str(error))
            raise invalid_field(pointer + fault.pointer, fault.detail, fault.code) from None
    return decode_body(request.data, shape)


def _preview(version: Version, body: PreviewBody | UnsavedPreviewBody) -> Response:
    locale = version.default_locale if body.locale is None else _locale(body.locale, "/locale")
    channels = version.channels if body.channel is None else (Channel.from_label(body.channel),)
    return _answer(describe_previews(version, locale, preview(version, body.context, locale, channels)))


def _stored(template: Template, number: int | None, pointer: str = "") -> TemplateVersion:
    version = selectors.find_version(template, number)
    if version is None and pointer:
        raise invalid_field(pointer, f"there is no version {number}", "unknown_version")
    if version is None:
        raise Problem(404, "not-found", f"the template has no version {number}")
    return version


def _locale(tag: str, pointer: str) -> str:
    try:
        return check_locale(tag)
    except InvalidValue as error:
        raise invalid_field(pointer, str(error)) from None


def _read_page(request: Request) -> tuple[int, str | None]:
    parameters = _only(request, ("limit", "cursor"))
    limit = parameters.get("limit", str(LIMIT_DEFAULT))
    if not limit.isascii() or not limit.isdigit() or len(limit) > 3 or not 1 <= int(limit) <= LIMIT_MAX:
        raise invalid_field("/limit", f"must be a number from 1 to {LIMIT_MAX}")
    return int(limit), parameters.get("cursor")


def _read_version(request: Request) -> int | None:
    number = _only(request, ("version",)).get("version")
    if number is None:
        return None
    if not number.isascii() or not number.isdigit() or len(number) > 9 or int(number) < 1:
        raise invalid_field("/version", "must be the number of a version")
    return int(number)


def _only(request: Request, names: tuple[str, ...]) -> dict[str, str]:
    """The query parameters, all of them known."""
    parameters = request.query_params.dict()
    for name, value in parameters.items():
        if name not in names:
            raise invalid_field(f"/{name}", f"there is no such parameter; there are {', '.join(names)}", "unknown")
        if "\0" in value:
            raise invalid_field(f"/{name}", "must not contain NUL")
    return parameters


def _client(request: Request) -> Client:
    return cast(Client, request.auth)


def _answer(body: msgspec.Struct, status: int = 200) -> Response:
    return Response(msgspec.to_builtins(body), status=status)

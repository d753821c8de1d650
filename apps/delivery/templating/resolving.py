"""From a request's template and context to content: which version, whether the context fits, and whether what comes out
fits the channels."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from django.db import connection
from msgspec import Meta

from apps.channels import Channel
from apps.delivery.content import Content, find_oversize
from apps.delivery.rendering import Renderer
from apps.delivery.templating.errors import TemplateError
from apps.delivery.templating.variables import find_wrong_values
from apps.delivery.templating.versions import FieldTemplateError, Version, load_versions
from apps.problems import FieldError, Problem, invalid_field

NAME_PATTERN: Final = r"[a-z0-9][a-z0-9_.-]{0,63}"
_REFERENCE: Final = re.compile(rf"(?P<name>{NAME_PATTERN})(?:@(?P<number>[1-9][0-9]{{0,8}}))?\Z")
TemplateReference = Annotated[
    str,
    Meta(
        pattern=rf"^{NAME_PATTERN}(@[1-9][0-9]{{0,8}})?\Z",
        description="A template's name, or name@version; without a version the active one.",
    ),
]
Context = Annotated[
    dict[str, Any], Meta(description="The values of the template's variables.", extra_json_schema={"default": {}})
]


@dataclass(frozen=True, slots=True)
class Resolution:
    """``content`` names the version and holds the context; ``channels`` are those asked for, or, if none were, all that
    the template has words for."""

    content: Content
    channels: tuple[Channel, ...]


def resolve(
    client_id: int, reference: str, context: Mapping[str, Any], channels: Sequence[Channel] | None
) -> Resolution:
    """The content of a request for a template; raises ``Problem`` 422 that points at what is wrong. One query."""
    version = find_versions(client_id, [reference])[reference]
    if isinstance(version, Problem):
        raise version
    return fill_context(version, context, channels)


def fill_context(version: Version, context: Mapping[str, Any], channels: Sequence[Channel] | None) -> Resolution:
    """The same for a version that was found before. No query."""
    errors = find_wrong_values(context, version.variables)
    for place, channel in enumerate(channels or ()):
        if channel not in version.locales:
            detail = f"the template {version.name} has no words for {channel.label}"
            errors.append(FieldError(f"/channels/{place}", detail, "no_words"))
    if errors:
        raise Problem(422, "invalid-request", errors[0].detail, errors=errors)
    content = Content(template=version.id, context=dict(context))
    return Resolution(content, tuple(channels) if channels else version.channels)


def find_versions(client_id: int, references: Collection[str]) -> dict[str, Version | Problem]:
    """What each reference of a client's request means: the version, or the problem to answer. One query, and one more
    for versions this process has not seen yet."""
    wanted = {reference: match for reference in references if (match := _REFERENCE.match(reference))}
    rows = _read_candidates(client_id, wanted.values()) if wanted else []
    chosen: dict[str, int | Problem] = {reference: _unknown(reference) for reference in references}
    for reference, match in wanted.items():
        chosen[reference] = _choose(reference, match["name"], match["number"], rows)
    versions = load_versions({version_id for version_id in chosen.values() if isinstance(version_id, int)})
    return {
        reference: version if isinstance(version, Problem) else versions.get(version) or _unknown(reference)
        for reference, version in chosen.items()
    }


class _Candidate(NamedTuple):
    name: str
    is_shared: bool
    is_archived: bool
    active: int | None
    number: int | None
    version_id: int | None


def _read_candidates(client_id: int, references: Iterable[re.Match[str]]) -> list[_Candidate]:
    """The templates of these names, each with its active version and those asked for; a client's own first."""
    names = list({reference["name"] for reference in references})
    numbers = list({int(reference["number"]) for reference in references if reference["number"]})
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT t.name, t.client_id IS NULL, t.archived_at IS NOT NULL, t.active_version, v.number, v.id "
            "FROM template t LEFT JOIN template_version v ON v.template_id = t.id "
            "AND (v.number = t.active_version OR v.number = ANY(%s)) "
            "WHERE t.name = ANY(%s) AND (t.client_id = %s OR t.client_id IS NULL) ORDER BY t.client_id NULLS LAST",
            [numbers, names, client_id],
        )
        return [_Candidate(*row) for row in cursor.fetchall()]


def _choose(reference: str, name: str, number: str | None, rows: Sequence[_Candidate]) -> int | Problem:
    named = [row for row in rows if row.name == name]
    if not named:
        return _unknown(reference)
    own = [row for row in named if row.is_shared is named[0].is_shared]  # a client's own hides the shared one
    if own[0].is_archived:
        return invalid_field("/template", f"the template {name} is archived", "archived_template")
    wanted = own[0].active if number is None else int(number)
    if wanted is None:
        return invalid_field("/template", f"the template {name} has no active version", "no_active_version")
    found = next((row.version_id for row in own if row.number == wanted), None)
    if found is None:
        return invalid_field("/template", f"the template {name} has no version {wanted}", "unknown_version")
    return found


def _unknown(reference: str) -> Problem:
    return invalid_field("/template", "there is no such template; GET /v1/templates lists them", "unknown_template")


def render_checked(
    content: Content, channels: Iterable[Channel], locale: str, renderer: Renderer | None = None
) -> dict[Channel, Content]:
    """The words a person with ``locale`` gets on each channel; raises ``Problem`` 422 if they cannot be rendered or are
    too large for their channel. Content without a template is only measured."""
    wanted = list(channels)
    if content.template is None:
        if oversize := find_oversize(content, set(wanted)):
            raise invalid_field(*oversize, "too_large")
        return dict.fromkeys(wanted, content)
    renderer = renderer or Renderer()
    return {channel: _render_one(content, channel, locale, renderer) for channel in wanted}


def check_everywhere(content: Content, channels: Iterable[Channel]) -> None:
    """``render_checked`` for every locale the template has words in: for an audience of many locales."""
    if content.template is None:
        render_checked(content, channels, "")
        return
    version = load_versions([content.template])[content.template]
    renderer = Renderer()
    for channel in channels:
        for locale in version.locales.get(channel, ("",)):
            render_checked(content, [channel], locale, renderer)


def _render_one(content: Content, channel: Channel, locale: str, renderer: Renderer) -> Content:
    try:
        rendered = renderer.render(content, channel, locale)
    except TemplateError as error:
        raise _unrenderable(channel, error) from None
    if oversize := find_oversize(rendered, {channel}):
        pointer, detail = oversize
        raise invalid_field(
            pointer if pointer == "/data" else "/context", f"the template filled in: {detail}", "too_large"
        )
    return rendered


def _unrenderable(channel: Channel, error: TemplateError) -> Problem:
    pointer = "".join(f"/{_escape(str(step))}" for step in ("context", *error.variable))
    field = f"{error.field}, " if isinstance(error, FieldTemplateError) else ""
    return invalid_field(
        pointer, f"the template's {channel.label} cannot be filled in: {field}{error}", "template_error"
    )


def _escape(step: str) -> str:
    return step.replace("~", "~0").replace("/", "~1")


def with_data(content: Content, data: dict[str, str], collapse_key: str | None) -> Content:
    """The content with what a request says beside the words."""
    return msgspec.structs.replace(content, data=data, collapse_key=collapse_key)

"""What the API says about templates, as typed structs."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from apps.channels import Channel
from apps.delivery.templating.drafts import ChannelName
from apps.delivery.templating.models import Template, TemplateVersion
from apps.delivery.templating.previews import Preview, missing_locales
from apps.delivery.templating.versions import Version


class TemplateSummary(msgspec.Struct, frozen=True):
    """A template. `shared`: it is everybody's, and changed in the admin only."""

    name: str
    description: str
    default_locale: str
    active_version: int | None
    latest_version: int | None
    shared: bool
    created_at: datetime
    archived_at: datetime | None


class TemplatePage(msgspec.Struct, frozen=True):
    """A page of templates by name; `next` is the cursor of the page after."""

    results: list[TemplateSummary]
    next: str | None


class VersionSummary(msgspec.Struct, frozen=True):
    """A version among others."""

    version: int
    created_at: datetime
    created_by: str
    active: bool


class TextAnswer(msgspec.Struct, frozen=True):
    """The words on one channel in one locale, as written."""

    channel: ChannelName
    locale: str
    title: str
    body: str
    html: str


class VersionAnswer(msgspec.Struct, frozen=True):
    """A version with its words."""

    template: str
    version: int
    created_at: datetime
    created_by: str
    active: bool
    variables: dict[str, Any]
    texts: list[TextAnswer]


class TemplateAnswer(msgspec.Struct, frozen=True):
    """A template with its versions, newest first, and one of them in full: the one asked for, else the active, else the
    newest one."""

    template: TemplateSummary
    versions: list[VersionSummary]
    version: VersionAnswer


class SmsSize(msgspec.Struct, frozen=True):
    """What an SMS costs: its parts on the air, and the alphabet that makes it so."""

    segments: int
    encoding: str


class PreviewedText(msgspec.Struct, frozen=True):
    """The words on one channel. `locale` is the one they were taken from, `fallback` whether it is another than the one
    asked for; `sizes` are bytes; `problems` say why this could not be sent."""

    channel: ChannelName
    locale: str
    fallback: bool
    title: str
    body: str
    html: str | None
    sizes: dict[str, int]
    sms: SmsSize | None
    problems: list[str]


class PreviewAnswer(msgspec.Struct, frozen=True):
    """What a template would say. `missing_locales`: by channel those that only other channels have words in."""

    version: int | None
    locale: str
    previews: list[PreviewedText]
    missing_locales: dict[str, list[str]]


def summarise_template(template: Template, latest: int | None) -> TemplateSummary:
    return TemplateSummary(
        template.name,
        template.description,
        template.default_locale,
        template.active_version,
        latest,
        template.client_id is None,
        template.created_at,
        template.archived_at,
    )


def describe_version(template: Template, version: TemplateVersion) -> VersionAnswer:
    texts = sorted(version.texts.all(), key=lambda text: (text.channel, text.locale))
    return VersionAnswer(
        template.name,
        version.number,
        version.created_at,
        version.created_by,
        version.number == template.active_version,
        version.variables,
        [
            TextAnswer(Channel(text.channel).label, text.locale, text.title, text.body, text.html)  # type: ignore[arg-type]
            for text in texts
        ],
    )


def describe_template(
    template: Template, versions: Sequence[TemplateVersion], chosen: TemplateVersion
) -> TemplateAnswer:
    return TemplateAnswer(
        summarise_template(template, versions[0].number),
        [
            VersionSummary(row.number, row.created_at, row.created_by, row.number == template.active_version)
            for row in versions
        ],
        describe_version(template, chosen),
    )


def describe_previews(version: Version, locale: str, previews: Iterable[Preview]) -> PreviewAnswer:
    return PreviewAnswer(
        version.number or None,
        locale,
        [_describe_preview(preview) for preview in previews],
        {channel.label: locales for channel, locales in missing_locales(version).items() if locales},
    )


def _describe_preview(preview: Preview) -> PreviewedText:
    sms = None
    if preview.segments is not None:
        sms = SmsSize(preview.segments, "UCS-2" if preview.is_unicode else "GSM-7")
    return PreviewedText(
        preview.channel.label,  # type: ignore[arg-type]
        preview.locale,
        preview.is_fallback,
        preview.title,
        preview.body,
        preview.html,
        dict(preview.bytes),
        sms,
        list(preview.problems),
    )

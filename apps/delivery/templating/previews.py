"""What a template would say, and how large that is on each channel."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from apps.channels import Channel
from apps.delivery.content import Content, find_oversize, push_payload_bytes
from apps.delivery.templating.drafts import render_sample
from apps.delivery.templating.errors import TemplateError
from apps.delivery.templating.variables import find_wrong_values, sample_context
from apps.delivery.templating.versions import FieldTemplateError, Version
from apps.problems import Problem
from apps.providers.adapters.sms_segments import count_segments


@dataclass(frozen=True, slots=True)
class Preview:
    """The words on one channel. ``locale`` is the one whose words were taken; ``problems`` say why it could not be
    sent like this."""

    channel: Channel
    locale: str
    is_fallback: bool
    title: str = ""
    body: str = ""
    html: str | None = None
    bytes: Mapping[str, int] = field(default_factory=dict)
    segments: int | None = None
    is_unicode: bool | None = None
    problems: tuple[str, ...] = ()


def preview(
    version: Version, context: Mapping[str, Any] | None, locale: str, channels: Iterable[Channel]
) -> list[Preview]:
    """The words for a context (without one, for sample values) on each of the channels; raises ``Problem`` 422 for a
    wrong context. Text that cannot be rendered is a preview with problems."""
    if context is not None and (errors := find_wrong_values(context, version.variables)):
        raise Problem(422, "invalid-request", errors[0].detail, errors=errors)
    values = sample_context(version.variables) if context is None else context
    return [_preview_one(version, values, locale, channel) for channel in channels]


def missing_locales(version: Version) -> dict[Channel, list[str]]:
    """By channel the locales that another channel has words in and this one has not."""
    everywhere = {locale for locales in version.locales.values() for locale in locales}
    return {channel: sorted(everywhere - set(version.locales[channel])) for channel in version.channels}


def _preview_one(version: Version, context: Mapping[str, Any], locale: str, channel: Channel) -> Preview:
    chosen = ""
    try:
        chosen = version.choose_locale(channel, locale)
        words = render_sample(version.text(channel, chosen), context, version.variables)
    except TemplateError as error:
        where = f"{error.field}: " if isinstance(error, FieldTemplateError) else ""
        return Preview(channel, chosen, chosen != locale, problems=(f"{where}{error}",))
    content = Content(title=words.title, body=words.body, html=words.html)
    oversize = find_oversize(content, {channel})
    sizes = {name: len(text.encode()) for name, text in zip(words._fields, words, strict=True) if text}
    segments = count_segments(content.sms_body) if channel is Channel.SMS else None
    if channel is Channel.PUSH:
        sizes["payload"] = push_payload_bytes(content)
    return Preview(
        channel,
        chosen,
        chosen != locale,
        content.email_subject if channel is Channel.EMAIL else words.title,
        words.body,
        words.html,
        sizes,
        segments.count if segments else None,
        segments.is_unicode if segments else None,
        (oversize[1],) if oversize else (),
    )

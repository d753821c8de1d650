"""A version as its author writes it, and everything that can be found wrong with it before it exists."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta

from apps.channels import Channel
from apps.delivery.content import Content, find_oversize
from apps.delivery.templating.errors import TemplateError
from apps.delivery.templating.limits import BODY_SOURCE_MAX, HTML_SOURCE_MAX, TEXTS_MAX, TITLE_SOURCE_MAX
from apps.delivery.templating.locales import choose_locale
from apps.delivery.templating.state import Missing
from apps.delivery.templating.variables import (
    Variable,
    Variables,
    bind,
    find_wrong_declarations,
    sample_context,
)
from apps.delivery.templating.versions import FieldTemplateError, Source, Text, Version, Words
from apps.preferences.profile import LOCALE_MAX_LENGTH, InvalidValue, check_locale
from apps.problems import FieldError

ChannelName = Literal["push", "sms", "email"]
DEFAULT_LOCALE: Final = "en"
Locale = Annotated[
    str, Meta(min_length=2, max_length=LOCALE_MAX_LENGTH, description="A BCP 47 tag such as `de` or `de-AT`.")
]


class TextBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The words on one channel in one locale. `title` is a push's title or an e-mail's subject; `html` is e-mail's."""

    channel: ChannelName
    locale: Locale
    body: Annotated[str, Meta(min_length=1, max_length=BODY_SOURCE_MAX)]
    title: Annotated[str, Meta(max_length=TITLE_SOURCE_MAX)] = ""
    html: Annotated[str, Meta(max_length=HTML_SOURCE_MAX)] = ""


class VersionBody(msgspec.Struct, forbid_unknown_fields=True):
    """A version: the variables that its words use, and the words."""

    texts: Annotated[list[TextBody], Meta(min_length=1, max_length=TEXTS_MAX)]
    variables: Variables = {}


def to_sources(texts: Iterable[TextBody]) -> list[Source]:
    """The texts with their locales in their usual case; for texts in which nothing wrong was found."""
    return [
        Source(Channel.from_label(text.channel), check_locale(text.locale), text.title, text.body, text.html)
        for text in texts
    ]


def find_faults(draft: VersionBody, default_locale: str) -> list[FieldError]:
    """Everything wrong with a version, by pointers into its body: declarations, texts that do not compile or use what
    is not declared, channels without words in the default locale, and what fails with sample values."""
    errors = find_wrong_declarations(draft.variables)
    errors += _find_wrong_texts(draft.texts)
    if errors:
        return errors
    sources = to_sources(draft.texts)
    errors = _find_gaps(sources, default_locale)
    for place, source in enumerate(sources):
        errors += _try_text(source, draft.variables, f"/texts/{place}")
    return errors


def to_version(draft: VersionBody, default_locale: str, name: str = "", number: int = 0) -> Version:
    """A version that is not stored, to look at."""
    return Version(0, name, number, default_locale, draft.variables, to_sources(draft.texts))


def render_sample(text: Text, context: Mapping[str, Any], variables: Mapping[str, Variable]) -> Words:
    """The words for ``context``. A list or object that is neither there nor has an example counts as full of whatever
    the words look for in it. Raises ``FieldTemplateError``."""
    values = bind(context, variables)
    unknown = {
        name
        for name, variable in variables.items()
        if name not in context and variable.type in ("list", "object") and variable.default is UNSET
    }
    return text.render({**values, **{name: Missing((name,)) for name in unknown}}, unknown)


def _find_wrong_texts(texts: Sequence[TextBody]) -> list[FieldError]:
    errors: list[FieldError] = []
    seen: Counter[tuple[str, str]] = Counter()
    for place, text in enumerate(texts):
        pointer = f"/texts/{place}"
        try:
            locale = check_locale(text.locale)
        except InvalidValue as error:
            errors.append(FieldError(f"{pointer}/locale", str(error)))
            continue
        seen[text.channel, locale] += 1
        if seen[text.channel, locale] == 2:
            errors.append(FieldError(pointer, f"there are words for {text.channel} in {locale} already", "duplicate"))
        if text.title and text.channel == "sms":
            errors.append(FieldError(f"{pointer}/title", "an SMS has no title; leave it out"))
        if text.html and text.channel != "email":
            errors.append(FieldError(f"{pointer}/html", "HTML is for e-mail alone; leave it out"))
    return errors


def _find_gaps(sources: Sequence[Source], default_locale: str) -> list[FieldError]:
    locales: dict[Channel, list[str]] = {}
    for source in sources:
        locales.setdefault(source.channel, []).append(source.locale)
    return [
        FieldError(
            "/texts", f"{channel.label} has no words in the default locale {default_locale}", "no_default_locale"
        )
        for channel, available in locales.items()
        if choose_locale("", default_locale, available) is None
    ]


def _try_text(source: Source, variables: Mapping[str, Variable], pointer: str) -> list[FieldError]:
    """Compiles a text and renders it twice: with a sample of everything, and with what is required alone."""
    samples = sample_context(variables)
    optional = {name: None for name, variable in variables.items() if not variable.is_required}
    try:
        text = Text(source, variables)
        words = render_sample(text, samples, variables)
        render_sample(text, {**samples, **optional}, variables)
    except FieldTemplateError as error:
        return [FieldError(f"{pointer}/{error.field}", str(error), "template_error")]
    except TemplateError as error:
        return [FieldError(pointer, str(error), "template_error")]
    content = Content(title=words.title, body=words.body, html=words.html)
    if oversize := find_oversize(content, {source.channel}):
        return [FieldError(f"{pointer}/body", f"with sample values: {oversize[1]}", "too_large")]
    return []

"""Versions of templates, compiled, and kept by each process: a version never changes once it exists."""

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple

import msgspec
from django.db import connection

from apps.channels import Channel
from apps.delivery.templating.compiler import Kind, Program, compile_text
from apps.delivery.templating.errors import TemplateError
from apps.delivery.templating.limits import BODY_SOURCE_MAX, HTML_SOURCE_MAX, TITLE_SOURCE_MAX
from apps.delivery.templating.locales import choose_locale
from apps.delivery.templating.variables import Variable, bind, load_variables

FIELDS: Final = ("title", "body", "html")
KINDS: Final[Mapping[str, Kind]] = {"title": Kind.TITLE, "body": Kind.TEXT, "html": Kind.HTML}
SOURCE_MAX: Final[Mapping[str, int]] = {
    "title": TITLE_SOURCE_MAX,
    "body": BODY_SOURCE_MAX,
    "html": HTML_SOURCE_MAX,
}
CACHE_COST: Final = 16_000_000  # a rough number of bytes
_TAG_COST: Final = 1_000


class Source(NamedTuple):
    """The words of a version on one channel in one locale, as written; ``html`` may be blank."""

    channel: Channel
    locale: str
    title: str
    body: str
    html: str


class Words(NamedTuple):
    """What comes out."""

    title: str
    body: str
    html: str | None


class FieldTemplateError(TemplateError):
    """A ``TemplateError`` that knows in which field of a text it is."""

    def __init__(self, field: str, error: TemplateError) -> None:
        super().__init__(error.detail, line=error.line, variable=error.variable)
        self.field = field


class Text:
    """The compiled words of one channel and locale."""

    def __init__(self, source: Source, variables: Mapping[str, Variable]) -> None:
        types = {name: variable.type for name, variable in variables.items()}
        self._programs: dict[str, Program] = {}
        for field in FIELDS:
            written: str = getattr(source, field)
            if field == "html" and not written:
                continue
            try:
                if len(written) > SOURCE_MAX[field]:
                    raise TemplateError(f"this has at most {SOURCE_MAX[field]} characters")
                self._programs[field] = compile_text(written, KINDS[field], types, source.locale)
            except TemplateError as error:
                raise FieldTemplateError(field, error) from None

    def render(self, values: Mapping[str, Any], samples: Collection[str] = ()) -> Words:
        """The words for these values (see ``bind`` and ``Program.render``); raises ``FieldTemplateError``."""
        rendered = {field: self._render_field(field, values, samples) for field in self._programs}
        return Words(rendered["title"], rendered["body"], rendered.get("html"))

    def _render_field(self, field: str, values: Mapping[str, Any], samples: Collection[str]) -> str:
        try:
            text = self._programs[field].render(values, samples)
            if field != "title" and not text.strip():
                raise TemplateError("nothing comes out")
        except TemplateError as error:
            raise FieldTemplateError(field, error) from None
        return text


class Version:
    """A version with its texts, each compiled when it is first used."""

    def __init__(
        self,
        version_id: int,
        name: str,
        number: int,
        default_locale: str,
        variables: Mapping[str, Variable],
        sources: Sequence[Source],
    ) -> None:
        self.id = version_id
        self.name = name
        self.number = number
        self.default_locale = default_locale
        self.variables = variables
        self.sources = {(source.channel, source.locale): source for source in sources}
        self.locales: dict[Channel, tuple[str, ...]] = {}
        for source in sources:
            self.locales[source.channel] = (*self.locales.get(source.channel, ()), source.locale)
        self.cost = sum(
            len(text) + _TAG_COST * (text.count("{{") + text.count("{%")) + 200
            for source in sources
            for text in (source.title, source.body, source.html)
        )
        self._texts: dict[tuple[Channel, str], Text] = {}

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels there are words for, in their order."""
        return tuple(channel for channel in Channel if channel in self.locales)

    def choose_locale(self, channel: Channel, locale: str) -> str:
        """The locale of the words a person with ``locale`` gets; raises ``TemplateError`` if the channel has none."""
        chosen = choose_locale(locale, self.default_locale, self.locales.get(channel, ()))
        if chosen is None:
            raise TemplateError(f"the template {self.name} has no words for {channel.label}")
        return chosen

    def text(self, channel: Channel, locale: str) -> Text:
        """The compiled words of exactly this locale; raises ``TemplateError``."""
        key = (channel, locale)
        text = self._texts.get(key)
        if text is None:
            text = self._texts[key] = Text(self.sources[key], self.variables)
        return text

    def bind(self, context: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a context that was found right when it was accepted."""
        try:
            return bind(context, self.variables)
        except (ValueError, TypeError):
            raise TemplateError("the context does not fit the template's variables") from None


class _Cache:
    """The versions used last, bounded by what they weigh."""

    def __init__(self) -> None:
        self._versions: OrderedDict[int, Version] = OrderedDict()
        self._cost = 0
        self._lock = threading.Lock()

    def get_many(self, ids: Collection[int]) -> dict[int, Version]:
        with self._lock:
            found = {key: self._versions[key] for key in ids if key in self._versions}
            for key in found:
                self._versions.move_to_end(key)
        return found

    def put(self, version: Version) -> None:
        with self._lock:
            old = self._versions.pop(version.id, None)
            self._cost += version.cost - (old.cost if old else 0)
            self._versions[version.id] = version
            while self._cost > CACHE_COST and len(self._versions) > 1:
                self._cost -= self._versions.popitem(last=False)[1].cost

    def clear(self) -> None:
        with self._lock:
            self._versions.clear()
            self._cost = 0


_cache = _Cache()
forget_versions = _cache.clear


def load_versions(ids: Collection[int]) -> dict[int, Version]:
    """The versions with these ids that exist: from this process's cache, the rest in one query."""
    found = _cache.get_many(ids)
    wanted = [key for key in ids if key not in found]
    for version in _read_versions(wanted) if wanted else ():
        _cache.put(version)
        found[version.id] = version
    return found


def _read_versions(ids: Sequence[int]) -> list[Version]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT v.id, t.name, v.number, t.default_locale, v.variables::text, "
            "x.channel, x.locale, x.title, x.body, x.html "
            "FROM template_version v JOIN template t ON t.id = v.template_id "
            "JOIN template_text x ON x.version_id = v.id WHERE v.id = ANY(%s) ORDER BY v.id, x.channel, x.locale",
            [list(ids)],
        )
        rows = cursor.fetchall()
    versions = []
    for version_id, group in groupby(rows, key=itemgetter(0)):
        texts = list(group)
        _, name, number, default_locale, written = texts[0][:5]
        sources = [Source(Channel(row[5]), *row[6:]) for row in texts]
        variables = load_variables(msgspec.json.decode(written))
        versions.append(Version(version_id, name, number, default_locale, variables, sources))
    return versions

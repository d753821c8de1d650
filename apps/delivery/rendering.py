"""Templates filled in, once for each distinct context of a batch."""

from collections.abc import Iterable
from typing import Any

import msgspec

from apps.channels import Channel
from apps.delivery.content import Content
from apps.delivery.templating.errors import TemplateError
from apps.delivery.templating.versions import Version, Words, load_versions

__all__ = ["Renderer", "TemplateError"]

_encode = msgspec.json.Encoder(order="deterministic").encode


class Renderer:
    """The contents of one batch. What says the same is rendered once: a content object that is shared by deliveries is
    recognised at once, another one with the same context by its values. For one thread."""

    def __init__(self) -> None:
        self._versions: dict[int, Version] = {}
        # By the content's identity; the content is kept, so that its id is nobody else's meanwhile.
        self._by_object: dict[tuple[int, Channel, str], tuple[Content, Content | TemplateError]] = {}
        self._by_value: dict[tuple[int, Channel, str, bytes], Words | TemplateError] = {}
        self._bound: dict[tuple[int, bytes], dict[str, Any]] = {}

    def prime(self, version_ids: Iterable[int | None]) -> None:
        """Loads these versions, those the process does not know yet in one query."""
        wanted = {key for key in version_ids if key is not None and key not in self._versions}
        if wanted:
            self._versions.update(load_versions(wanted))

    def render(self, content: Content, channel: Channel, locale: str) -> Content:
        """The content with the words a person with ``locale`` gets on ``channel``, one object for all who get the same;
        itself if it has no template. Raises ``TemplateError``, whose text may be stored: it repeats nothing of the
        context."""
        if content.template is None:
            return content
        key = (id(content), channel, locale)
        known = self._by_object.get(key)
        if known is None:
            known = self._by_object[key] = (content, self._fill(content, content.template, channel, locale))
        if isinstance(known[1], TemplateError):
            raise known[1].with_traceback(None)
        return known[1]

    def _fill(self, content: Content, version_id: int, channel: Channel, locale: str) -> Content | TemplateError:
        try:
            version = self._version(version_id)
            chosen = version.choose_locale(channel, locale)
            if chosen != locale:
                return self.render(content, channel, chosen)
            words = self._words(version, channel, locale, content.context)
        except TemplateError as error:
            return error
        return Content(
            title=words.title, body=words.body, html=words.html, data=content.data, collapse_key=content.collapse_key
        )

    def _words(self, version: Version, channel: Channel, locale: str, context: dict[str, Any]) -> Words:
        encoded = _encode(context)
        key = (version.id, channel, locale, encoded)
        words = self._by_value.get(key)
        if words is None:
            try:
                words = version.text(channel, locale).render(self._bind(version, context, encoded))
            except TemplateError as error:
                words = error
            self._by_value[key] = words
        if isinstance(words, TemplateError):
            raise words.with_traceback(None)
        return words

    def _bind(self, version: Version, context: dict[str, Any], encoded: bytes) -> dict[str, Any]:
        key = (version.id, encoded)
        values = self._bound.get(key)
        if values is None:
            values = self._bound[key] = version.bind(context)
        return values

    def _version(self, version_id: int) -> Version:
        self.prime([version_id])
        version = self._versions.get(version_id)
        if version is None:
            raise TemplateError("the template's version is gone")
        return version

"""Which of a template's locales a person gets."""

from collections.abc import Collection, Iterator


def fallbacks(locale: str, default: str) -> Iterator[str]:
    """The locales to try in this order: ``de-AT``, ``de``, and the same of the template's default."""
    for tag in (locale, default):
        while tag:
            yield tag
            tag = tag.rpartition("-")[0]


def choose_locale(locale: str, default: str, available: Collection[str]) -> str | None:
    """The first of the fallbacks there are words for."""
    return next((tag for tag in fallbacks(locale, default) if tag in available), None)

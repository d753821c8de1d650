"""``ETag`` and ``If-Match`` (RFC 9110, 8.8.3 and 13.1.1)."""

import re
from typing import Final

from apps.problems import Problem

_TAG: Final = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_LIST: Final = re.compile(rf"[ \t,]*{_TAG}(?:[ \t]*,[ \t]*(?:{_TAG})?)*[ \t]*")
_ONE: Final = re.compile(_TAG)


def to_etag(fingerprint: str) -> str:
    """A strong entity tag."""
    return f'"{fingerprint}"'


def read_if_match(header: str | None) -> frozenset[str] | None:
    """The fingerprints that the header ``If-Match`` allows; ``None`` if it is absent or ``*``. A weak tag never
    matches. Raises a 400 ``Problem`` for what is no list of entity tags."""
    if header is None or header.strip() == "*":
        return None
    if len(header) > 4096 or _LIST.fullmatch(header) is None:
        raise Problem(
            400, "bad-request", 'If-Match is an ETag of an earlier answer in its quotes, such as "4f1c", or *.'
        )
    return frozenset(tag[1:-1] for tag in _ONE.findall(header) if not tag.startswith("W/"))

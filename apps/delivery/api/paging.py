"""Filters and cursor of the list of notifications."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NoReturn, TypeVar
from uuid import UUID

from apps.channels import Channel
from apps.delivery.api.requests import DeadLetterFilterBody
from apps.delivery.selectors import NotificationFilter
from apps.delivery.statuses import Status
from apps.problems import invalid_field

LIMIT_DEFAULT = 20
LIMIT_MAX = 100
_Word = TypeVar("_Word", Status, Channel)
_Value = TypeVar("_Value")
_NAMES = ("user_id", "type", "status", "channel", "since", "until", "limit", "cursor")


def read_filter(parameters: Mapping[str, str]) -> NotificationFilter:
    """The query parameters, checked; raises a 422 ``Problem`` that names the wrong one."""
    _check_names(parameters, _NAMES)
    status = parameters.get("status")
    channel = parameters.get("channel")
    return NotificationFilter(
        limit=_limit(parameters.get("limit")),
        before=_cursor(parameters.get("cursor")),
        user_id=parameters.get("user_id"),
        type=parameters.get("type"),
        status=None if status is None else _member("status", Status, status),
        channel=None if channel is None else _member("channel", Channel, channel),
        since=_moment("since", parameters.get("since")),
        until=_moment("until", parameters.get("until")),
    )


def read_dead_letter_page(parameters: Mapping[str, str]) -> tuple[dict[str, str], int, UUID | None]:
    """Filter fields (for ``DeadLetterFilterBody``), limit and cursor of the list of dead letters."""
    fields = tuple(DeadLetterFilterBody.__struct_fields__)
    _check_names(parameters, (*fields, "limit", "cursor"))
    chosen = {name: value for name, value in parameters.items() if name in fields}
    return chosen, _limit(parameters.get("limit")), _cursor(parameters.get("cursor"))


def read_page(parameters: Mapping[str, str], names: Sequence[str]) -> tuple[int, UUID | None]:
    """Limit and cursor of a list that can also be filtered by ``names``; raises a 422 ``Problem``."""
    _check_names(parameters, (*names, "limit", "cursor"))
    return _limit(parameters.get("limit")), _cursor(parameters.get("cursor"))


def read_word(parameters: Mapping[str, str], name: str, words: Mapping[str, _Value]) -> _Value | None:
    """What the word of the parameter ``name`` stands for; ``None`` if it is not given."""
    text = parameters.get(name)
    if text is not None and text not in words:
        _refuse(name, "one of " + ", ".join(words))
    return None if text is None else words[text]


def _check_names(parameters: Mapping[str, str], names: Sequence[str]) -> None:
    for name, value in parameters.items():
        if name not in names:
            raise invalid_field(f"/{name}", f"there is no such parameter; there are {', '.join(names)}", "unknown")
        if "\0" in value:
            raise invalid_field(f"/{name}", "must not contain NUL")


def _limit(text: str | None) -> int:
    if text is None:
        return LIMIT_DEFAULT
    if not text.isascii() or not text.isdigit() or len(text) > 3 or not 1 <= int(text) <= LIMIT_MAX:
        _refuse("limit", f"a number from 1 to {LIMIT_MAX}")
    return int(text)


def _cursor(text: str | None) -> UUID | None:
    if text is None:
        return None
    try:
        return UUID(text)
    except ValueError:
        _refuse("cursor", "the `next` of an earlier page")


def _member(name: str, words: type[_Word], text: str) -> _Word:
    word = next((word for word in words if word.label == text), None)
    if word is None:
        _refuse(name, "one of " + ", ".join(word.label for word in words))
    return word


def _moment(name: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        _refuse(name, "an RFC 3339 time, e.g. 2026-11-22T18:30:00Z")
    if moment.tzinfo is None or not 1970 < moment.year < 9000:
        _refuse(name, "an RFC 3339 time with an offset, e.g. 2026-11-22T18:30:00Z")
    return moment


def _refuse(name: str, expected: str) -> NoReturn:
    raise invalid_field(f"/{name}", f"must be {expected}")

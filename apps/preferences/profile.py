"""What a recipient's plain fields may hold. Pure: every check returns the value to store or raises ``InvalidValue``."""

import json
import re
from functools import lru_cache
from typing import Any, Final
from zoneinfo import available_timezones

USER_ID_MAX_LENGTH: Final = 128
LOCALE_MAX_LENGTH: Final = 35  # RFC 5646 4.4.1: a conforming tag may need 35 characters
TIME_ZONE_MAX_LENGTH: Final = 64
APP_ID_MAX_LENGTH: Final = 128
ATTRIBUTES_MAX_BYTES: Final = 4096
ATTRIBUTES_MAX_DEPTH: Final = 5
# jsonb keeps numbers exactly, whatever their size, and gives 1e20 back as an integer, which few readers of JSON take.
NUMBER_LIMIT: Final = 2**63

# language ["-" script] ["-" region] *("-" variant), RFC 5646 2.1 without extensions and private use
_LOCALE = re.compile(
    r"(?P<language>[A-Za-z]{2,3})(?:-(?P<script>[A-Za-z]{4}))?(?:-(?P<region>[A-Za-z]{2}|[0-9]{3}))?"
    r"(?P<variants>(?:-(?:[A-Za-z0-9]{5,8}|[0-9][A-Za-z0-9]{3}))*)"
)
_EMAIL_WITHIN = re.compile(r"[^\s@<>]@[^\s@<>]+\.[^\s@<>]")
_PHONE = re.compile(r"\+[\s().-]*[0-9](?:[\s().-]*[0-9]){7,}")  # E.164 needs the +: bare digits are an ordinary id
_NOT_ZONES: Final = frozenset({"Factory", "localtime"})  # files of the tz database's directory, not places


class InvalidValue(ValueError):
    """A value we cannot store. The text says how to mend it and never repeats a person's data."""


def check_user_id(value: str) -> str:
    """``value`` if it can name a recipient: 1 to 128 printable characters without ``/``, not ``.`` or ``..``,
    no space at either end, and neither an e-mail address nor a phone number, as it appears in URLs, logs and cache
    keys. It is the caller's own id, compared byte for byte."""
    if not 1 <= len(value) <= USER_ID_MAX_LENGTH:
        raise InvalidValue(f"A user id has 1 to {USER_ID_MAX_LENGTH} characters.")
    if not value.isprintable() or "/" in value or value.strip() != value or value in {".", ".."}:
        raise InvalidValue("A user id has printable characters only, no '/', and no space at either end.")
    if _EMAIL_WITHIN.search(value) or _PHONE.fullmatch(value):
        raise InvalidValue(
            "A user id appears in URLs and logs, so it cannot be an e-mail address or a phone number. "
            "Use an id of your own."
        )
    return value


def check_locale(value: str) -> str:
    """``value`` as a BCP 47 tag in its usual case (``pt-BR``, ``zh-Hant-TW``), or blank."""
    if not value:
        return ""
    match = _LOCALE.fullmatch(value) if len(value) <= LOCALE_MAX_LENGTH else None
    if match is None:
        raise InvalidValue("Enter a BCP 47 language tag with hyphens, such as en, en-US or zh-Hant-TW.")
    script, region = match["script"], match["region"]
    parts = [match["language"].lower(), script and script.title(), region and region.upper()]
    return "-".join(part for part in parts if part) + match["variants"].lower()


@lru_cache(maxsize=1)
def _time_zones() -> frozenset[str]:
    return frozenset(available_timezones() - _NOT_ZONES)


def check_time_zone(value: str) -> str:
    """``value`` if it is blank (not known) or a name of the IANA time zone database, case included."""
    if value and value not in _time_zones():
        raise InvalidValue("Enter an IANA time zone name such as Europe/Berlin, or leave it blank.")
    return value


def check_app_id(value: str) -> str:
    """``value`` if it can name an app (bundle id, package name, origin), or blank."""
    if len(value) > APP_ID_MAX_LENGTH or not value.isprintable():
        raise InvalidValue(f"An app id has at most {APP_ID_MAX_LENGTH} printable characters.")
    return value


def check_attributes(value: object) -> dict[str, Any]:
    """``value`` if it is a JSON object of at most 4 KiB and five levels. Stored in clear, for choosing audiences
    and filling templates: no contact points in it."""
    if not isinstance(value, dict):
        raise InvalidValue('Enter a JSON object such as {"plan": "gold"}.')
    _check_json(value, ATTRIBUTES_MAX_DEPTH)
    size = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
    if size > ATTRIBUTES_MAX_BYTES:
        raise InvalidValue(f"The attributes take {size:,} bytes as JSON; {ATTRIBUTES_MAX_BYTES:,} is the limit.")
    return value


def _check_json(value: object, levels_left: int) -> None:
    match value:
        case None | bool():
            return
        case int() | float() if -NUMBER_LIMIT <= value < NUMBER_LIMIT:  # which NaN and the infinities are not
            return
        case int() | float():
            raise InvalidValue(
                "A number in the attributes is not between -2^63 and 2^63. Send a long number as a text."
            )
        case str():
            _check_text(value)
        case dict() | list() if levels_left == 0:
            raise InvalidValue(f"The attributes are nested deeper than {ATTRIBUTES_MAX_DEPTH} levels.")
        case list():
            for item in value:
                _check_json(item, levels_left - 1)
        case dict():
            for key, item in value.items():
                _check_json(key, levels_left)
                _check_json(item, levels_left - 1)
        case _:
            raise InvalidValue("The attributes hold a value that JSON does not have.")


def _check_text(text: str) -> None:
    # jsonb stores neither: https://www.postgresql.org/docs/18/datatype-json.html
    if "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise InvalidValue("A text in the attributes holds a NUL character or half a surrogate pair.")

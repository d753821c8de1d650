"""The last defence of the logs: whatever is about to be written is cleaned of personal data and secrets.

The first defence is not to log them at all. This one works on values, before they are rendered: by the name of a field
and by the look of a text. It would rather mask a harmless word than let an address pass, and it is cheap.
"""

import re
from collections.abc import Mapping
from datetime import date, datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

MASK = "[redacted]"
MAX_TEXT = 3_000
MAX_ITEMS = 1_000
_MAX_DEPTH = 6
_LARGEST_COUNT = 1_000_000

_PRIVATE_NAMES = frozenset(
    {
        "address",
        "api_key",
        "apikey",
        "assertion",
        "attributes",
        "authorization",
        "body",
        "content",
        "context",
        "cookie",
        "data",
        "email",
        "html",
        "jwt",
        "msisdn",
        "passwd",
        "password",
        "payload",
        "phone",
        "private_key",
        "proxy_authorization",
        "secret",
        "set_cookie",
        "signature",
        "subject",
        "text",
        "title",
        "to",
        "token",
        "variables",
    }
)
_PRIVATE_ENDINGS = ("_address", "_apikey", "_api_key", "_email", "_password", "_phone", "_secret", "_token", "_ct")
# Ours, of a known shape: never personal, and they must survive unharmed for a trace to be followed.
TRUSTED_NAMES = frozenset({"timestamp", "level", "logger", "role", "pid", "trace_id", "trace_ids"})
# Sentences written by others, where a telephone number may stand without its plus sign.
_FREE_TEXT_NAMES = frozenset({"event", "exception", "stack", "error", "detail", "message", "reason"})

_EMAIL = re.compile(
    r"""(?:"[^"@\n]{1,64}"|[\w.!#$&'*+/=?^`{|}~%-]{1,64})"""  # RFC 5322 dot-atom or quoted string; % for URL-encoding
    r"""(?:@|%40)(?:[\w-]+(?:\.[\w-]+)+|\[[^\]\s]+\])"""
)
_PHONE = re.compile(r"(?:\+|%2[Bb])[1-9](?:[\s().-]{0,2}\d){6,14}")
_BARE_PHONE = re.compile(r"(?<![\w.-])\d{10,15}(?![\w-])")
_CREDENTIAL = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{16,}", re.IGNORECASE)
_URL_LOGIN = re.compile(r"://[^/\s@]*@")
_JWT = re.compile(r"eyJ[\w-]{8,}\.[\w-]*(?:\.[\w-]*)*")
# Device tokens and keys: a long run with a digit in it. A UUID (36) and a trace id (32) are shorter.
_OPAQUE = re.compile(r"[\w:=-]{48,}", re.ASCII)
_DATABASE_DETAIL = re.compile(r"^(DETAIL|CONTEXT): .*$", re.MULTILINE)


def clean_text(text: str, *, is_free_text: bool = False, limit: int = MAX_TEXT) -> str:
    """``text`` with e-mail addresses, telephone numbers, tokens and credentials masked; the last ``limit`` characters.

    ``is_free_text`` masks bare runs of 10 to 15 digits too, and the detail lines of database errors.
    """
    if len(text) > limit:
        text = "… " + text[-limit:]  # of a traceback the end matters
    if "://" in text:
        text = _URL_LOGIN.sub(f"://{MASK}@", text)
    if "eyJ" in text:
        text = _JWT.sub(MASK, text)
    if " " in text and len(text) > 20:
        text = _CREDENTIAL.sub(rf"\1 {MASK}", text)
    if is_free_text and len(text) >= 10:
        text = _BARE_PHONE.sub(MASK, _DATABASE_DETAIL.sub(rf"\1: {MASK}", text))
    if "@" in text or "%40" in text:
        text = _EMAIL.sub(MASK, text)
    if "+" in text or "%2" in text:
        text = _PHONE.sub(MASK, text)
    if len(text) >= 48:
        text = _OPAQUE.sub(_mask_if_coded, text)
    return text


def _mask_if_coded(run: re.Match[str]) -> str:
    # Without a digit it is a long name or a line of dashes.
    return MASK if any(char.isdigit() for char in run[0]) else run[0]


@lru_cache(maxsize=2048)
def is_private_name(name: str) -> bool:
    """Whether a field of this name holds something personal or secret, whatever its value looks like."""
    plain = name.lower().replace("-", "_").removeprefix("http_").removeprefix("x_")
    return plain in _PRIVATE_NAMES or plain.endswith(_PRIVATE_ENDINGS)


def clean_value(name: str, value: Any, depth: int = 0) -> Any:
    """``value`` of the field ``name``, fit to be logged as JSON. Unknown objects are reduced to the name of their type:
    their ``repr`` may say anything."""
    if name in TRUSTED_NAMES or value is None or isinstance(value, bool):
        return value
    if is_private_name(name):
        # "email": 12 is a count, "phone": 15005550006 is not.
        is_count = isinstance(value, int | float) and abs(value) < _LARGEST_COUNT
        return value if is_count else MASK
    if isinstance(value, str):
        return clean_text(value, is_free_text=name in _FREE_TEXT_NAMES)
    if isinstance(value, int | float | UUID | datetime | date):
        return value
    if isinstance(value, BaseException):
        return clean_text(f"{type(value).__name__}: {value}", is_free_text=True)
    return _clean_collection(name, value, depth)


def _clean_collection(name: str, value: Any, depth: int) -> Any:
    if depth >= _MAX_DEPTH:
        return f"<{type(value).__name__}>"
    if isinstance(value, Mapping):
        return {
            clean_text(str(key)): clean_value(str(key), item, depth + 1)
            for key, item in list(value.items())[:MAX_ITEMS]
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [clean_value(name, item, depth + 1) for item in list(value)[:MAX_ITEMS]]
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    return f"<{type(value).__name__}>"

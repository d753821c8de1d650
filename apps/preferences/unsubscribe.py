"""Links with which a person, or the person's mail program (RFC 8058), unsubscribes without logging in.

``{PUBLIC_URL}/u/<token>``: the token says who, from what, and since when it counts, and nobody but us can read or make
one. It is AES-SIV (RFC 5297), which needs no nonce: a random one per e-mail would use up what AES-GCM allows a key
(2**32 of them) within weeks. Equal links come out as equal tokens, which tells nobody anything.

The key is derived from SECRET_KEY. After a rotation put the old one into SECRET_KEY_FALLBACKS until the links made
with it have expired.
"""

import base64
import binascii
import math
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.core.signals import setting_changed

from apps.channels import Channel, Lane
from apps.preferences.categories import CategoryRules, Kind

PATH: Final = "u/"
MAX_DAYS: Final = 3650
# A 128-character user id of four bytes each and the longest category, padded.
MAX_TOKEN_LENGTH: Final = 817

# The format, and the digit by which the log's redaction knows the longest of tokens from a long word.
_FORMAT: Final = "1"
_HEAD: Final = struct.Struct(">IHB")  # made at (Unix time), days it counts, channel
_END: Final = b"\0"
# With the SIV's 16 bytes every length is a multiple of 12, so base64 has no padding and one spelling; it is at least
# the 48 characters that the log's redaction takes for a secret; and it tells little of the length of the user id.
_LEAST_BYTES: Final = 20
_STEP_BYTES: Final = 24


class InvalidLink(Exception):
    """The link is none of ours, or not any more: mangled, forged, or made with a key that is gone."""


class ExpiredLink(InvalidLink):
    """The link was ours, and its time is over."""


@dataclass(frozen=True, slots=True)
class Link:
    """What a link says. ``category`` is a category's key; ``made_at`` and ``expires_at`` are aware, UTC."""

    user_id: str
    channel: Channel
    category: str
    made_at: datetime
    expires_at: datetime


def applies(category: CategoryRules, lane: Lane) -> bool:
    """Whether a message of this category in this lane gets an unsubscribe link.

    RFC 8058 is for bulk mail. Marketing always gets one; a general message does unless it is sent as urgent, like a
    one-time password without a category; what somebody asked for by acting (transactional) or must know (critical)
    never does."""
    match category.kind:
        case Kind.MARKETING:
            return True
        case Kind.GENERAL:
            return lane is Lane.BULK
        case _:
            return False


def make_url(*, user_id: str, channel: Channel, category: str, now: datetime) -> str:
    """The link for one message of ``category`` (its key) to ``user_id``; counts for ``UNSUBSCRIBE_LINK_DAYS`` from
    ``now`` (aware). Some ten µs, no I/O; less than 1,000 characters while PUBLIC_URL has less than 180."""
    made_at = math.ceil(now.timestamp())  # up, so that an address set a moment before counts as older
    plain = _HEAD.pack(made_at, settings.UNSUBSCRIBE_LINK_DAYS, channel) + category.encode() + _END + user_id.encode()
    rest = max(0, len(plain) - _LEAST_BYTES)
    padded = plain.ljust(_LEAST_BYTES + -(-rest // _STEP_BYTES) * _STEP_BYTES, _END)
    token = base64.urlsafe_b64encode(_ciphers()[0].encrypt(padded, None)).decode()
    return f"{settings.PUBLIC_URL}/{PATH}{_FORMAT}{token}"


def read_token(token: str, now: datetime) -> Link:
    """What the token of a link says. Raises ``InvalidLink``, whatever ``token`` is, and its kind ``ExpiredLink``."""
    plain = _decrypt(_decode(token))
    made_at_s, days, channel = _HEAD.unpack_from(plain)
    category, _, user_id = plain[_HEAD.size :].rstrip(_END).partition(_END)
    made_at = datetime.fromtimestamp(made_at_s, UTC)
    link = Link(user_id.decode(), Channel(channel), category.decode(), made_at, made_at + timedelta(days=days))
    if link.expires_at <= now:
        raise ExpiredLink("The link has expired.")
    return link


def _decode(token: str) -> bytes:
    if len(token) > MAX_TOKEN_LENGTH or not token.startswith(_FORMAT):
        raise InvalidLink("The link is mangled.")
    encoded = token[len(_FORMAT) :]
    try:
        blob = base64.b64decode(encoded.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise InvalidLink("The link is mangled.") from None
    if base64.urlsafe_b64encode(blob).decode() != encoded:  # another spelling of the same bytes
        raise InvalidLink("The link is mangled.")
    return blob


def _decrypt(blob: bytes) -> bytes:
    for cipher in _ciphers():
        try:
            return cipher.decrypt(blob, None)
        except (InvalidTag, ValueError):  # ValueError: too short
            continue
    raise InvalidLink("The link is none of ours.")


@lru_cache(maxsize=1)
def _ciphers() -> tuple[AESSIV, ...]:
    """One per key; the first makes links, all read them."""
    return tuple(_derive(secret) for secret in (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS))


def _derive(secret: str | bytes) -> AESSIV:
    material = secret.encode() if isinstance(secret, str) else secret
    return AESSIV(HKDF(SHA256(), length=64, salt=None, info=b"notify unsubscribe link 1").derive(material))


def _forget_keys(*, setting: str, **kwargs: Any) -> None:
    if setting in {"SECRET_KEY", "SECRET_KEY_FALLBACKS"}:
        _ciphers.cache_clear()


setting_changed.connect(_forget_keys, dispatch_uid="apps.preferences.unsubscribe")

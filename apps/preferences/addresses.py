"""What counts as the same address, and which addresses are taken at all. Pure.

A normalised address is what we send to; its ``lookup_key`` is what the blind index is made of."""

import json
import re
import unicodedata
from collections.abc import Callable
from typing import Final

import idna
import phonenumbers

from apps.channels import Channel
from apps.preferences.ordinary_addresses import shorten_email, shorten_phone

EMAIL: Final = "email"
PHONE: Final = "phone"
TOKEN: Final = "token"  # noqa: S105 - the kind of an address, not a password
KIND_OF_CHANNEL: Final = {Channel.EMAIL: EMAIL, Channel.SMS: PHONE, Channel.PUSH: TOKEN}

EMAIL_MAX_LENGTH: Final = 254  # RFC 5321 4.5.3.1.3: a path is 256 octets, its angle brackets included
LOCAL_PART_MAX_OCTETS: Final = 64  # RFC 5321 4.5.3.1.1
TOKEN_MAX_LENGTH: Final = 4096

MASK: Final = "•••"  # no part of any address we take
_ATEXT = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]")  # RFC 5322 3.2.3
_PHONE = re.compile(r"\+[0-9][0-9 ().-]{5,30}")
_TOKEN = re.compile(rf"[\x21-\x7e]{{1,{TOKEN_MAX_LENGTH}}}")


class InvalidAddress(ValueError):
    """An address we cannot use. The text says how to mend it and never repeats the address."""


def normalise_email(value: str) -> str:
    """``value`` trimmed, in NFC, its domain in lower-case ASCII (IDNA 2008 with UTS 46); the local part as written.

    Accepts the dot-atom form of RFC 5321/6531 with a domain of at least two labels; quoted local parts and
    address literals, which no provider of ours takes, are refused. Raises ``InvalidAddress``."""
    return shorten_email(value) or _normalise_any_email(value)


def _normalise_any_email(value: str) -> str:
    text = unicodedata.normalize("NFC", value.strip())
    if MASK in text:
        raise InvalidAddress("This is a masked value as shown by GET. Send the full e-mail address.")
    local, at, domain = text.rpartition("@")
    if not at or not _is_dot_atom(local):
        raise InvalidAddress("Enter an e-mail address such as name@example.com.")
    try:
        ascii_domain = idna.encode(domain, uts46=True).decode("ascii").lower()
    except (idna.IDNAError, UnicodeError):
        raise InvalidAddress("The part after @ is not a domain name.") from None
    if "." not in ascii_domain or ascii_domain.endswith(".") or ascii_domain.rpartition(".")[2].isdigit():
        raise InvalidAddress("The part after @ is not a full domain name such as example.com.")
    if len(local.encode()) > LOCAL_PART_MAX_OCTETS:
        raise InvalidAddress(f"The part before @ is longer than {LOCAL_PART_MAX_OCTETS} octets.")
    if len(local.encode()) + 1 + len(ascii_domain) > EMAIL_MAX_LENGTH:
        raise InvalidAddress(f"The e-mail address is longer than {EMAIL_MAX_LENGTH} octets.")
    return f"{local}@{ascii_domain}"


def _is_dot_atom(local: str) -> bool:
    atoms = local.split(".")
    return all(
        atom and all(_ATEXT.match(char) or (char > "\x7f" and char.isalnum()) for char in atom) for atom in atoms
    )


def normalise_phone(value: str) -> str:
    """``value`` as E.164. It must start with ``+`` and the country code; spaces, dots, hyphens and parentheses
    are dropped. The number must be *possible*, not known to be assigned: numbering plans change faster than
    any library, and test ranges are unassigned on purpose. Raises ``InvalidAddress``."""
    return shorten_phone(value) or _normalise_any_phone(value)


def _normalise_any_phone(value: str) -> str:
    text = value.strip()
    if MASK in text:
        raise InvalidAddress("This is a masked value as shown by GET. Send the full phone number.")
    if not _PHONE.fullmatch(text):
        raise InvalidAddress("Enter the phone number in E.164 form: + and the country code first, as in +15005550006.")
    try:
        number = phonenumbers.parse(text, None)
    except phonenumbers.NumberParseException:
        raise InvalidAddress("The phone number does not start with a country code that exists.") from None
    if not phonenumbers.is_possible_number(number):
        raise InvalidAddress("The phone number is too short or too long for its country.")
    return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))


def normalise_token(value: str) -> str:
    """``value`` unchanged: tokens are opaque, all but a browser's push subscription (JSON), which comes back in one
    spelling, so that the same one registered again is the same device. Raises ``InvalidAddress`` unless it is 1 to
    4,096 printable ASCII characters without spaces, which all push services' tokens are."""
    if MASK in value:
        raise InvalidAddress("This is a masked value as shown by GET. Send the full device token.")
    if value.startswith("{"):
        value = _normalise_subscription(value)
    if not _TOKEN.fullmatch(value):
        raise InvalidAddress(f"Enter the device token: 1 to {TOKEN_MAX_LENGTH} printable ASCII characters, no spaces.")
    return value


def _normalise_subscription(text: str) -> str:
    """``PushSubscription.toJSON()`` with what identifies it alone: https://www.w3.org/TR/push-api/#dom-pushsubscription"""
    try:
        given = json.loads(text)
        keys = {name: given["keys"][name] for name in ("auth", "p256dh")}
        parts = [given["endpoint"], *keys.values()]
    except (ValueError, TypeError, KeyError, RecursionError):
        parts = []
    if not parts or not all(isinstance(part, str) for part in parts):
        raise InvalidAddress(
            'Enter the browser\'s push subscription as JSON: {"endpoint": "…", "keys": {"p256dh": "…", "auth": "…"}}.'
        )
    return json.dumps({"endpoint": given["endpoint"], "keys": keys}, separators=(",", ":"))


_NORMALISERS: Final[dict[str, Callable[[str], str]]] = {
    EMAIL: normalise_email,
    PHONE: normalise_phone,
    TOKEN: normalise_token,
}


def lookup_key(kind: str, value: str) -> str:
    """The text under which an address of ``kind`` (``email``, ``phone``, ``token``) is the same address.

    Accepted imprecision: the local part of an e-mail address is compared in lower case, although RFC 5321 2.4
    leaves its case to the receiving host; no host of note tells Ann@ from ann@, and an opt-out must not
    hang on a capital letter. Sub-addresses (``+tag``) and dots stay significant. Raises ``InvalidAddress``;
    ``ValueError`` for another kind."""
    normaliser = _NORMALISERS.get(kind)
    if normaliser is None:
        raise ValueError(f"Unknown kind of address {kind!r}; use one of {', '.join(_NORMALISERS)}.")
    return key_of_normalised(kind, normaliser(value))


def key_of_normalised(kind: str, normalised: str) -> str:
    """``lookup_key`` of an address that is normalised already."""
    return unicodedata.normalize("NFC", normalised.lower()) if kind == EMAIL else normalised


def mask_email(value: str) -> str:
    """Enough of an address to recognise it, too little to use it: ``a•••@example.com``."""
    local, _, domain = value.rpartition("@")
    return f"{local[:1]}{MASK}@{domain}"


def mask_phone(value: str) -> str:
    """``+1•••06``: the first digit of the country code and the last two digits."""
    return f"{value[:2]}{MASK}{value[-2:]}"


def mask_token(value: str) -> str:
    """``•••wxyz``: the last four characters (of a browser's subscription: of its endpoint), none of a short token."""
    if value.startswith("{"):
        value = str(json.loads(value)["endpoint"])
    return f"{MASK}{value[-4:] if len(value) >= 16 else ''}"

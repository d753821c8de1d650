"""How many parts a text message takes on the air, which is what it costs.

3GPP TS 23.038, 6.2.1 (the GSM 7-bit alphabet and its extension table) and TS 23.040, 9.2.3.24.1 (concatenation: a
header of six octets in every part).
"""

from collections.abc import Iterator
from dataclasses import dataclass

# TS 23.038, 6.2.1, row by row of the printed table; escape (0x1B) is no character.
_BASIC = (
    "@£$¥èéùìòÇ\nØø\rÅå"
    "Δ_ΦΓΛΩΠΨΣΘΞÆæßÉ"
    " !\"#¤%&'()*+,-./"
    "0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNO"
    "PQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmno"
    "pqrstuvwxyzäöñüà"
)
_EXTENSION = "\f^{}\\[~]|€"  # TS 23.038, 6.2.1.1: each takes an escape and a septet
_GSM = frozenset(_BASIC + _EXTENSION)
_DOUBLE = frozenset(_EXTENSION)
_GSM_SINGLE, _GSM_PART = 160, 153
_UCS2_SINGLE, _UCS2_PART = 70, 67


@dataclass(frozen=True, slots=True)
class Segments:
    """``count`` parts, in UCS-2 if one character is not in the GSM alphabet, else in GSM-7."""

    is_unicode: bool
    count: int


def count_segments(text: str) -> Segments:
    """The parts of ``text``. A character of two units is never split: it starts the next part instead."""
    if _GSM.issuperset(text):
        if _DOUBLE.isdisjoint(text):
            return Segments(is_unicode=False, count=_even(len(text), _GSM_SINGLE, _GSM_PART))
        widths = (2 if character in _DOUBLE else 1 for character in text)
        return Segments(is_unicode=False, count=_uneven(widths, _GSM_SINGLE, _GSM_PART))
    if max(text) <= "\uffff":
        return Segments(is_unicode=True, count=_even(len(text), _UCS2_SINGLE, _UCS2_PART))
    widths = (2 if character > "\uffff" else 1 for character in text)
    return Segments(is_unicode=True, count=_uneven(widths, _UCS2_SINGLE, _UCS2_PART))


def _even(units: int, single: int, part: int) -> int:
    return 1 if units <= single else -(-units // part)


def _uneven(widths: Iterator[int], single: int, part: int) -> int:
    total, parts, used = 0, 1, 0
    for width in widths:
        total += width
        if used + width > part:
            parts, used = parts + 1, 0
        used += width
    return 1 if total <= single else parts

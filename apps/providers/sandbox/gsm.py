"""How many parts a text message takes (3GPP TS 23.038; https://www.twilio.com/docs/glossary/what-sms-character-limit)."""

_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENDED = frozenset("\f^{}\\[~]|€")


def count_segments(text: str) -> int:
    """Parts on the air: 160 or 153 GSM-7 septets each, 70 or 67 UTF-16 units; a character is never split."""
    if is_basic(text):
        return _count([2 if character in _EXTENDED else 1 for character in text], 160, 153)
    return _count([2 if ord(character) > 0xFFFF else 1 for character in text], 70, 67)


def _count(widths: list[int], single: int, part: int) -> int:
    if sum(widths) <= single:
        return 1
    parts, used = 1, 0
    for width in widths:
        if used + width > part:
            parts, used = parts + 1, 0
        used += width
    return parts


def is_basic(text: str) -> bool:
    """Whether the GSM alphabet can say ``text``."""
    return all(character in _BASIC or character in _EXTENDED for character in text)


def to_basic(text: str) -> str:
    """``text`` as it arrives when sent in the GSM alphabet: what that does not have becomes a question mark."""
    return "".join(character if character in _BASIC or character in _EXTENDED else "?" for character in text)

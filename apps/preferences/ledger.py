"""Reads of the suppression ledger, and what its texts may hold."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from apps.channels import Channel
from apps.preferences import addresses, cipher
from apps.preferences.models import Device, Recipient, Suppression
from apps.preferences.profile import InvalidValue
from apps.preferences.selectors import CONTACT_COLUMNS
from apps.preferences.suppressions import EVIDENCE_MAX_LENGTH, WORD_MAX_LENGTH

LIMIT_DEFAULT: Final = 20
LIMIT_MAX: Final = 100
_EMAIL: Final = re.compile(r"[^\s@<>]@[^\s@<>]+\.[^\s@<>]")
_PHONE: Final = re.compile(r"\+[\s().-]*[0-9](?:[\s().-]*[0-9]){6}")


@dataclass(frozen=True, slots=True)
class LedgerFilter:
    """Which entries to list. ``indexes`` are the blind indexes of addresses; ``None``: every address."""

    channel: Channel | None = None
    is_lifted: bool | None = False
    indexes: Collection[bytes] | None = None
    before: int | None = None
    limit: int = LIMIT_DEFAULT


def select_page(wanted: LedgerFilter) -> list[Suppression]:
    """The newest entries that fit ``wanted``, one more than its limit if there are more."""
    rows = Suppression.objects.order_by("-pk")
    if wanted.channel is not None:
        rows = rows.filter(channel=wanted.channel.value)
    if wanted.is_lifted is not None:
        rows = rows.filter(lifted_at__isnull=not wanted.is_lifted)
    if wanted.indexes is not None:
        rows = rows.filter(address_bi__in=list(wanted.indexes))
    if wanted.before is not None:
        rows = rows.filter(pk__lt=wanted.before)
    return list(rows[: wanted.limit + 1])


def select_indexes(user_id: str) -> list[bytes] | None:
    """The blind indexes of all addresses and tokens a recipient has now; ``None`` if there is no such recipient."""
    recipient = Recipient.objects.filter(user_id=user_id, erased_at=None).first()
    if recipient is None:
        return None
    tokens = Device.objects.filter(recipient=recipient).values_list("token_bi", flat=True)
    return [bytes(index) for index in (recipient.email_bi, recipient.phone_bi, *tokens) if index is not None]


def select_index(user_id: str, channel: Channel) -> bytes | None:
    """The blind index of the address a recipient has now on ``channel`` (e-mail or SMS); ``None`` if there is none.
    Raises ``LookupError`` if there is no such recipient."""
    name = CONTACT_COLUMNS[channel]
    row = Recipient.objects.filter(user_id=user_id, erased_at=None).values_list(f"{name}_bi").first()
    if row is None:
        raise LookupError("There is no such recipient.")
    return None if row[0] is None else bytes(row[0])


def index_of(channel: Channel, address: str) -> bytes:
    """The blind index of an address, whoever has it or nobody. Raises ``addresses.InvalidAddress``."""
    return cipher.blind_index(addresses.KIND_OF_CHANNEL[channel], address)


def select_active(channel: Channel, address_bi: bytes) -> Suppression | None:
    """The entry that keeps this address from being used now."""
    return Suppression.objects.filter(channel=channel.value, address_bi=address_bi, lifted_at=None).first()


def select_newest(channel: Channel, address_bi: bytes) -> Suppression:
    """The last entry about this address, which must have one."""
    return Suppression.objects.filter(channel=channel.value, address_bi=address_bi).latest("pk")


def select_suppression(suppression_id: int) -> Suppression | None:
    """The entry of this number."""
    return Suppression.objects.filter(pk=suppression_id).first()


def check_reason(value: str) -> str:
    """``value`` if it can stand as the reason of a suppression: a word or a few for machines and people."""
    return _check_text(value, WORD_MAX_LENGTH)


def check_note(value: str) -> str:
    """``value`` if it can stand as evidence, or as the reason of a lift: one line."""
    return _check_text(value, EVIDENCE_MAX_LENGTH)


def _check_text(value: str, max_length: int) -> str:
    if len(value) > max_length or not value.isprintable() or value != value.strip():
        raise InvalidValue(f"Enter one line of at most {max_length} printable characters, no space at either end.")
    if _EMAIL.search(value) or _PHONE.search(value):
        raise InvalidValue("This names an e-mail address or a phone number. Leave it out: the text is stored in clear.")
    return value

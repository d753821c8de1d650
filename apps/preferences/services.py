"""Writes about recipients (what they want: ``wishes.py``; devices: ``devices.py``; suppressions: ``suppressions.py``;
all offered here too). Each is one atomic block that raises the recipient's version in the same transaction, so that
every decision made after the commit sees it; the cache is tidied after the commit.

Do not wrap several calls in one transaction: each takes its locks in the order of ``locks.py``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone

from apps.channels import Channel
from apps.preferences import addresses, cipher, erasure, profile, selectors
from apps.preferences.devices import deactivate_device, register_device, remove_device
from apps.preferences.locks import UnknownRecipient, lock_addresses, lock_recipient, touch_recipients
from apps.preferences.models import Recipient
from apps.preferences.suppressions import STOP, lift_stop, lift_suppression, suppress_address, suppress_blind_index
from apps.preferences.wishes import PreferencesChanged, UnknownCategory, update_preferences

__all__ = [
    "STOP",
    "UNCHANGED",
    "PreferencesChanged",
    "UnknownCategory",
    "UnknownRecipient",
    "deactivate_device",
    "erase_recipient",
    "lift_stop",
    "lift_suppression",
    "register_device",
    "remove_device",
    "suppress_address",
    "suppress_blind_index",
    "update_preferences",
    "upsert_recipient",
]


class Unchanged(Enum):
    """Stands for "leave this field as it is" where ``None`` means "remove it"."""

    UNCHANGED = "unchanged"


UNCHANGED: Final = Unchanged.UNCHANGED


@dataclass(frozen=True, slots=True)
class _Contact:
    """One contact point to be stored: the normalised address, or ``None`` to remove it."""

    channel: Channel
    address: str | None

    @classmethod
    def parse(cls, channel: Channel, address: str | None) -> "_Contact":
        normalise = addresses.normalise_email if channel is Channel.EMAIL else addresses.normalise_phone
        return cls(channel, None if address is None else normalise(address))

    @property
    def blind_index(self) -> bytes | None:
        return (
            None if self.address is None else cipher.blind_index(addresses.KIND_OF_CHANNEL[self.channel], self.address)
        )

    def is_held_by(self, recipient: Recipient) -> bool:
        try:
            return selectors.reveal_contact(recipient, self.channel) == self.address
        except cipher.CipherError:  # the key is lost: writing the address anew mends the row
            return False

    def columns(self, user_id: str) -> dict[str, Any]:
        name = selectors.CONTACT_COLUMNS[self.channel]
        if self.address is None:
            return {f"{name}_ct": None, f"{name}_bi": None, f"{name}_set_at": None}
        return {
            f"{name}_ct": cipher.encrypt(self.address.encode(), cipher.recipient_aad(f"{name}_ct", user_id)),
            f"{name}_bi": self.blind_index,
            f"{name}_set_at": timezone.now(),
        }


@transaction.atomic
def upsert_recipient(
    *,
    user_id: str,
    email: str | Unchanged | None = None,
    phone: str | Unchanged | None = None,
    locale: str = "",
    time_zone: str = "",
    attributes: Mapping[str, Any] | None = None,
) -> tuple[Recipient, bool]:
    """Make the recipient's profile exactly this; what is not given is removed. Returns the recipient and whether
    it is new (or had been erased). Preferences and devices stay; the same call again changes nothing.

    Raises ``profile.InvalidValue`` or ``addresses.InvalidAddress`` (both ``ValueError``)."""
    profile.check_user_id(user_id)
    plain = {
        "locale": profile.check_locale(locale),
        "time_zone": profile.check_time_zone(time_zone),
        "attributes": profile.check_attributes(dict(attributes or {})),
    }
    contacts = [
        _Contact.parse(channel, address)
        for channel, address in ((Channel.EMAIL, email), (Channel.SMS, phone))
        if not isinstance(address, Unchanged)
    ]
    lock_addresses(*(contact.blind_index for contact in contacts))
    columns = {name: value for contact in contacts for name, value in contact.columns(user_id).items()}
    recipient, is_inserted = Recipient.objects.select_for_update().get_or_create(
        user_id=user_id, defaults=plain | columns
    )
    was_erased = recipient.erased_at is not None
    if not is_inserted:
        changes = {name: value for name, value in plain.items() if getattr(recipient, name) != value}
        for contact in contacts:
            if not contact.is_held_by(recipient):
                changes |= contact.columns(user_id)
        if changes or was_erased:
            touch_recipients([recipient], **changes, erased_at=None)
    return recipient, is_inserted or was_erased


@transaction.atomic
def erase_recipient(*, user_id: str) -> None:
    """Remove everything we hold about the person: contact points, devices, locale, time zone, attributes, quiet hours
    and what they had switched on.

    What stays is the caller's id as an empty tombstone and the opt-outs, which hold nothing personal: a person
    who said no and comes back under the same id has still said no. Suppressions stay too, as keyed hashes. What
    other apps hold goes as they registered it (``erasure.py``).
    Raises ``UnknownRecipient``."""
    erasure.blank_evidence(user_id)
    recipient = lock_recipient(user_id)
    erasure.erase_elsewhere(recipient)
    recipient.devices.all().delete()
    recipient.quiet_hours.all().delete()
    recipient.channel_preferences.filter(is_enabled=True).delete()
    recipient.category_preferences.filter(is_enabled=True).delete()
    touch_recipients(
        [recipient],
        email_ct=None,
        email_bi=None,
        email_set_at=None,
        phone_ct=None,
        phone_bi=None,
        phone_set_at=None,
        locale="",
        time_zone="",
        attributes={},
        erased_at=Now(),
    )
    erasure.bury_cached(recipient)

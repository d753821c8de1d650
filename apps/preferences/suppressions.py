"""Writes about addresses that must not be used. Used through ``services``."""

from datetime import datetime

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from apps.channels import Channel
from apps.preferences.locks import close_gate, lock_addresses, lock_recipients, touch_recipients
from apps.preferences.models import Recipient, Suppression
from apps.preferences.selectors import CONTACT_COLUMNS

STOP = "stop"  # the reason of a suppression by the person's own word
WORD_MAX_LENGTH = 64
EVIDENCE_MAX_LENGTH = 512
ACTOR_MAX_LENGTH = 200


def suppress_address(
    *,
    channel: Channel,
    user_id: str,
    source: str,
    reason: str,
    evidence: str = "",
    used_at: datetime | None = None,
) -> bool:
    """Suppress the e-mail address or phone number a recipient has now, for everybody who has it; whether that
    changed anything. ``source`` says who told us (``sendgrid``, ``admin``), ``reason`` why (``bounced``).

    ``used_at`` (aware) is when the address was used: one that was set later is another address and is left
    alone. Push has no such address: see ``deactivate_device``; asking for it is a ``ValueError``."""
    name = CONTACT_COLUMNS.get(channel)
    if name is None:
        raise ValueError(f"A recipient has no single address on {channel.label}; deactivate the device instead.")
    recipients = Recipient.objects.filter(user_id=user_id)
    if used_at is not None:
        recipients = recipients.filter(**{f"{name}_set_at__lte": used_at})
    address_bi = recipients.values_list(f"{name}_bi", flat=True).first()
    if address_bi is None:
        return False
    return suppress_blind_index(
        channel=channel, address_bi=bytes(address_bi), source=source, reason=reason, evidence=evidence
    )


@transaction.atomic
def suppress_blind_index(
    *, channel: Channel, address_bi: bytes, source: str, reason: str, evidence: str = "", added_by: str = ""
) -> bool:
    """Suppress the address of this blind index (``cipher.blind_index``); ``False`` if it already is.
    The version of every recipient that has it goes up in the same transaction. ``added_by`` names who did it by
    hand."""
    close_gate(address_bi)
    lock_addresses(address_bi)
    _, is_new = Suppression.objects.get_or_create(
        channel=channel.value,
        address_bi=address_bi,
        lifted_at=None,
        defaults={
            "source": source[:WORD_MAX_LENGTH],
            "reason": reason[:WORD_MAX_LENGTH],
            "evidence": evidence[:EVIDENCE_MAX_LENGTH],
            "added_by": added_by[:ACTOR_MAX_LENGTH],
        },
    )
    if is_new:
        _touch_holders(channel, address_bi)
    return is_new


@transaction.atomic
def lift_suppression(*, suppression_id: int, reason: str = "", lifted_by: str = "") -> bool:
    """Allow the address again; ``False`` if it was allowed already or there is no such suppression.
    ``reason`` and ``lifted_by`` say why and who, for the ledger."""
    suppression = Suppression.objects.filter(pk=suppression_id).first()
    if suppression is None:
        return False
    address_bi = bytes(suppression.address_bi)
    close_gate(address_bi)
    lock_addresses(address_bi)
    is_lifted = Suppression.objects.filter(pk=suppression_id, lifted_at=None).update(
        lifted_at=timezone.now(), lifted_by=lifted_by[:ACTOR_MAX_LENGTH], lift_reason=reason[:EVIDENCE_MAX_LENGTH]
    )
    if not is_lifted:
        return False
    _touch_holders(Channel(suppression.channel), address_bi)
    return True


def lift_stop(*, address_bi: bytes, evidence: str = "") -> bool:
    """The person behind a phone number wants to be written to again: lift what their STOP had suppressed, and nothing
    else. Whether that changed anything."""
    stop = Suppression.objects.filter(
        channel=Channel.SMS.value, address_bi=address_bi, reason=STOP, lifted_at=None
    ).first()
    return stop is not None and lift_suppression(suppression_id=stop.pk, reason=evidence or "start")


def _touch_holders(channel: Channel, address_bi: bytes) -> None:
    name = CONTACT_COLUMNS.get(channel)
    holds_address = Q(devices__token_bi=address_bi) if name is None else Q(**{f"{name}_bi": address_bi})
    holders = Recipient.objects.filter(pk__in=Recipient.objects.filter(holds_address).values("pk"))
    touch_recipients(lock_recipients(holders))

"""The order in which writes take their locks, and the one way a recipient's version goes up.

First the addresses concerned (advisory, by blind index), then recipients by id, then what belongs to them. The
address lock makes "who has this address" and "is this address suppressed" one question: without it a recipient
could take over an address while it is being suppressed and keep a version that does not know of it.

A bulk write concerns more addresses than PostgreSQL has room for locks. It passes through the gates instead: every
address belongs to one of 64, a bulk write holds all of them together with other bulk writes, and whoever suppresses
or lifts holds the address's gate alone, before the address itself.
"""

from collections.abc import Collection
from functools import partial
from typing import Any, Final

from django.db import connection, transaction
from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from apps.preferences import cache
from apps.preferences.models import Device, Recipient, next_version

GATES: Final = 64
_GATE_SPACE: Final = 1  # the two-number locks are a space of their own; the addresses' are the one-number locks


class UnknownRecipient(LookupError):
    """There is no recipient of this user id, or it has been erased."""


def lock_addresses(*blind_indexes: bytes | None) -> None:
    """Hold these addresses (blind indexes; ``None`` is skipped) until the transaction ends."""
    keys = sorted({int.from_bytes(index[:8], "big", signed=True) for index in blind_indexes if index is not None})
    if keys:
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(key) FROM unnest(%s::bigint[]) AS key", [keys])


def close_gate(blind_index: bytes) -> None:
    """Hold the gate of this address alone until the transaction ends. Comes before ``lock_addresses``."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [_GATE_SPACE, blind_index[0] % GATES])


def enter_gates() -> None:
    """Keep every gate from being closed until the transaction ends: for writes of many addresses at once."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_advisory_xact_lock_shared(%s, gate) FROM generate_series(0, %s - 1) AS gate",
            [_GATE_SPACE, GATES],
        )


def lock_recipients(recipients: QuerySet[Recipient]) -> list[Recipient]:
    """The rows of ``recipients``, locked in the order of their ids."""
    return list(recipients.select_for_update().order_by("pk"))


def lock_recipient(user_id: str) -> Recipient:
    """The recipient, locked. Raises ``UnknownRecipient``."""
    recipient = Recipient.objects.select_for_update().filter(user_id=user_id, erased_at=None).first()
    if recipient is None:
        raise UnknownRecipient("There is no such recipient.")
    return recipient


def lock_together(user_id: str, *blind_indexes: bytes) -> None:
    """Take at once, in their order, the locks that several writes of one transaction will ask for one after the other:
    these addresses, then the recipient ``user_id`` with whoever holds one of these addresses as a token."""
    lock_addresses(*blind_indexes)
    holders = Device.objects.filter(token_bi__in=blind_indexes).values("recipient_id")
    lock_recipients(Recipient.objects.filter(Q(user_id=user_id) | Q(pk__in=holders)))


def touch_recipients(recipients: Collection[Recipient], **changes: Any) -> None:
    """Write ``changes`` (columns and values) to the locked ``recipients``, raise their versions, and forget what
    is cached of them after the commit. The objects are brought up to date."""
    if not recipients:
        return
    rows = Recipient.objects.filter(pk__in=[recipient.pk for recipient in recipients])
    rows.update(**changes, version=next_version(), updated_at=Now())
    for recipient in recipients:
        recipient.refresh_from_db()
    user_ids = [recipient.user_id for recipient in recipients]
    transaction.on_commit(partial(cache.forget_snapshots, user_ids), robust=True)


def raise_versions(recipients: Collection[Recipient]) -> None:
    """``touch_recipients`` for many: the objects are not brought up to date."""
    if not recipients:
        return
    rows = Recipient.objects.filter(pk__in=[recipient.pk for recipient in recipients])
    rows.update(version=next_version(), updated_at=Now())
    transaction.on_commit(partial(cache.forget_snapshots, [row.user_id for row in recipients]), robust=True)

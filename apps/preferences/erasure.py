"""What else must go when a person is erased: the notes about their addresses here, and what other apps hold.

An app that stores something about recipients registers a function with ``register`` when it starts. It runs inside
the transaction that erases the person: if it fails, nobody is erased, and the caller is told.
"""

from collections.abc import Callable
from functools import partial

from django.db import transaction

from apps.preferences import ledger, selectors
from apps.preferences.models import Recipient, Suppression

Eraser = Callable[[int, str], None]
"""Takes the recipient's number and the caller's user id; blanks or deletes what it is in charge of."""

_erasers: dict[str, Eraser] = {}


def register(name: str, eraser: Eraser) -> None:
    """Have ``eraser`` run for everyone who is erased. ``name`` says what it is in charge of (``notifications``);
    the same name again replaces it."""
    _erasers[name] = eraser


def blank_evidence(user_id: str) -> None:
    """Blank what was noted with the suppressions of the person's addresses; the suppressions stay. Call it before
    the recipient is locked: whoever lifts a suppression takes its lock first."""
    indexes = ledger.select_indexes(user_id)
    if indexes:
        rows = Suppression.objects.filter(address_bi__in=indexes).exclude(evidence="", lift_reason="")
        locked = list(rows.select_for_update().order_by("pk").values_list("pk", flat=True))
        Suppression.objects.filter(pk__in=locked).update(evidence="", lift_reason="")


def erase_elsewhere(recipient: Recipient) -> None:
    """Run what was registered for ``recipient``, which is locked."""
    for eraser in _erasers.values():
        eraser(recipient.pk, recipient.user_id)


def bury_cached(recipient: Recipient) -> None:
    """After the commit put the empty tombstone into the cache: it keeps a slow reader from putting back what it read
    before."""
    transaction.on_commit(
        partial(selectors.load_snapshots, {recipient.user_id: recipient.version}),
        robust=True,
    )

"""What is kept no longer than it is of use. Run now and then; every run does a bounded amount of work."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet

from apps.preferences.locks import lock_recipients, raise_versions
from apps.preferences.models import CategoryPreference, ChannelPreference, Device, Recipient, Suppression

STALE: Final = "stale"
ROWS_PER_TRANSACTION: Final = 500
TRANSACTIONS_PER_RUN: Final = 200


@dataclass(frozen=True, slots=True)
class Cleared:
    """How many rows a run dealt with."""

    stale_devices: int
    forgotten_devices: int
    forgotten_recipients: int
    forgotten_suppressions: int


def run(now: datetime) -> Cleared:
    """Age out, as of ``now`` (aware):

    - active devices not seen for ``DEVICE_MAX_AGE_DAYS`` are switched off: their apps are gone, or will register again
      (https://firebase.google.com/docs/cloud-messaging/manage-tokens calls a token stale after a month and expires
      it after 270 days without a connection);
    - devices switched off for ``DEVICE_FORGET_DAYS`` are deleted;
    - erased recipients are forgotten after ``TOMBSTONE_DAYS``, except those who opted out of something: a no is kept;
    - suppressions lifted ``SUPPRESSION_HISTORY_DAYS`` ago are deleted, those in force never.

    Each in transactions of 500 rows, 200 at most in one run; the next run goes on. Safe to run twice at once."""
    return Cleared(
        stale_devices=_repeat(partial(_switch_off_devices, _before(now, settings.DEVICE_MAX_AGE_DAYS), now)),
        forgotten_devices=_repeat(partial(_forget_devices, _before(now, settings.DEVICE_FORGET_DAYS))),
        forgotten_recipients=_repeat(partial(_forget_recipients, _before(now, settings.TOMBSTONE_DAYS))),
        forgotten_suppressions=_repeat(partial(_forget_suppressions, _before(now, settings.SUPPRESSION_HISTORY_DAYS))),
    )


def _before(now: datetime, days: int) -> datetime:
    return now - timedelta(days=days)


def _repeat(work: Callable[[], int]) -> int:
    return sum(_until_done(work))


def _until_done(work: Callable[[], int]) -> Iterator[int]:
    for _ in range(TRANSACTIONS_PER_RUN):
        done = work()
        yield done
        if done < ROWS_PER_TRANSACTION:
            return


@transaction.atomic
def _switch_off_devices(cutoff: datetime, now: datetime) -> int:
    stale = Device.objects.filter(deactivated_at=None, last_seen_at__lt=cutoff)
    found = list(stale.order_by("last_seen_at").values_list("pk", "recipient_id")[:ROWS_PER_TRANSACTION])
    recipients = lock_recipients(Recipient.objects.filter(pk__in={owner for _, owner in found}))
    # Asked again now that the owners are locked: a device registered anew meanwhile stays.
    devices = stale.filter(pk__in=[pk for pk, _ in found])
    owners = set(devices.values_list("recipient_id", flat=True))
    devices.update(deactivated_at=now, deactivated_reason=STALE)
    raise_versions([recipient for recipient in recipients if recipient.pk in owners])
    return len(found)


@transaction.atomic
def _forget_devices(cutoff: datetime) -> int:
    return _delete(Device.objects.filter(deactivated_at__lt=cutoff), "deactivated_at")


@transaction.atomic
def _forget_recipients(cutoff: datetime) -> int:
    said = {"recipient": OuterRef("pk"), "is_enabled": False}
    forgettable = Recipient.objects.filter(erased_at__lt=cutoff, is_opted_out=False).exclude(
        Exists(ChannelPreference.objects.filter(**said))
    )
    return _delete(forgettable.exclude(Exists(CategoryPreference.objects.filter(**said))), "erased_at")


@transaction.atomic
def _forget_suppressions(cutoff: datetime) -> int:
    return _delete(Suppression.objects.filter(lifted_at__lt=cutoff), "lifted_at")


def _delete(rows: QuerySet[Any], order: str) -> int:
    locked = list(rows.select_for_update(of=("self",), skip_locked=True).order_by(order)[:ROWS_PER_TRANSACTION])
    rows.model._default_manager.filter(pk__in=[row.pk for row in locked]).delete()
    return len(locked)

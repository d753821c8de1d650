"""Sending a batch of deliveries: claim, prepare, call the providers, record.

No transaction is open while a provider is called. A worker that dies anywhere in here loses nothing: its rows' leases
run out and the sweep rings for them again.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import UUID

import structlog
from django.conf import settings
from django.db.utils import InterfaceError, OperationalError
from psycopg_pool import PoolTimeout
from structlog.contextvars import bound_contextvars

from apps.delivery.doorbell import ring_deliveries
from apps.delivery.hygiene import retire_addresses
from apps.delivery.ids import notification_id_of
from apps.delivery.outcomes import Claim, FailedCall, Outcome, claim_deliveries
from apps.delivery.preparation import dead, prepare
from apps.delivery.recording import record
from apps.delivery.retry import backoff_s
from apps.delivery.selectors import NotificationRow, select_notifications
from apps.delivery.sending import Sending, retry_policy
from apps.delivery.statuses import AttemptOutcome, Reason, Status
from apps.trace import bind_trace

NAMED_DELIVERIES = 10
MAX_LAPSES = 10  # a row whose worker died this often is what kills them
log = structlog.get_logger("notify.delivery.dispatch")


def deliver(ids: Sequence[UUID]) -> None:
    """Sends those of ``ids`` that are due and nobody else's. Raises only if the database is dead."""
    claims = claim_deliveries(ids, lease_s=settings.DELIVERY_LEASE_S)
    killers = [claim for claim in claims if claim.lapses >= MAX_LAPSES]
    if killers:  # before anything of theirs is loaded: that may be what kills
        record([dead(claim, f"{MAX_LAPSES} workers died over it") for claim in killers], {})
        claims = [claim for claim in claims if claim.lapses < MAX_LAPSES]
    if claims:
        _deliver_claimed(claims)


def _deliver_claimed(claims: Sequence[Claim]) -> None:
    now = datetime.now(UTC)
    sending = Sending(read_at=now)
    notifications: dict[UUID, NotificationRow] = {}
    try:
        notifications = select_notifications({notification_id_of(claim.id) for claim in claims})
        with _name_batch(claims, notifications):
            log.info("claimed", n=len(claims))
            parcels, refused = prepare(claims, notifications, now)
            sending.outcomes += refused
            sending.run(parcels)
            record(sending.outcomes, notifications)
            retire_addresses(sending.dead_addresses)
    except Exception as error:
        _rescue(claims, sending, notifications, error)


def _rescue(
    claims: Sequence[Claim], sending: Sending, notifications: Mapping[UUID, NotificationRow], error: Exception
) -> None:
    """After something broke: what providers answered is recorded all the same, the rest goes back. A database that is
    away is nobody's fault. A bug of ours costs the row an attempt if it was alone; in a batch each row is tried on its
    own next, so that the one that hurts does not take the others along."""
    is_outage = isinstance(error, OperationalError | InterfaceError | PoolTimeout)
    log.error("dispatch_failed", n=len(claims), is_outage=is_outage, exc_info=error)
    settled = {outcome.claim.id for outcome in sending.outcomes}
    rest = [claim for claim in claims if claim.id not in settled]
    is_alone = len(claims) == 1 and not is_outage
    record([*sending.outcomes, *(_put_back(claim, is_its_fault=is_alone) for claim in rest)], notifications)
    retire_addresses(sending.dead_addresses)
    if not is_outage and not is_alone:
        for claim in rest:
            ring_deliveries([(claim.id, claim.channel, claim.lane)])


def _put_back(claim: Claim, *, is_its_fault: bool) -> Outcome:
    if not is_its_fault:
        return Outcome(claim, Status.QUEUED, Reason.RETRY_AFTER_FAILURE, delay_s=0.0)
    call = FailedCall(AttemptOutcome.BUG, "internal", "an internal error; see the log")
    policy = retry_policy()
    if claim.attempts + 1 >= policy.max_attempts:
        return Outcome(claim, Status.DEAD, Reason.POISON, has_tried=True, failed_calls=(call,))
    delay_s = backoff_s(policy, claim.attempts + 1, random.random())  # noqa: S311 - jitter, not a secret
    return Outcome(
        claim, Status.QUEUED, Reason.RETRY_AFTER_FAILURE, has_tried=True, delay_s=delay_s, failed_calls=(call,)
    )


@contextmanager
def _name_batch(claims: Sequence[Claim], notifications: Mapping[UUID, NotificationRow]) -> Iterator[None]:
    """Within the block every log line, the provider call's included, carries the trace ids of the batch, so that one
    of them finds the whole story; a small batch's lines carry the delivery ids as well."""
    traces = sorted({row.trace_id for row in notifications.values()})
    names: dict[str, list[str]] = {} if len(traces) == 1 else {"trace_ids": traces}
    if len(claims) <= NAMED_DELIVERIES:
        names["delivery_ids"] = [str(claim.id) for claim in claims]
    with bind_trace(traces[0] if len(traces) == 1 else ""), bound_contextvars(**names):
        yield


def _isolate(claim: Claim, *, is_alone: bool) -> Outcome:
    if not is_alone:
        return Outcome(claim, Status.QUEUED, Reason.RETRY_AFTER_FAILURE, delay_s=0.0)
    call = FailedCall(AttemptOutcome.BUG, "internal", "an internal error; see the log")
    policy = retry_policy()
    if claim.attempts + 1 >= policy.max_attempts:
        return Outcome(claim, Status.DEAD, Reason.POISON, has_tried=True, failed_calls=(call,))
    delay_s = backoff_s(policy, claim.attempts + 1, random.random())  # noqa: S311 - jitter, not a secret
    return Outcome(
        claim, Status.QUEUED, Reason.RETRY_AFTER_FAILURE, has_tried=True, delay_s=delay_s, failed_calls=(call,)
    )

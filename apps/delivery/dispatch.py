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
from structlog.contextvars import bound_contextvars

from apps.delivery.doorbell import ring_deliveries
from apps.delivery.ids import notification_id_of
from apps.delivery.outcomes import Claim, FailedCall, Outcome, claim_deliveries
from apps.delivery.preparation import prepare
from apps.delivery.recording import record
from apps.delivery.retry import backoff_s
from apps.delivery.selectors import NotificationRow, select_notifications
from apps.delivery.sending import retry_policy, send
from apps.delivery.statuses import AttemptOutcome, Reason, Status
from apps.trace import bind_trace

NAMED_DELIVERIES = 10
log = structlog.get_logger("notify.delivery.dispatch")


def deliver(ids: Sequence[UUID]) -> None:
    """Sends those of ``ids`` that are due and nobody else's. Raises only what is a bug or a dead database."""
    claims = claim_deliveries(ids, lease_s=settings.DELIVERY_LEASE_S)
    if not claims:
        return
    notifications = select_notifications({notification_id_of(claim.id) for claim in claims})
    with _name_batch(claims, notifications):
        log.info("claimed", n=len(claims))
        try:
            now = datetime.now(UTC)
            parcels, outcomes = prepare(claims, notifications, now)
            outcomes += send(parcels, now)
        except Exception:
            # A bug of ours, not a provider's failure. Alone, the row uses up an attempt and dies after the last one;
            # in a batch each row is tried on its own, so that the one that hurts does not take the others along.
            log.exception("dispatch_bug", n=len(claims))
            record([_isolate(claim, is_alone=len(claims) == 1) for claim in claims], notifications)
            if len(claims) > 1:
                for claim in claims:
                    ring_deliveries([(claim.id, claim.channel, claim.lane)])
            return
        record(outcomes, notifications)


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

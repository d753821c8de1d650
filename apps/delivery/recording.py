"""The end of a dispatch: outcomes into the database, figures into the metrics, one line into the log."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from uuid import UUID

import structlog
from django.conf import settings
from django.db import connection
from django.db.utils import InterfaceError, OperationalError
from psycopg_pool import PoolTimeout

from apps import metrics
from apps.channels import Channel, Lane
from apps.delivery.ids import notification_id_of, time_of
from apps.delivery.outcomes import Outcome, record_outcomes
from apps.delivery.selectors import NotificationRow
from apps.delivery.statuses import Status
from apps.delivery.wording import provider_alias, reason_label

RETRY_S = 0.25
log = structlog.get_logger("notify.delivery.recording")


def record(outcomes: Sequence[Outcome], notifications: Mapping[UUID, NotificationRow]) -> None:
    """Records the outcomes of a batch and reports those that were this worker's to record."""
    recorded = _record_patiently(outcomes)
    own = [outcome for outcome in outcomes if outcome.claim.id in recorded]
    _count(own)
    _observe_waits(own, notifications)
    statuses: dict[str, int] = defaultdict(int)
    for outcome in own:
        statuses[outcome.status.label] += 1
    if len(own) < len(outcomes):
        statuses["fenced_off"] = len(outcomes) - len(own)
    log.info("recorded", statuses=dict(statuses))


def _record_patiently(outcomes: Sequence[Outcome]) -> set[UUID]:
    """Records although the database is away for a moment: the messages have left, and forgetting that would send them
    twice. Gives up well before the lease is over, as the rows are somebody else's then."""
    deadline = time.monotonic() + settings.DELIVERY_LEASE_S / 2
    while True:
        try:
            return record_outcomes(outcomes)
        except (OperationalError, InterfaceError, PoolTimeout) as error:
            if time.monotonic() > deadline:
                raise
            log.warning("record_delayed", error=type(error).__name__, n=len(outcomes))
            connection.close()
            time.sleep(RETRY_S)


def _count(outcomes: Sequence[Outcome]) -> None:
    counts: dict[tuple[str, str, str, str], int] = defaultdict(int)
    retried: dict[str, int] = defaultdict(int)
    suppressed: dict[tuple[str, str], int] = defaultdict(int)
    for outcome in outcomes:
        channel, lane = Channel(outcome.claim.channel).label, Lane(outcome.claim.lane).label
        counts[outcome.status.label, channel, lane, provider_alias(outcome.provider_id) or ""] += 1
        if outcome.status is Status.QUEUED and outcome.has_tried:
            retried[channel] += 1
        elif outcome.status is Status.SUPPRESSED:
            suppressed[reason_label(outcome.reason) or "", channel] += 1
    for labels, count in counts.items():
        metrics.deliveries(*labels, count)
    for channel, count in retried.items():
        metrics.retried(channel, count)
    for (reason, channel), count in suppressed.items():
        metrics.suppressed(reason, channel, count)


def _observe_waits(outcomes: Sequence[Outcome], notifications: Mapping[UUID, NotificationRow]) -> None:
    """How long each sent delivery took from acceptance (or from ``send_at``) to the provider."""
    now_s = time.time()
    waits: dict[tuple[str, str], list[float]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.status is Status.SENT:
            claim = outcome.claim
            since = notifications[notification_id_of(claim.id)].send_at or time_of(claim.id)
            waits[Channel(claim.channel).label, Lane(claim.lane).label].append(max(0.0, now_s - since.timestamp()))
    for labels, seconds in waits.items():
        metrics.accept_to_provider(*labels, seconds)

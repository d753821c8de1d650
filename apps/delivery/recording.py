"""The end of a dispatch: outcomes into the database, figures into the metrics, one line into the log."""

import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from uuid import UUID

import structlog
from django.conf import settings
from django.db import connection
from django.db.utils import InterfaceError, OperationalError
from psycopg_pool import PoolTimeout

from apps import metrics
from apps.channels import Channel, Lane
from apps.delivery.outcomes import Outcome, record_outcomes
from apps.delivery.sources import Source, SourceKey, source_key
from apps.delivery.statuses import Status
from apps.delivery.wording import provider_alias, reason_label

RETRY_S = 0.25
log = structlog.get_logger("notify.delivery.recording")


def record(outcomes: Sequence[Outcome], sources: Mapping[SourceKey, Source]) -> None:
    """Records the outcomes of a batch and reports those that were this worker's to record."""
    recorded = _record_patiently(outcomes)
    own = outcomes
    if len(recorded) < len(outcomes):
        own = [outcome for outcome in outcomes if outcome.claim.id in recorded]
    report(own, sources, fenced_off=len(outcomes) - len(own))


def report(outcomes: Sequence[Outcome], sources: Mapping[SourceKey, Source], *, fenced_off: int = 0) -> None:
    """Puts recorded outcomes into the metrics and the log. ``fenced_off`` others were not this worker's to record."""
    statuses = _count(outcomes)
    _observe_waits(outcomes, sources)
    if fenced_off:
        statuses["fenced_off"] = fenced_off
    log.info("recorded", statuses=statuses)


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


def _count(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Returns how many there are of each status."""
    counts = Counter(
        [
            (one.status, one.claim.channel, one.claim.lane, one.provider_id, one.reason, one.has_tried)
            for one in outcomes
        ]
    )
    statuses: dict[str, int] = defaultdict(int)
    for (status, channel, lane, provider_id, reason, has_tried), n in counts.items():
        label = Channel(channel).label
        statuses[Status(status).label] += n
        metrics.deliveries(Status(status).label, label, Lane(lane).label, provider_alias(provider_id) or "", n)
        if status == Status.QUEUED and has_tried:
            metrics.retried(label, n)
        elif status == Status.SUPPRESSED:
            metrics.suppressed(reason_label(reason) or "", label, n)
    return dict(statuses)


def _observe_waits(outcomes: Sequence[Outcome], sources: Mapping[SourceKey, Source]) -> None:
    """How long each sent delivery took from acceptance (or from when it was wanted) to the provider."""
    now_s = time.time()
    due_s = {key: source.due_at.timestamp() for key, source in sources.items() if source.due_at is not None}
    waits: dict[tuple[int, int], list[float]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.status is Status.SENT:
            claim = outcome.claim
            since_s = (claim.id.int >> 80) / 1000
            if due_s:
                since_s = due_s.get(source_key(claim.id), since_s)
            waits[claim.channel, claim.lane].append(max(0.0, now_s - since_s))
    for (channel, lane), seconds in waits.items():
        metrics.accept_to_provider(Channel(channel).label, Lane(lane).label, seconds)

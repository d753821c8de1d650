"""Sending a batch of claimed deliveries: claim, decide, call the providers, record.

No transaction is open while a provider is called. A worker that dies anywhere in here loses nothing: its rows' leases
run out and the sweep rings for them again.
"""

import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import structlog
from django.conf import settings
from structlog.contextvars import bound_contextvars

from apps import metrics
from apps.channels import Channel, Lane
from apps.delivery.content import Content, Envelope, PoisonContentError, open_content, to_message
from apps.delivery.doorbell import ring_deliveries
from apps.delivery.hygiene import retire_addresses
from apps.delivery.ids import notification_id_of
from apps.delivery.outcomes import Claim, FailedCall, Outcome, claim_deliveries
from apps.delivery.recording import record
from apps.delivery.retry import RetryPolicy, backoff_s, decide_retry
from apps.delivery.selectors import NotificationRow, select_notifications
from apps.delivery.statuses import AttemptOutcome, Reason, Status
from apps.preferences.caps import CapRequest, take_caps
from apps.preferences.categories import DEFAULT_KEY, CategoryRules
from apps.preferences.policy import Action, Decision, Usage, decide
from apps.preferences.policy import Reason as PolicyReason
from apps.preferences.selectors import (
    RecipientSnapshot,
    load_categories,
    load_snapshots,
    reveal_address,
    select_versions,
)
from apps.providers.gateway import send_messages
from apps.providers.messages import Message, Result
from apps.providers.receipts import ack_token
from apps.providers.registry import Provider
from apps.providers.routing import route
from apps.trace import bind_trace

NAMED_DELIVERIES = 10
MAX_LAPSES = 10  # a row whose worker died this often is what kills them
log = structlog.get_logger("notify.delivery.dispatch")


@dataclass(frozen=True, slots=True)
class _Parcel:
    """A claimed row with everything needed to send it."""

    claim: Claim
    notification: NotificationRow
    snapshot: RecipientSnapshot
    category: CategoryRules
    content: Content
    address: str
    ttl_s: int | None


def retry_policy() -> RetryPolicy:
    return RetryPolicy(
        settings.DELIVERY_MAX_ATTEMPTS, settings.DELIVERY_BACKOFF_BASE_S, settings.DELIVERY_BACKOFF_MAX_S
    )


def deliver(ids: Sequence[UUID]) -> None:
    """Sends those of ``ids`` that are due and nobody else's. Raises only what is a bug or a dead database."""
    claims = claim_deliveries(ids, lease_s=settings.DELIVERY_LEASE_S)
    if not claims:
        return
    notifications = select_notifications({notification_id_of(claim.id) for claim in claims})
    with _name_batch(claims, notifications):
        log.info("claimed", n=len(claims))
        try:
            outcomes = _process(claims, notifications, datetime.now(UTC))
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
        return Outcome(claim, Status.DEAD, Reason.POISON, has_tried=True, failed_call=call)
    delay_s = backoff_s(policy, claim.attempts + 1, random.random())  # noqa: S311 - jitter, not a secret
    return Outcome(claim, Status.QUEUED, Reason.RETRY_AFTER_FAILURE, has_tried=True, delay_s=delay_s, failed_call=call)


def _process(claims: Sequence[Claim], notifications: Mapping[UUID, NotificationRow], now: datetime) -> list[Outcome]:
    versions = select_versions(sorted({row.user_id for row in notifications.values()}))
    snapshots = load_snapshots({user_id: version for user_id, (_, version) in versions.items()})
    categories = load_categories({row.category for row in notifications.values()})
    contents: dict[UUID, Content | None] = {}
    outcomes: list[Outcome] = []
    parcels: list[_Parcel] = []
    for claim in claims:
        notification = notifications.get(notification_id_of(claim.id))
        prepared = (
            _dead(claim, "the notification's row is gone")
            if notification is None
            else _prepare(
                claim,
                notification,
                snapshots.get(notification.user_id),
                categories.get(notification.category, categories[DEFAULT_KEY]),
                contents,
                now,
            )
        )
        if isinstance(prepared, Outcome):
            outcomes.append(prepared)
        else:
            parcels.append(prepared)
    capped = _hold_capped(parcels, now)
    outcomes.extend(capped.values())
    by_channel: dict[Channel, list[_Parcel]] = defaultdict(list)
    for parcel in parcels:
        if parcel.claim.id not in capped:
            by_channel[Channel(parcel.claim.channel)].append(parcel)
    for channel, group in by_channel.items():
        outcomes.extend(_send(channel, group, now))
    return outcomes


def _hold_capped(parcels: Sequence[_Parcel], now: datetime) -> dict[UUID, Outcome]:
    """Counts the parcels towards their recipients' frequency caps; returns the outcomes of those beyond."""
    counted = [parcel for parcel in parcels if parcel.category.obeys_cap]
    usages = take_caps(
        [
            CapRequest(
                parcel.snapshot.recipient_id, Channel(parcel.claim.channel), parcel.category, parcel.notification.id
            )
            for parcel in counted
        ],
        now,
    )
    held = {}
    for parcel, usage in zip(counted, usages, strict=True):
        decision = _decide(parcel.claim, parcel.notification, parcel.snapshot, parcel.category, now, usage)
        outcome = _hold(parcel.claim, parcel.notification, decision, now)
        if outcome is not None:
            held[parcel.claim.id] = outcome
    return held


def _decide(
    claim: Claim,
    notification: NotificationRow,
    snapshot: RecipientSnapshot,
    category: CategoryRules,
    now: datetime,
    usage: Usage | None = None,
) -> Decision:
    channel = Channel(claim.channel)
    return decide(snapshot, channel, category, now, usage=usage, expires_at=notification.expires_at)


def _hold(claim: Claim, notification: NotificationRow, decision: Decision, now: datetime) -> Outcome | None:
    """The outcome of a decision against sending now; ``None`` for one to send."""
    if decision.action is Action.SEND:
        return None
    if decision.action is Action.SUPPRESS or decision.not_before is None:
        return Outcome(claim, Status.SUPPRESSED, decision.reason)
    if notification.expires_at is not None and decision.not_before >= notification.expires_at:
        return Outcome(claim, Status.EXPIRED, Reason.EXPIRED)
    delay_s = (decision.not_before - now).total_seconds()
    return Outcome(claim, Status.QUEUED, decision.reason, delay_s=max(0.0, delay_s))


def _prepare(
    claim: Claim,
    notification: NotificationRow,
    snapshot: RecipientSnapshot | None,
    category: CategoryRules,
    contents: dict[UUID, Content | None],
    now: datetime,
) -> Outcome | _Parcel:
    """The last word before the provider: is it still worth sending, still allowed, still possible?"""
    if claim.lapses >= MAX_LAPSES:
        return _dead(claim, f"{MAX_LAPSES} workers died over it")
    if notification.expires_at is not None and notification.expires_at <= now:
        return Outcome(claim, Status.EXPIRED, Reason.EXPIRED)
    if snapshot is None:
        return Outcome(claim, Status.SUPPRESSED, PolicyReason.RECIPIENT_ERASED)
    held = _hold(claim, notification, _decide(claim, notification, snapshot, category, now), now)
    if held is not None:
        return held
    address = reveal_address(snapshot, Channel(claim.channel), claim.device_id)
    if address is None:
        return Outcome(claim, Status.SUPPRESSED, PolicyReason.NO_ADDRESS)
    content = _content_of(notification, contents)
    if content is None:
        return _dead(claim, "the stored content cannot be read")
    return _Parcel(claim, notification, snapshot, category, content, address, _ttl_s(notification, now))


def _content_of(notification: NotificationRow, contents: dict[UUID, Content | None]) -> Content | None:
    if notification.id not in contents:
        try:
            contents[notification.id] = open_content(notification.content_ct, notification.id)
        except PoisonContentError:
            contents[notification.id] = None
    return contents[notification.id]


def _ttl_s(notification: NotificationRow, now: datetime) -> int | None:
    if notification.expires_at is None:
        return None
    return max(1, int((notification.expires_at - now).total_seconds()))


def _message(parcel: _Parcel, provider: Provider) -> Message:
    delivery_id = str(parcel.claim.id)
    envelope = Envelope(
        delivery_id=delivery_id,
        address=parcel.address,
        is_high=parcel.claim.lane == Lane.HIGH,
        ttl_s=parcel.ttl_s,
        ack=ack_token(delivery_id),
        callback_url=f"{settings.PUBLIC_URL}/v1/webhooks/{provider.alias}?delivery_id={delivery_id}",
    )
    return to_message(parcel.content, Channel(parcel.claim.channel), envelope)


def _dead(claim: Claim, why: str) -> Outcome:
    call = FailedCall(AttemptOutcome.BUG, "poison", why)
    return Outcome(claim, Status.DEAD, Reason.POISON, has_tried=True, failed_call=call)


def _send(channel: Channel, parcels: Sequence[_Parcel], read_at: datetime) -> list[Outcome]:
    providers = route(channel)
    if not providers:
        return [Outcome(parcel.claim, Status.QUEUED, Reason.PROVIDER_UNAVAILABLE, delay_s=60.0) for parcel in parcels]
    provider = providers[0]
    messages = [_message(parcel, provider) for parcel in parcels]
    started = time.perf_counter()
    results = {result.delivery_id: result for result in send_messages(provider, messages)}
    metrics.provider_call(provider.alias, time.perf_counter() - started)
    outcomes = [_judge(parcel.claim, provider, results[str(parcel.claim.id)]) for parcel in parcels]
    _count_results(provider, results.values())
    retire_addresses(
        [(parcel.claim, parcel.notification.user_id, results[str(parcel.claim.id)].error) for parcel in parcels],
        used_at=read_at,
    )
    return outcomes


def _judge(claim: Claim, provider: Provider, result: Result) -> Outcome:
    if result.error is None:
        return Outcome(
            claim,
            Status.SENT,
            has_tried=True,
            provider_id=provider.id,
            provider_message_id=result.provider_message_id,
        )
    chance = random.random()  # noqa: S311 - jitter, not a secret
    decision = decide_retry(result.error, claim.attempts + 1, retry_policy(), chance)
    return Outcome(
        claim,
        decision.status,
        decision.reason,
        has_tried=True,
        provider_id=provider.id,
        delay_s=decision.delay_s,
        failed_call=FailedCall(decision.outcome, result.error.code, result.error.message, result.latency_s),
    )


def _count_results(provider: Provider, results: Iterable[Result]) -> None:
    labels = ("accepted" if result.error is None else type(result.error).__name__ for result in results)
    for label, count in Counter(labels).items():
        metrics.provider_results(provider.alias, label, count)

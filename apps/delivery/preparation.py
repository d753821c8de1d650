"""The last word before the provider: is a claimed row still worth sending, still allowed, still possible?"""

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import structlog

from apps.channels import Channel
from apps.delivery.broadcasts.selectors import select_sources
from apps.delivery.content import Content, aad_of
from apps.delivery.mishaps import put_back
from apps.delivery.outcomes import Claim, FailedCall, Outcome
from apps.delivery.rendering import Renderer, TemplateError
from apps.delivery.selectors import select_notifications
from apps.delivery.sources import Source, SourceKey, Standing, source_key
from apps.delivery.statuses import AttemptOutcome, Reason, Status
from apps.preferences.caps import CapRequest, take_caps
from apps.preferences.categories import DEFAULT_KEY, CategoryRules
from apps.preferences.cipher import CipherError
from apps.preferences.policy import Action, Decision, Usage, decide
from apps.preferences.policy import Reason as PolicyReason
from apps.preferences.selectors import (
    RecipientSnapshot,
    find_device,
    load_categories,
    load_snapshots,
    reveal_address,
    select_versions,
    select_versions_by_id,
)

PAUSED_DELAY_S = 5.0
PAUSED_MAX_DELAY_S = 60.0
log = structlog.get_logger("notify.delivery.preparation")


class Candidate(NamedTuple):
    """A claimed row to be looked at; ``snapshot`` is its recipient's, ``None`` if there is no such recipient."""

    claim: Claim
    source: Source
    snapshot: RecipientSnapshot | None


class Parcel(NamedTuple):
    """A claimed row with everything needed to send it. ``content`` is one object for all parcels that say the same;
    ``platform`` is the device's, for a push."""

    claim: Claim
    source: Source
    snapshot: RecipientSnapshot
    category: CategoryRules
    content: Content
    address: str
    ttl_s: int | None = None
    platform: str = ""


class _Terms(NamedTuple):
    """What is the same for all candidates of a source: ``verdict`` is the end of all of them."""

    category: CategoryRules
    verdict: tuple[Status, int] | None
    ttl_s: int | None


def load_sources(delivery_ids: Iterable[UUID]) -> dict[SourceKey, Source]:
    """The notifications and broadcasts that these deliveries are of, in at most two queries."""
    numbers: set[int] = set()
    notification_ids: set[UUID] = set()
    for delivery_id in delivery_ids:
        key = source_key(delivery_id)
        if isinstance(key, int):
            numbers.add(key)
        else:
            notification_ids.add(key)
    sources: dict[SourceKey, Source] = dict(select_sources(numbers).items())
    for row in select_notifications(notification_ids).values():
        sources[row.id] = Source(
            id=row.id,
            category=row.category,
            trace_id=row.trace_id,
            content_ct=row.content_ct,
            aad=aad_of(row.id),
            user_id=row.user_id,
            due_at=row.send_at,
            expires_at=row.expires_at,
        )
    return sources


def prepare(
    claims: Sequence[Claim], sources: Mapping[SourceKey, Source], now: datetime
) -> tuple[list[Parcel], list[Outcome]]:
    """What of a batch is to be sent, and the outcomes of the rest: expired, opted out, put off, unreadable. ``now`` is
    aware."""
    found = [(claim, sources.get(source_key(claim.id))) for claim in claims]
    by_user, by_recipient = _load_recipients(found)
    candidates: list[Candidate] = []
    outcomes: list[Outcome] = []
    for claim, source in found:
        if source is None:
            outcomes.append(dead(claim, "the row that it belongs to is gone"))
        elif source.user_id is None:
            candidates.append(Candidate(claim, source, by_recipient.get(claim.recipient_id)))
        else:
            candidates.append(Candidate(claim, source, by_user.get(source.user_id)))
    parcels, refused = sift(candidates, now)
    return parcels, outcomes + refused


def _load_recipients(
    found: Collection[tuple[Claim, Source | None]],
) -> tuple[Mapping[str, RecipientSnapshot], Mapping[int, RecipientSnapshot]]:
    """The recipients of these rows by user id, and those of broadcasts by recipient id."""
    user_ids = sorted({source.user_id for _, source in found if source is not None and source.user_id is not None})
    recipient_ids = sorted({claim.recipient_id for claim, source in found if source and source.user_id is None})
    versions = {user_id: version for user_id, (_, version) in select_versions(user_ids).items()}
    named = select_versions_by_id(recipient_ids)
    versions.update(named.values())
    snapshots = load_snapshots(versions)
    by_recipient = {
        recipient_id: snapshots[user_id] for recipient_id, (user_id, _) in named.items() if user_id in snapshots
    }
    return snapshots, by_recipient


def sift(candidates: Sequence[Candidate], now: datetime) -> tuple[list[Parcel], list[Outcome]]:
    """What is to be sent, and the outcomes of the rest. Counts the former towards frequency caps."""
    categories = load_categories({candidate.source.category for candidate in candidates})
    terms: dict[int, _Terms] = {}
    parcels: list[Parcel] = []
    outcomes: list[Outcome] = []
    has_caps = False
    for candidate in candidates:
        source = candidate.source
        its_terms = terms.get(id(source))
        if its_terms is None:
            its_terms = terms[id(source)] = _terms_of(source, categories, now)
            has_caps = has_caps or its_terms.category.obeys_cap
        try:
            judged = _judge(candidate, its_terms, now)
        except CipherError as error:
            log.error("address_unreadable", delivery_id=str(candidate.claim.id), problem=str(error))
            judged = put_back(candidate.claim, is_its_fault=True)
        if isinstance(judged, Parcel):
            parcels.append(judged)
        else:
            outcomes.append(judged)
    parcels, unfit = _fill_templates(parcels)
    outcomes += unfit
    if has_caps:
        held = _hold_capped(parcels, now)
        if held:
            outcomes.extend(held.values())
            parcels = [parcel for parcel in parcels if parcel.claim.id not in held]
    return parcels, outcomes


def _terms_of(source: Source, categories: Mapping[str, CategoryRules], now: datetime) -> _Terms:
    verdict: tuple[Status, int] | None = None
    if source.standing is Standing.CANCELLED:
        verdict = Status.CANCELLED, Reason.CANCELLED_BY_CLIENT
    elif source.expires_at is not None and source.expires_at <= now:
        verdict = Status.EXPIRED, Reason.EXPIRED
    elif source.standing is Standing.PAUSED:
        verdict = Status.QUEUED, Reason.BROADCAST_PAUSED
    return _Terms(categories.get(source.category, categories[DEFAULT_KEY]), verdict, source.ttl_s(now))


def _judge(candidate: Candidate, terms: _Terms, now: datetime) -> Outcome | Parcel:
    claim, source, snapshot = candidate
    if terms.verdict is not None:
        status, reason = terms.verdict
        return Outcome(claim, status, reason, delay_s=_paused_s(claim) if status is Status.QUEUED else None)
    if snapshot is None:
        return Outcome(claim, Status.SUPPRESSED, PolicyReason.RECIPIENT_ERASED)
    channel = Channel(claim.channel)
    decision = decide(snapshot, channel, terms.category, now, expires_at=source.expires_at)
    if decision.action is not Action.SEND:
        return _hold(claim, source, decision, now)
    address = reveal_address(snapshot, channel, claim.device_id)
    if address is None:
        return Outcome(claim, Status.SUPPRESSED, PolicyReason.NO_ADDRESS)
    content = source.content
    if content is None:
        return dead(claim, "the stored content cannot be read")
    device = None if claim.device_id is None else find_device(snapshot, claim.device_id)
    platform = "" if device is None else device.platform
    return Parcel(claim, source, snapshot, terms.category, content, address, terms.ttl_s, platform)


def _fill_templates(parcels: list[Parcel]) -> tuple[list[Parcel], list[Outcome]]:
    """The parcels with their templates filled in, and the outcomes of those that cannot be."""
    templates = {parcel.content.template for parcel in parcels}
    if templates <= {None}:
        return parcels, []
    renderer = Renderer()
    renderer.prime(templates)
    filled: list[Parcel] = []
    outcomes: list[Outcome] = []
    for parcel in parcels:
        try:
            content = renderer.render(parcel.content, Channel(parcel.claim.channel), parcel.snapshot.locale)
        except TemplateError as error:
            outcomes.append(dead(parcel.claim, str(error), code="template_error"))
        else:
            filled.append(parcel._replace(content=content))
    return filled, outcomes


def _paused_s(claim: Claim) -> float:
    """How long a row of a paused broadcast waits before it is looked at again: each time longer."""
    return min(PAUSED_DELAY_S * max(1, claim.fence), PAUSED_MAX_DELAY_S) * random.uniform(1.0, 1.5)  # noqa: S311


def _hold_capped(parcels: Sequence[Parcel], now: datetime) -> dict[UUID, Outcome]:
    """Counts the parcels towards their recipients' frequency caps; returns the outcomes of those beyond."""
    counted = [parcel for parcel in parcels if parcel.category.obeys_cap]
    usages = take_caps(
        [
            CapRequest(parcel.snapshot.recipient_id, Channel(parcel.claim.channel), parcel.category, parcel.source.id)
            for parcel in counted
        ],
        now,
    )
    held = {}
    for parcel, usage in zip(counted, usages, strict=True):
        decision = _decide_capped(parcel, usage, now)
        if decision.action is not Action.SEND:
            held[parcel.claim.id] = _hold(parcel.claim, parcel.source, decision, now)
    return held


def _decide_capped(parcel: Parcel, usage: Usage | None, now: datetime) -> Decision:
    channel, expires_at = Channel(parcel.claim.channel), parcel.source.expires_at
    return decide(parcel.snapshot, channel, parcel.category, now, usage=usage, expires_at=expires_at)


def _hold(claim: Claim, source: Source, decision: Decision, now: datetime) -> Outcome:
    """The outcome of a decision against sending now."""
    if decision.action is Action.SUPPRESS or decision.not_before is None:
        return Outcome(claim, Status.SUPPRESSED, decision.reason)
    if source.expires_at is not None and decision.not_before >= source.expires_at:
        return Outcome(claim, Status.EXPIRED, Reason.EXPIRED)
    delay_s = (decision.not_before - now).total_seconds()
    return Outcome(claim, Status.QUEUED, decision.reason, delay_s=max(0.0, delay_s))


def dead(claim: Claim, why: str, code: str = "poison") -> Outcome:
    """The outcome of a row that cannot be processed at all."""
    call = FailedCall(AttemptOutcome.BUG, code, why)
    return Outcome(claim, Status.DEAD, Reason.POISON, has_tried=True, failed_calls=(call,))

"""The last word before the provider: is a claimed row still worth sending, still allowed, still possible?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from apps.channels import Channel
from apps.delivery.content import Content, PoisonContentError, open_content
from apps.delivery.ids import notification_id_of
from apps.delivery.outcomes import Claim, FailedCall, Outcome
from apps.delivery.selectors import NotificationRow
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


@dataclass(frozen=True, slots=True)
class Parcel:
    """A claimed row with everything needed to send it. ``platform`` is the device's, for a push."""

    claim: Claim
    notification: NotificationRow
    snapshot: RecipientSnapshot
    category: CategoryRules
    content: Content
    address: str
    ttl_s: int | None
    platform: str = ""


def prepare(
    claims: Sequence[Claim], notifications: Mapping[UUID, NotificationRow], now: datetime
) -> tuple[list[Parcel], list[Outcome]]:
    """What of a batch is to be sent, and the outcomes of the rest: expired, opted out, put off, unreadable. ``now`` is
    aware."""
    versions = select_versions(sorted({row.user_id for row in notifications.values()}))
    snapshots = load_snapshots({user_id: version for user_id, (_, version) in versions.items()})
    categories = load_categories({row.category for row in notifications.values()})
    contents: dict[UUID, Content | None] = {}
    outcomes: list[Outcome] = []
    parcels: list[Parcel] = []
    for claim in claims:
        notification = notifications.get(notification_id_of(claim.id))
        prepared = (
            dead(claim, "the notification's row is gone")
            if notification is None
            else _prepare_one(
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
    return [parcel for parcel in parcels if parcel.claim.id not in capped], outcomes


def _hold_capped(parcels: Sequence[Parcel], now: datetime) -> dict[UUID, Outcome]:
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


def _prepare_one(
    claim: Claim,
    notification: NotificationRow,
    snapshot: RecipientSnapshot | None,
    category: CategoryRules,
    contents: dict[UUID, Content | None],
    now: datetime,
) -> Outcome | Parcel:
    """The last word before the provider: is it still worth sending, still allowed, still possible?"""
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
        return dead(claim, "the stored content cannot be read")
    platform = next((device.platform for device in snapshot.devices if device.id == claim.device_id), "")
    return Parcel(claim, notification, snapshot, category, content, address, _ttl_s(notification, now), platform)


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


def dead(claim: Claim, why: str) -> Outcome:
    """The outcome of a row that cannot be processed at all."""
    call = FailedCall(AttemptOutcome.BUG, "poison", why)
    return Outcome(claim, Status.DEAD, Reason.POISON, has_tried=True, failed_calls=(call,))

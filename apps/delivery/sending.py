"""Parcels to providers: whom to try, in which order, how many at once, and what their answers mean.

A provider that is not well (its breaker is open) is passed over; one that answers with a transient error hands over to
the next in the same task. What no provider could take waits without having used up an attempt.
"""

import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from django.conf import settings

from apps import metrics
from apps.channels import Channel, Lane
from apps.delivery.content import Envelope, to_message
from apps.delivery.hygiene import retire_addresses
from apps.delivery.outcomes import FailedCall, Outcome
from apps.delivery.preparation import Parcel
from apps.delivery.retry import RetryPolicy, decide_retry, outcome_of
from apps.delivery.statuses import Reason, Status
from apps.preferences import unsubscribe
from apps.providers import breaker, bulkhead, quotas
from apps.providers.bulkhead import Place
from apps.providers.errors import ProviderError, TransientError
from apps.providers.gateway import send_messages
from apps.providers.messages import Message, Result
from apps.providers.receipts import ack_token
from apps.providers.registry import Provider
from apps.providers.routing import plan

UNROUTED_DELAY_S = 60.0  # until somebody configures a provider


@dataclass(slots=True)
class _Journey:
    """One parcel on its way along the providers of its route."""

    parcel: Parcel
    failed_calls: list[FailedCall] = field(default_factory=list)
    last_error: ProviderError | None = None
    last_provider: Provider | None = None
    delay_s: float | None = None  # the shortest wait any provider asked for


def retry_policy() -> RetryPolicy:
    return RetryPolicy(
        settings.DELIVERY_MAX_ATTEMPTS, settings.DELIVERY_BACKOFF_BASE_S, settings.DELIVERY_BACKOFF_MAX_S
    )


def send(parcels: Sequence[Parcel], read_at: datetime) -> list[Outcome]:
    """Sends ``parcels``; one outcome each. ``read_at`` (aware) is when their addresses were read."""
    routes: dict[tuple[Provider, ...], list[_Journey]] = defaultdict(list)
    for parcel in parcels:
        key = f"{parcel.claim.id}:{parcel.claim.attempts}"
        channel = Channel(parcel.claim.channel)
        route = plan(channel, platform=parcel.platform, address=parcel.address, key=key)
        routes[route].append(_Journey(parcel))
    return [outcome for route, journeys in routes.items() for outcome in _travel(route, journeys, read_at)]


def _travel(route: tuple[Provider, ...], journeys: list[_Journey], read_at: datetime) -> list[Outcome]:
    outcomes: list[Outcome] = []
    waiting = journeys
    for position, provider in enumerate(route):
        if not waiting:
            break
        if position > 0:
            metrics.failed_over(provider.channel.label, provider.alias, len(waiting))
        with bulkhead.place(provider.alias) as place:
            if place is not Place.FREE:
                if place is Place.STUCK:
                    breaker.report(provider.alias, successes=0, failures=1)
                for journey in waiting:
                    _wait(journey, bulkhead.RETRY_AFTER_S)
                continue
            taken, waiting = _admit(provider, waiting)
            done, again = _call(provider, taken.journeys, taken.is_probe, read_at)
        outcomes += done
        waiting += again
    return outcomes + [_conclude(journey, has_route=bool(route)) for journey in waiting]


@dataclass(frozen=True, slots=True)
class _Taken:
    journeys: list[_Journey]
    is_probe: bool = False


def _admit(provider: Provider, waiting: list[_Journey]) -> tuple[_Taken, list[_Journey]]:
    """Those of ``waiting`` that ``provider`` may get now, and the others, told how long to wait."""
    admission = breaker.admit(provider.alias)
    if not admission.is_allowed:
        for journey in waiting:
            _wait(journey, admission.retry_after_s * random.uniform(1.0, 1.5))  # noqa: S311 - jitter, not a secret
        return _Taken([]), waiting
    wanted = len(waiting) if admission.max_messages is None else min(len(waiting), admission.max_messages)
    grant = quotas.take(provider.alias, wanted)
    for place, journey in enumerate(waiting[grant.granted :]):
        _wait(journey, grant.delay_s(place) if grant.granted < wanted else admission.retry_after_s)
    return _Taken(waiting[: grant.granted], admission.is_probe), waiting[grant.granted :]


def _wait(journey: _Journey, delay_s: float) -> None:
    journey.delay_s = delay_s if journey.delay_s is None else min(journey.delay_s, delay_s)


def _call(
    provider: Provider, journeys: list[_Journey], is_probe: bool, read_at: datetime
) -> tuple[list[Outcome], list[_Journey]]:
    """Sends to one provider; returns the outcomes of what is settled and the journeys that may go on to the next."""
    results: list[Result] = []
    try:
        if journeys:
            started = time.perf_counter()
            results = send_messages(provider, [_message(journey.parcel, provider, read_at) for journey in journeys])
            metrics.provider_call(provider.alias, time.perf_counter() - started)
    finally:
        if journeys or is_probe:  # a probe that is not reported would keep the next one waiting
            tally = breaker.tally(results)
            breaker.report(provider.alias, tally.successes, tally.failures, was_probe=is_probe)
    quotas.obey(provider.alias, results)
    _count_results(provider, results)
    by_id = {result.delivery_id: result for result in results}
    settled: list[Outcome] = []
    again: list[_Journey] = []
    for journey in journeys:
        result = by_id[str(journey.parcel.claim.id)]
        if result.error is None:
            settled.append(_sent(journey, provider, result))
            continue
        _note_failure(journey, provider, result, result.error)
        if isinstance(result.error, TransientError):
            again.append(journey)
        else:
            settled.append(_conclude(journey))
    claims = [(journey.parcel.claim, journey.parcel.notification.user_id) for journey in journeys]
    retire_addresses([(claim, user, by_id[str(claim.id)].error) for claim, user in claims], used_at=read_at)
    return settled, again


def _message(parcel: Parcel, provider: Provider, read_at: datetime) -> Message:
    delivery_id = str(parcel.claim.id)
    envelope = Envelope(
        delivery_id=delivery_id,
        address=parcel.address,
        is_high=parcel.claim.lane == Lane.HIGH,
        ttl_s=parcel.ttl_s,
        ack=ack_token(delivery_id),
        callback_url=f"{settings.PUBLIC_URL}/v1/webhooks/{provider.alias}?delivery_id={delivery_id}",
        platform=parcel.platform,
        unsubscribe_url=_unsubscribe_url(parcel, read_at),
    )
    return to_message(parcel.content, Channel(parcel.claim.channel), envelope)


def _unsubscribe_url(parcel: Parcel, now: datetime) -> str | None:
    channel = Channel(parcel.claim.channel)
    if channel is not Channel.EMAIL or not unsubscribe.applies(parcel.category, Lane(parcel.claim.lane)):
        return None
    user_id = parcel.notification.user_id
    return unsubscribe.make_url(user_id=user_id, channel=channel, category=parcel.category.key, now=now)


def _note_failure(journey: _Journey, provider: Provider, result: Result, error: ProviderError) -> None:
    journey.last_error, journey.last_provider = error, provider
    call = FailedCall(outcome_of(error), error.code, error.message, result.latency_s, provider.id)
    journey.failed_calls.append(call)


def _sent(journey: _Journey, provider: Provider, result: Result) -> Outcome:
    return Outcome(
        journey.parcel.claim,
        Status.SENT,
        has_tried=True,
        provider_id=provider.id,
        provider_message_id=result.provider_message_id,
        failed_calls=tuple(journey.failed_calls),
    )


def _conclude(journey: _Journey, *, has_route: bool = True) -> Outcome:
    """The outcome of a parcel that no provider accepted."""
    claim = journey.parcel.claim
    if journey.last_error is None or journey.last_provider is None:
        delay_s = UNROUTED_DELAY_S if not has_route or journey.delay_s is None else journey.delay_s
        return Outcome(claim, Status.QUEUED, Reason.PROVIDER_UNAVAILABLE, delay_s=delay_s)
    chance = random.random()  # noqa: S311 - jitter, not a secret
    may_double = journey.parcel.category.retries_unknown
    decision = decide_retry(journey.last_error, claim.attempts + 1, retry_policy(), chance, may_double=may_double)
    return Outcome(
        claim,
        decision.status,
        decision.reason,
        has_tried=True,
        provider_id=journey.last_provider.id,
        delay_s=decision.delay_s,
        failed_calls=tuple(journey.failed_calls),
    )


def _count_results(provider: Provider, results: Iterable[Result]) -> None:
    labels = ("accepted" if result.error is None else type(result.error).__name__ for result in results)
    for label, count in Counter(labels).items():
        metrics.provider_results(provider.alias, label, count)

"""Parcels to providers: whom to try, in which order, how many at once, and what their answers mean.

A provider that is not well (its breaker is open) is passed over; one that answers with a transient error hands over to
the next in the same task. What no provider could take waits without having used up an attempt.
"""

import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from django.conf import settings

from apps import metrics
from apps.channels import Channel, Lane
from apps.delivery.content import Envelope, to_message
from apps.delivery.hygiene import DeadAddress
from apps.delivery.ids import time_of
from apps.delivery.outcomes import FailedCall, Outcome
from apps.delivery.preparation import Parcel
from apps.delivery.retry import History, RetryPolicy, decide_retry, decide_wait, outcome_of
from apps.delivery.statuses import Status
from apps.preferences import unsubscribe
from apps.providers import breaker, bulkhead, quotas
from apps.providers.bulkhead import Place
from apps.providers.errors import InvalidRecipient, NotSent, ProviderError, TransientError
from apps.providers.gateway import send_messages
from apps.providers.messages import Message, Result
from apps.providers.receipts import ack_token
from apps.providers.registry import Provider
from apps.providers.routing import plan

KEPT_CALLS = 20  # claims of a delivery whose failed calls are kept: it may be put off for hours
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
        settings.DELIVERY_MAX_ATTEMPTS,
        settings.DELIVERY_BACKOFF_BASE_S,
        settings.DELIVERY_BACKOFF_MAX_S,
        max_age_s=settings.DELIVERY_MAX_AGE_S,
    )


class Sending:
    """A batch on its way. ``outcomes`` grows as providers answer, and holds what is settled even if something breaks
    later: what a provider accepted must be recorded. ``dead_addresses`` is what they said about recipients."""

    def __init__(self, read_at: datetime) -> None:
        self.outcomes: list[Outcome] = []
        self.dead_addresses: list[DeadAddress] = []
        self._read_at = read_at
        # A further provider is called only early in the lease: what outlives it may be sent by somebody else as well.
        self._hand_over_until = time.monotonic() + settings.DELIVERY_LEASE_S / 6

    def run(self, parcels: Sequence[Parcel]) -> None:
        """Sends ``parcels``; afterwards there is one outcome for each."""
        routes: dict[tuple[Provider, ...], list[_Journey]] = defaultdict(list)
        for parcel in parcels:
            key = f"{parcel.claim.id}:{parcel.claim.attempts}"
            channel = Channel(parcel.claim.channel)
            route = plan(channel, platform=parcel.platform, address=parcel.address, key=key)
            routes[route].append(_Journey(parcel))
        for route, journeys in routes.items():
            self._travel(route, journeys)

    def _travel(self, route: tuple[Provider, ...], journeys: list[_Journey]) -> None:
        waiting = journeys
        for position, provider in enumerate(route):
            if not waiting:
                return
            if position > 0:
                if time.monotonic() > self._hand_over_until:
                    break
                metrics.failed_over(provider.channel.label, provider.alias, len(waiting))
            with bulkhead.place(provider.alias) as place:
                if place is not Place.FREE:
                    if place is Place.STUCK:
                        breaker.report(provider.alias, successes=0, failures=1)
                    for journey in waiting:
                        _wait(journey, bulkhead.RETRY_AFTER_S)
                    continue
                taken, waiting = _admit(provider, waiting)
                waiting += self._call(provider, taken)
        self.outcomes += [_conclude(journey, has_route=bool(route)) for journey in waiting]

    def _call(self, provider: Provider, taken: "_Taken") -> list[_Journey]:
        """Sends to one provider; returns the journeys that may go on to the next."""
        if not taken.journeys:
            if taken.is_probe:  # a probe that is not reported would keep the next one waiting
                breaker.report(provider.alias, 0, 0, was_probe=True)
            return []
        messages = [_message(journey.parcel, provider, self._read_at) for journey in taken.journeys]
        started = time.perf_counter()
        results: list[Result] = []
        try:
            results = send_messages(provider, messages)
            again = self._settle(provider, taken.journeys, results)
        finally:
            tally = breaker.tally(results)
            breaker.report(provider.alias, tally.successes, tally.failures, was_probe=taken.is_probe)
        quotas.obey(provider.alias, results)
        metrics.provider_call(provider.alias, time.perf_counter() - started)
        _count_results(provider, results)
        return again

    def _settle(self, provider: Provider, journeys: Sequence[_Journey], results: Sequence[Result]) -> list[_Journey]:
        by_id = {result.delivery_id: result for result in results}
        again: list[_Journey] = []
        for journey in journeys:
            result = by_id[str(journey.parcel.claim.id)]
            if result.error is None:
                self.outcomes.append(_sent(journey, provider, result))
                continue
            _note_failure(journey, provider, result, result.error)
            if isinstance(result.error, InvalidRecipient):
                self.dead_addresses.append(
                    DeadAddress(journey.parcel.claim, journey.parcel.notification.user_id, result.error, self._read_at)
                )
            if isinstance(result.error, TransientError):
                again.append(journey)
            else:
                self.outcomes.append(_conclude(journey))
        return again


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
    claim, notification = journey.parcel.claim, journey.parcel.notification
    due_at = notification.send_at or time_of(claim.id)
    uses_attempt = journey.last_error is not None and not isinstance(journey.last_error, NotSent)
    history = History(claim.attempts + uses_attempt, claim.fence, time.time() - due_at.timestamp())
    chance = random.random()  # noqa: S311 - jitter, not a secret
    if journey.last_error is None:
        decision = decide_wait(None, history, retry_policy(), chance)
        if decision.delay_s is not None:
            wished_s = UNROUTED_DELAY_S if not has_route else journey.delay_s
            decision = replace(decision, delay_s=decision.delay_s if wished_s is None else wished_s)
    else:
        may_double = journey.parcel.category.retries_unknown
        decision = decide_retry(journey.last_error, history, retry_policy(), chance, may_double=may_double)
    return Outcome(
        claim,
        decision.status,
        decision.reason,
        has_tried=decision.uses_attempt,
        provider_id=journey.last_provider.id if journey.last_provider and decision.uses_attempt else None,
        delay_s=decision.delay_s,
        failed_calls=tuple(journey.failed_calls) if claim.fence <= KEPT_CALLS else (),
    )


def _count_results(provider: Provider, results: Iterable[Result]) -> None:
    labels = ("accepted" if result.error is None else type(result.error).__name__ for result in results)
    for label, count in Counter(labels).items():
        metrics.provider_results(provider.alias, label, count)

"""Parcels to providers: whom to try, in which order, how many at once, and what their answers mean.

A provider that is not well (its breaker is open) is passed over; one that answers with a transient error hands over to
the next in the same task. What no provider could take waits without having used up an attempt.
"""

import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from types import NoneType

import msgspec
from django.conf import settings

from apps import metrics
from apps.channels import Channel, Lane
from apps.delivery.content import Envelope, Words, to_message, words_of
from apps.delivery.hygiene import DeadAddress
from apps.delivery.ids import time_of
from apps.delivery.mishaps import retry_policy
from apps.delivery.outcomes import FailedCall, Outcome
from apps.delivery.preparation import Parcel
from apps.delivery.retry import History, decide_retry, decide_wait, outcome_of
from apps.delivery.statuses import Status
from apps.preferences import unsubscribe
from apps.providers import breaker, bulkhead, quotas
from apps.providers.bulkhead import Place
from apps.providers.errors import InvalidRecipient, NotSent, ProviderError, TransientError
from apps.providers.gateway import longest_call_s, send_messages
from apps.providers.messages import Message, Result
from apps.providers.receipts import ack_token
from apps.providers.registry import Provider
from apps.providers.routing import Planner

KEPT_CALLS = 20  # claims of a delivery whose failed calls are kept: it may be put off for hours
UNROUTED_DELAY_S = 60.0  # until somebody configures a provider


class _Journey(msgspec.Struct):
    """One parcel on its way along the providers of its route."""

    parcel: Parcel
    failed_calls: tuple[FailedCall, ...] = ()
    last_error: ProviderError | None = None
    last_provider: Provider | None = None
    delay_s: float | None = None  # the shortest wait any provider asked for


class Sending:
    """A batch on its way. ``outcomes`` grows as providers answer, and holds what is settled even if something breaks
    later: what a provider accepted must be recorded. ``dead_addresses`` is what they said about recipients,
    ``called_s`` how long they took."""

    def __init__(self, read_at: datetime) -> None:
        self.outcomes: list[Outcome] = []
        self.dead_addresses: list[DeadAddress] = []
        self.called_s = 0.0
        self._read_at = read_at
        self._lease_end = time.monotonic() + settings.DELIVERY_LEASE_S
        self._has_called = False

    def run(self, parcels: Sequence[Parcel]) -> None:
        """Sends ``parcels``; afterwards there is one outcome for each."""
        routes: dict[tuple[Provider, ...], list[_Journey]] = defaultdict(list)
        planners: dict[int, Planner] = {}
        for parcel in parcels:
            claim = parcel.claim
            planner = planners.get(claim.channel)
            if planner is None:
                planner = planners[claim.channel] = Planner(Channel(claim.channel))
            route = planner.plan(parcel.platform, parcel.address, partial("{0.id}:{0.attempts}".format, claim))
            routes[route].append(_Journey(parcel))
        for route, journeys in routes.items():
            self._travel(route, journeys)

    def _travel(self, route: tuple[Provider, ...], journeys: list[_Journey]) -> None:
        waiting = journeys
        for position, provider in enumerate(route):
            if not waiting:
                return
            if not self._may_call(provider):
                for journey in waiting:
                    _wait(journey, 0.0)
                break
            if position > 0:
                metrics.failed_over(provider.channel.label, provider.alias, len(waiting))
            with bulkhead.place(provider.alias, messages=len(waiting)) as place:
                if place is not Place.FREE:
                    if place is Place.STUCK:
                        breaker.report(provider.alias, successes=0, failures=1)
                    for journey in waiting:
                        _wait(journey, bulkhead.RETRY_AFTER_S)
                    continue
                taken, waiting = _admit(provider, waiting)
                waiting += self._call(provider, taken)
        self.outcomes += [_conclude(journey, has_route=bool(route)) for journey in waiting]

    def _may_call(self, provider: Provider) -> bool:
        """A further call is only begun if it will end before the lease: what outlives it may be sent by somebody else
        as well."""
        return not self._has_called or time.monotonic() + longest_call_s(provider) <= self._lease_end

    def _call(self, provider: Provider, taken: "_Taken") -> list[_Journey]:
        """Sends to one provider; returns the journeys that may go on to the next."""
        if not taken.journeys:
            if taken.is_probe:  # a probe that is not reported would keep the next one waiting
                breaker.report(provider.alias, 0, 0, was_probe=True)
            return []
        self._has_called = True
        write = _Writer(provider, self._read_at).write
        messages = [write(journey.parcel) for journey in taken.journeys]
        started = time.perf_counter()
        results: list[Result] = []
        try:
            results = send_messages(provider, messages)
            again = self._settle(provider, taken.journeys, results)
        finally:
            tally = breaker.tally(results)
            breaker.report(provider.alias, tally.successes, tally.failures, was_probe=taken.is_probe)
        quotas.obey(provider.alias, results)
        called_s = time.perf_counter() - started
        self.called_s += called_s
        metrics.provider_call(provider.alias, called_s)
        _count_results(provider, results)
        return again

    def _settle(self, provider: Provider, journeys: Sequence[_Journey], results: Sequence[Result]) -> list[_Journey]:
        again: list[_Journey] = []
        for journey, result in zip(journeys, results, strict=True):
            if result.error is None:
                self.outcomes.append(_sent(journey, provider, result))
                continue
            _note_failure(journey, provider, result, result.error)
            if isinstance(result.error, InvalidRecipient):
                self.dead_addresses.append(
                    DeadAddress(journey.parcel.claim, journey.parcel.snapshot.user_id, result.error, self._read_at)
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


class _Writer:
    """Makes the messages of one call: what several have in common is made once."""

    def __init__(self, provider: Provider, read_at: datetime) -> None:
        self._channel = provider.channel
        self._callback = f"{settings.PUBLIC_URL}/v1/webhooks/{provider.alias}?delivery_id="
        self._read_at = read_at
        self._words: dict[int, Words] = {}

    def write(self, parcel: Parcel) -> Message:
        """The message for ``parcel``. Of what only some channels have use for, only theirs is made."""
        claim, content = parcel.claim, parcel.content
        words = self._words.get(id(content))
        if words is None:
            words = self._words[id(content)] = words_of(content, self._channel)
        delivery_id = str(claim.id)
        ack = callback_url = unsubscribe_url = None
        if self._channel is Channel.PUSH:
            ack = ack_token(delivery_id)
        elif self._channel is Channel.SMS:
            callback_url = self._callback + delivery_id
        elif unsubscribe.applies(parcel.category, Lane(claim.lane)):
            unsubscribe_url = unsubscribe.make_url(
                user_id=parcel.snapshot.user_id,
                channel=self._channel,
                category=parcel.category.key,
                now=self._read_at,
            )
        return to_message(
            words,
            Envelope(
                delivery_id,
                parcel.address,
                claim.lane == Lane.HIGH,
                parcel.ttl_s,
                ack,
                callback_url,
                parcel.platform,
                unsubscribe_url,
            ),
        )


def _note_failure(journey: _Journey, provider: Provider, result: Result, error: ProviderError) -> None:
    journey.last_error, journey.last_provider = error, provider
    call = FailedCall(outcome_of(error), error.code, error.message, result.latency_s, provider.id)
    journey.failed_calls += (call,)


def _sent(journey: _Journey, provider: Provider, result: Result) -> Outcome:
    return Outcome(
        journey.parcel.claim,
        Status.SENT,
        has_tried=True,
        provider_id=provider.id,
        provider_message_id=result.provider_message_id,
        failed_calls=journey.failed_calls,
    )


def _conclude(journey: _Journey, *, has_route: bool = True) -> Outcome:
    """The outcome of a parcel that no provider accepted."""
    claim = journey.parcel.claim
    due_at = journey.parcel.source.due_at or time_of(claim.id)
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
        failed_calls=journey.failed_calls if claim.fence <= KEPT_CALLS else (),
    )


def _count_results(provider: Provider, results: Iterable[Result]) -> None:
    for kind, count in Counter(type(result.error) for result in results).items():
        metrics.provider_results(provider.alias, "accepted" if kind is NoneType else kind.__name__, count)

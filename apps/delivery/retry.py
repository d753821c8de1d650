"""What follows from a failed provider call: one pure function, the only retry arithmetic of the platform."""

from dataclasses import dataclass

from apps.delivery.statuses import AttemptOutcome, Reason, Status
from apps.providers.errors import (
    InvalidRecipient,
    NotSent,
    NotStarted,
    OutcomeUnknown,
    PermanentError,
    ProviderError,
    RateLimited,
    TransientError,
    UnsupportedFeature,
)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """``max_attempts`` provider calls in all; waits grow from ``base_s`` by ``factor`` to at most ``max_s`` seconds.
    What cannot be tried at all waits at most ``idle_max_s`` at a time and ``max_age_s`` in all."""

    max_attempts: int
    base_s: float
    max_s: float
    factor: float = 4.0
    idle_max_s: float = 60.0
    max_age_s: float = 86_400.0


@dataclass(frozen=True, slots=True)
class History:
    """What lies behind a delivery: ``attempts`` calls, this one included, ``claims`` by workers, seconds of age."""

    attempts: int
    claims: int = 1
    age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """The delivery's next status, why, in how many seconds it is due again (``None``: it is done), and whether an
    attempt was used up."""

    status: Status
    reason: Reason
    outcome: AttemptOutcome
    delay_s: float | None = None
    uses_attempt: bool = True


def backoff_s(policy: RetryPolicy, attempts: int, chance: float) -> float:
    """Seconds to wait after ``attempts`` failed calls: full jitter, ``chance`` in [0, 1) of the exponential bound.
    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog."""
    exponent = min(attempts - 1, 32)  # beyond, the cap holds anyway and a float would overflow
    return chance * min(policy.max_s, policy.base_s * policy.factor**exponent)


def decide_retry(
    error: ProviderError, history: History, policy: RetryPolicy, chance: float, *, may_double: bool = True
) -> RetryDecision:
    """What to do after a call failed with ``error``. A provider's ``Retry-After`` is a lower bound of the
    wait. Without ``may_double`` a call that may have succeeded is not repeated: its delivery waits as unknown for a
    receipt."""
    if isinstance(error, PermanentError):
        return RetryDecision(Status.FAILED, _permanent_reason(error), outcome_of(error))
    if isinstance(error, NotSent):
        return decide_wait(error, history, policy, chance)
    is_unknown = isinstance(error, OutcomeUnknown)
    if is_unknown and not may_double:
        return RetryDecision(Status.UNKNOWN, Reason.NO_ANSWER, AttemptOutcome.UNKNOWN)
    if history.attempts >= policy.max_attempts:
        if is_unknown:
            return RetryDecision(Status.UNKNOWN, Reason.NO_ANSWER, AttemptOutcome.UNKNOWN)
        return RetryDecision(Status.DEAD, Reason.ATTEMPTS_USED_UP, outcome_of(error))
    delay_s = backoff_s(policy, history.attempts, chance)
    if isinstance(error, TransientError) and error.retry_after_s is not None:
        delay_s = max(delay_s, error.retry_after_s)
    reason = Reason.RETRY_AFTER_UNKNOWN if is_unknown else Reason.RETRY_AFTER_FAILURE
    return RetryDecision(Status.QUEUED, reason, outcome_of(error), delay_s)


def decide_wait(error: NotSent | None, history: History, policy: RetryPolicy, chance: float) -> RetryDecision:
    """What to do with a delivery that no provider could be given: it waits, without using up an attempt, until it is
    too old. ``error`` is why, ``None`` if no call was even begun."""
    outcome = AttemptOutcome.TRANSIENT if error is None else outcome_of(error)
    # Old alone proves nothing: it may have been put off for a weekend, and this be the first provider it meets.
    has_waited = history.claims * policy.idle_max_s > policy.max_age_s
    if has_waited and history.age_s > policy.max_age_s:
        return RetryDecision(Status.DEAD, Reason.WAITED_TOO_LONG, outcome, uses_attempt=False)
    delay_s = 0.0
    if not isinstance(error, NotStarted):
        delay_s = max(policy.base_s / 2, min(policy.idle_max_s, backoff_s(policy, history.claims, chance)))
    return RetryDecision(Status.QUEUED, Reason.PROVIDER_UNAVAILABLE, outcome, delay_s, uses_attempt=False)


def _permanent_reason(error: PermanentError) -> Reason:
    if isinstance(error, InvalidRecipient):
        return Reason.INVALID_RECIPIENT
    if isinstance(error, UnsupportedFeature):
        return Reason.UNSUPPORTED_BY_PROVIDER
    return Reason.PROVIDER_REFUSED


def outcome_of(error: ProviderError) -> AttemptOutcome:
    """The error's kind, as it is kept with the attempt."""
    if isinstance(error, InvalidRecipient):
        return AttemptOutcome.INVALID_RECIPIENT
    if isinstance(error, PermanentError):
        return AttemptOutcome.PERMANENT
    if isinstance(error, OutcomeUnknown):
        return AttemptOutcome.UNKNOWN
    return AttemptOutcome.RATE_LIMITED if isinstance(error, RateLimited) else AttemptOutcome.TRANSIENT

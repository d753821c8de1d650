"""What follows from a failed provider call: one pure function, the only retry arithmetic of the platform."""

from dataclasses import dataclass

from apps.delivery.statuses import AttemptOutcome, Reason, Status
from apps.providers.errors import (
    InvalidRecipient,
    OutcomeUnknown,
    PermanentError,
    ProviderError,
    RateLimited,
    TransientError,
    UnsupportedFeature,
)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """``max_attempts`` provider calls in all; waits grow from ``base_s`` to at most ``max_s`` seconds."""

    max_attempts: int
    base_s: float
    max_s: float


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """The delivery's next status, why, and in how many seconds it is due again (``None``: it is done)."""

    status: Status
    reason: Reason
    outcome: AttemptOutcome
    delay_s: float | None = None


def backoff_s(policy: RetryPolicy, attempts: int, chance: float) -> float:
    """Seconds to wait after ``attempts`` failed calls: full jitter, ``chance`` in [0, 1) of the exponential bound.
    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog."""
    return chance * min(policy.max_s, policy.base_s * 2.0 ** (attempts - 1))


def decide_retry(
    error: ProviderError, attempts: int, policy: RetryPolicy, chance: float, *, may_double: bool = True
) -> RetryDecision:
    """What to do after the ``attempts``-th call failed with ``error``. A provider's ``Retry-After`` is a lower bound
    of the wait. Without ``may_double`` a call that may have succeeded is not repeated: its delivery waits as unknown
    for a receipt."""
    if isinstance(error, PermanentError):
        return RetryDecision(Status.FAILED, _permanent_reason(error), outcome_of(error))
    is_unknown = isinstance(error, OutcomeUnknown)
    if is_unknown and not may_double:
        return RetryDecision(Status.UNKNOWN, Reason.NO_ANSWER, AttemptOutcome.UNKNOWN)
    if attempts >= policy.max_attempts:
        if is_unknown:
            return RetryDecision(Status.UNKNOWN, Reason.NO_ANSWER, AttemptOutcome.UNKNOWN)
        return RetryDecision(Status.DEAD, Reason.ATTEMPTS_USED_UP, outcome_of(error))
    delay_s = backoff_s(policy, attempts, chance)
    if isinstance(error, TransientError) and error.retry_after_s is not None:
        delay_s = max(delay_s, error.retry_after_s)
    reason = Reason.RETRY_AFTER_UNKNOWN if is_unknown else Reason.RETRY_AFTER_FAILURE
    return RetryDecision(Status.QUEUED, reason, outcome_of(error), delay_s)


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

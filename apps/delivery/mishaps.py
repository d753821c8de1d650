"""What becomes of a row when something goes wrong on our side."""

import random

from django.conf import settings

from apps.delivery.outcomes import Claim, FailedCall, Outcome
from apps.delivery.retry import RetryPolicy, backoff_s
from apps.delivery.statuses import AttemptOutcome, Reason, Status


def retry_policy() -> RetryPolicy:
    """How often and when to try again, by the settings."""
    return RetryPolicy(
        settings.DELIVERY_MAX_ATTEMPTS,
        settings.DELIVERY_BACKOFF_BASE_S,
        settings.DELIVERY_BACKOFF_MAX_S,
        max_age_s=settings.DELIVERY_MAX_AGE_S,
    )


def put_back(claim: Claim, *, is_its_fault: bool) -> Outcome:
    """The outcome of a row that stumbled. One that is to blame for it has used up an attempt."""
    if not is_its_fault:
        return Outcome(claim, Status.QUEUED, Reason.RETRY_AFTER_FAILURE, delay_s=0.0)
    call = FailedCall(AttemptOutcome.BUG, "internal", "an internal error; see the log")
    policy = retry_policy()
    if claim.attempts + 1 >= policy.max_attempts:
        return Outcome(claim, Status.DEAD, Reason.POISON, has_tried=True, failed_calls=(call,))
    delay_s = backoff_s(policy, claim.attempts + 1, random.random())  # noqa: S311 - jitter, not a secret
    return Outcome(
        claim, Status.QUEUED, Reason.RETRY_AFTER_FAILURE, has_tried=True, delay_s=delay_s, failed_calls=(call,)
    )

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.delivery.retry import History, RetryPolicy, backoff_s, decide_retry, decide_wait
from apps.delivery.statuses import AttemptOutcome, Reason, Status
from apps.providers.errors import (
    InvalidRecipient,
    NotSent,
    NotStarted,
    OutcomeUnknown,
    PermanentError,
    RateLimited,
    TransientError,
    UnsupportedFeature,
)

POLICY = RetryPolicy(max_attempts=5, base_s=2.0, max_s=900.0)


@pytest.mark.parametrize(
    ("attempts", "bound_s"),
    [
        (1, 2.0),
        (2, 8.0),
        (3, 32.0),
        (4, 128.0),
        (5, 512.0),
        (6, 900.0),
        (40_000, 900.0),
    ],  # 2 × 4^(attempts − 1), capped
)
def test_backoff_grows_exponentially_to_its_cap(attempts, bound_s):
    assert backoff_s(POLICY, attempts, 0.0) == 0.0
    assert backoff_s(POLICY, attempts, 0.5) == bound_s / 2
    assert backoff_s(POLICY, attempts, 0.999) < bound_s


@pytest.mark.parametrize(
    ("error", "reason", "outcome"),
    [
        (PermanentError("p", "400"), Reason.PROVIDER_REFUSED, AttemptOutcome.PERMANENT),
        (InvalidRecipient("p", "410"), Reason.INVALID_RECIPIENT, AttemptOutcome.INVALID_RECIPIENT),
        (UnsupportedFeature("p", "413"), Reason.UNSUPPORTED_BY_PROVIDER, AttemptOutcome.PERMANENT),
    ],
)
def test_permanent_error_fails_at_the_first_attempt(error, reason, outcome):
    decision = decide_retry(error, History(1), POLICY, 0.5)
    assert (decision.status, decision.reason, decision.outcome, decision.delay_s) == (
        Status.FAILED,
        reason,
        outcome,
        None,
    )


def test_transient_error_waits_and_dies_after_the_last_attempt():
    error = TransientError("p", "503")
    for attempts in range(1, 5):
        decision = decide_retry(error, History(attempts), POLICY, 0.5)
        assert decision.status is Status.QUEUED
        assert decision.delay_s == 0.5 * 2.0 * 4.0 ** (attempts - 1)
    last = decide_retry(error, History(5), POLICY, 0.5)
    assert (last.status, last.reason, last.delay_s) == (Status.DEAD, Reason.ATTEMPTS_USED_UP, None)


def test_retry_after_is_a_lower_bound():
    decision = decide_retry(RateLimited("p", "429", retry_after_s=60.0), History(1), POLICY, 0.5)
    assert (decision.delay_s, decision.outcome) == (60.0, AttemptOutcome.RATE_LIMITED)
    assert decide_retry(TransientError("p", "503", retry_after_s=0.1), History(3), POLICY, 0.5).delay_s == 16.0


def test_unknown_outcome_is_retried_and_ends_as_unknown():
    assert decide_retry(OutcomeUnknown("p", "timeout"), History(1), POLICY, 0.5).reason is Reason.RETRY_AFTER_UNKNOWN
    last = decide_retry(OutcomeUnknown("p", "timeout"), History(5), POLICY, 0.5)
    assert (last.status, last.reason) == (Status.UNKNOWN, Reason.NO_ANSWER)


def test_unknown_outcome_that_must_not_double_is_left_alone():
    decision = decide_retry(OutcomeUnknown("p", "timeout"), History(1), POLICY, 0.5, may_double=False)
    assert (decision.status, decision.delay_s) == (Status.UNKNOWN, None)
    assert decide_retry(TransientError("p", "503"), History(1), POLICY, 0.5, may_double=False).status is Status.QUEUED


@given(
    st.sampled_from([TransientError, RateLimited, OutcomeUnknown, PermanentError, InvalidRecipient]),
    st.integers(min_value=1, max_value=100),
    st.floats(min_value=0, max_value=1, exclude_max=True),
)
def test_a_delivery_is_either_due_again_or_done(kind, attempts, chance):
    decision = decide_retry(kind("p", "x"), History(attempts), POLICY, chance)
    assert (decision.delay_s is not None) == (decision.status is Status.QUEUED)
    assert attempts < POLICY.max_attempts or decision.status is not Status.QUEUED


@pytest.mark.parametrize("claims", [1, 2, 3, 50])
def test_what_could_not_be_sent_waits_without_using_an_attempt(claims):
    decision = decide_retry(NotSent("p", "not_sent"), History(attempts=0, claims=claims), POLICY, 0.5)
    assert (decision.status, decision.reason) == (Status.QUEUED, Reason.PROVIDER_UNAVAILABLE)
    assert not decision.uses_attempt
    assert 1.0 <= decision.delay_s <= POLICY.idle_max_s


def test_what_had_no_turn_is_due_again_at_once():
    assert decide_retry(NotStarted("p", "not_started"), History(0, claims=9), POLICY, 0.5).delay_s == 0.0


def test_waiting_ends_some_day():
    old = History(attempts=0, claims=3_000, age_s=POLICY.max_age_s + 1)
    for error in (NotSent("p", "not_sent"), None):
        decision = decide_wait(error, old, POLICY, 0.5)
        assert (decision.status, decision.reason) == (Status.DEAD, Reason.WAITED_TOO_LONG)


def test_what_was_put_off_for_days_may_still_wait_for_its_first_provider():
    put_off = History(attempts=0, claims=3, age_s=POLICY.max_age_s * 3)
    assert decide_retry(NotSent("p", "not_sent"), put_off, POLICY, 0.5).status is Status.QUEUED

"""A model of a provider: an answer takes ``base_s``, and longer the more requests are under way."""

import pytest

from apps.providers.allowance import BASE_S, LEAST, MOST, QUEUE_S, SHORT_QUEUE_S, START, Allowance


def settle(
    allowance: Allowance,
    base_s: float,
    per_request_s: float,
    start: float = 0.0,
    rounds: int = 600,
    queue_s: float = QUEUE_S,
) -> float:
    now = start
    for _ in range(rounds):
        latency_s = base_s + allowance.limit * per_request_s
        now += latency_s
        allowance.learn(latency_s, latency_s, now, queue_s=queue_s)
    return now


@pytest.mark.parametrize("base_s", [0.002, 0.08, 0.5])
def test_a_provider_that_answers_all_alike_gets_as_many_as_there_may_be(base_s: float) -> None:
    allowance = Allowance()
    settle(allowance, base_s, 0.0)
    assert allowance.limit == MOST


@pytest.mark.parametrize("queue_s", [QUEUE_S, SHORT_QUEUE_S])
def test_a_queue_is_kept_short(queue_s: float) -> None:
    allowance = Allowance()
    allowance.learn(0.002, 0.002, 0.0)  # a single request, before the crowd
    settle(allowance, 0.002, 0.0001, queue_s=queue_s)
    assert 0.7 * queue_s < allowance.limit * 0.0001 < 1.2 * queue_s


def test_the_quickest_of_a_crowd_says_what_an_answer_takes_without_a_queue() -> None:
    allowance = Allowance()
    for number in range(200):
        allowance.learn(0.002, 0.03, number * 0.03)
    assert allowance.limit == LEAST


def test_a_provider_that_chokes_still_gets_some() -> None:
    allowance = Allowance()
    allowance.learn(0.01, 0.01, 0.0)
    settle(allowance, 0.01, 0.05, rounds=300)  # minutes, but not so many that this is what it knows
    assert LEAST <= allowance.limit <= LEAST + 1


def test_one_slow_answer_is_not_cut_for_twice() -> None:
    allowance = Allowance()
    allowance.learn(0.01, 0.01, 0.0)
    allowance.learn(0.1, 0.1, 1.0)
    cut = allowance.limit
    allowance.learn(0.1, 0.1, 1.05)
    assert START > cut == allowance.limit
    allowance.learn(0.1, 0.1, 1.2)
    assert allowance.limit < cut


def test_a_longer_way_is_learnt() -> None:
    allowance = Allowance()
    now = settle(allowance, 0.01, 0.0)
    now = settle(allowance, 0.2, 0.0, start=now, rounds=20)
    assert allowance.limit < MOST / 2
    settle(allowance, 0.2, 0.0, start=now, rounds=int(3 * BASE_S / 0.2) + MOST)
    assert allowance.limit == MOST

from collections import Counter
from datetime import UTC, datetime
from uuid import UUID

from apps.delivery.broadcasts.fairness import Contender, choose

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def contender(number, client_id, *, weight=1, virtual_time=0.0, cost=500):
    return Contender(UUID(int=number), number, client_id, weight, virtual_time, cost, NOW)


def run(contenders, steps):
    """Who had how many of so many turns, all of them having work without end."""
    waiting = {one.number: one for one in contenders}
    turns = []
    for _ in range(steps):
        turn = choose(list(waiting.values()))
        chosen = turn.contender
        virtual_time = max(chosen.virtual_time, turn.floor) + turn.charge
        waiting[chosen.number] = chosen._replace(virtual_time=virtual_time)
        turns.append(chosen.number)
    return turns


def test_nobody_is_chosen_of_nobody():
    assert choose([]) is None


def test_equals_take_turns():
    assert Counter(run([contender(1, 10), contender(2, 20)], 100)) == {1: 50, 2: 50}


def test_weights_are_kept():
    turns = run([contender(1, 10, weight=1), contender(2, 20, weight=3), contender(3, 30, weight=6)], 1_000)
    counts = Counter(turns)
    assert [round(counts[number] / 100) for number in (1, 2, 3)] == [1, 3, 6]


def test_many_broadcasts_of_one_client_share_its_weight():
    counts = Counter(run([contender(1, 10), *(contender(number, 20) for number in range(2, 7))], 1_000))
    assert 480 <= counts[1] <= 520


def test_recipients_count_not_chunks():
    counts = Counter(run([contender(1, 10, cost=1_000), contender(2, 20, cost=100)], 1_100))
    assert counts[2] / counts[1] == 10


def test_newcomer_comes_first_but_does_not_make_up_for_the_past():
    old = contender(1, 10, virtual_time=1_000_000.0)
    turns = run([old, contender(2, 20)], 100)
    assert turns[0] == 2
    assert Counter(turns)[1] >= 48


def test_one_that_was_alone_for_long_is_not_made_to_wait_for_it():
    turns = run([contender(1, 10, virtual_time=9e9), contender(2, 20, virtual_time=5.0)], 12)
    assert Counter(turns)[1] >= 4

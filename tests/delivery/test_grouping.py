import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import msgspec
import pytest
from django.db import OperationalError, connection

from apps.delivery import intake, keys
from apps.delivery.grouping import Grouping
from apps.delivery.models import Delivery, IdempotencyKey
from tests.delivery.factories import make_order
from tests.preferences.factories import RecipientFactory
from tests.waiting import wait_for


class Work:
    """Doubles its items; the first run lasts until ``gate`` opens."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.has_begun = threading.Event()
        self.runs: list[list[int]] = []
        self.fails: Callable[[Sequence[int]], bool] = lambda items: False

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.runs.append(list(items))
        is_first = len(self.runs) == 1
        self.has_begun.set()
        if is_first:
            assert self.gate.wait(10)
        if self.fails(items):
            raise OperationalError("away")
        return [2 * item for item in items]


@pytest.fixture
def work():
    work = Work()
    yield work
    work.gate.set()


@pytest.fixture
def threads():
    with ThreadPoolExecutor(16) as pool:
        yield pool


def start(threads, grouping, work, count):
    """One at work, ``count`` waiting."""
    first = threads.submit(grouping.run, 0)
    assert work.has_begun.wait(5)
    others = [threads.submit(grouping.run, item) for item in range(1, count + 1)]
    wait_for(lambda: len(grouping._waiting) == count, every_s=0.001)
    return first, others


def test_who_comes_alone_is_not_kept_waiting(work):
    work.gate.set()
    grouping = Grouping(work, max_size=8, patience_s=60)
    assert [grouping.run(item) for item in range(3)] == [0, 2, 4]
    assert work.runs == [[0], [1], [2]]


def test_who_comes_while_one_is_at_work_shares_the_next_run(work, threads):
    grouping = Grouping(work, max_size=8, patience_s=60)
    first, others = start(threads, grouping, work, 5)
    work.gate.set()
    assert first.result(5) == 0
    assert sorted(other.result(5) for other in others) == [2, 4, 6, 8, 10]
    assert [len(run) for run in work.runs] == [1, 5]
    assert grouping.run(9) == 18  # nobody is thought to be at work still


def test_who_was_just_answered_and_calls_again_shares_the_next_run(work, threads):
    grouping = Grouping(work, max_size=8, patience_s=60, gather_s=1.0)
    first, others = start(threads, grouping, work, 2)
    work.gate.set()
    assert first.result(0.5) == 0
    again = threads.submit(grouping.run, 3)
    assert sorted(each.result(5) for each in (*others, again)) == [2, 4, 6]
    assert [len(run) for run in work.runs] == [1, 3]


def test_a_run_has_a_largest_size_and_nobody_is_left_over(work, threads):
    grouping = Grouping(work, max_size=2, patience_s=60)
    first, others = start(threads, grouping, work, 7)
    work.gate.set()
    assert first.result(5) == 0
    assert sorted(other.result(5) for other in others) == [2, 4, 6, 8, 10, 12, 14]
    assert [len(run) for run in work.runs] == [1, 2, 2, 2, 1]


def test_what_goes_wrong_all_of_the_run_are_told_and_nobody_else(work, threads):
    grouping = Grouping(work, max_size=8, patience_s=60)
    work.fails = lambda items: len(items) > 1
    first, others = start(threads, grouping, work, 3)
    work.gate.set()
    assert first.result(5) == 0
    for other in others:
        with pytest.raises(OperationalError):
            other.result(5)
    assert grouping.run(4) == 8


def test_who_has_waited_long_enough_goes_ahead_of_a_slow_run(work, threads):
    grouping = Grouping(work, max_size=8, patience_s=0.01)
    first = threads.submit(grouping.run, 0)
    assert work.has_begun.wait(5)
    others = [threads.submit(grouping.run, item) for item in (1, 2, 3)]
    assert [other.result(5) for other in others] == [2, 4, 6]
    assert not first.done()
    work.gate.set()
    assert first.result(5) == 0
    assert grouping.run(4) == 8


@pytest.fixture
def orders(client_row):
    recipients = [RecipientFactory() for _ in range(8)]
    return [make_order(client_row.id, recipient.user_id) for recipient in recipients]


def accept_at_once(threads, orders):
    barrier = threading.Barrier(len(orders))

    def call(order):
        try:
            barrier.wait(5)
            return intake.accept(order, now=datetime.now(UTC))
        finally:
            connection.close()

    return [threads.submit(call, order) for order in orders]


@pytest.mark.django_db(transaction=True)
def test_orders_accepted_at_the_same_time_are_each_their_callers_own(orders, threads):
    for _ in range(5):
        answers = [future.result(20) for future in accept_at_once(threads, orders)]
        told = [msgspec.json.decode(answer.body) for answer in answers]
        assert [one["user_id"] for one in told] == [order.user_id for order in orders]
        assert {one["deliveries"][0]["id"] for one in told} <= {str(row.id) for row in Delivery.objects.all()}
        assert Delivery.objects.count() == IdempotencyKey.objects.count() == 8  # replays, from the second time on


@pytest.mark.django_db(transaction=True)
def test_order_that_fails_takes_no_other_along(orders, threads, monkeypatch):
    bad = orders[3]
    write = keys.write_drafts

    def write_but_one(drafts, **options):
        if any(draft.order is bad for draft in drafts):
            raise ValueError("a bug of ours")
        return write(drafts, **options)

    monkeypatch.setattr(intake, "write_drafts", write_but_one)  # no order is known that PostgreSQL refuses
    futures = accept_at_once(threads, orders)
    for order, future in zip(orders, futures, strict=True):
        if order is bad:
            with pytest.raises(ValueError, match="a bug of ours"):
                future.result(20)
        else:
            assert not future.result(20).is_replay
    assert Delivery.objects.count() == 7

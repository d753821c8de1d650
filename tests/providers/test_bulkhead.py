import threading
import time

from apps.providers.bulkhead import MESSAGE_S, PATIENCE_S, SLOW_AFTER_S, STUCK_AFTER_S, Bulkhead, Place


def enter(bulkhead, alias="twilio", now=0.0):
    return bulkhead.enter(alias, now)[0]


def test_one_provider_gets_its_share_of_the_threads_and_no_more():
    bulkhead = Bulkhead(threads=8)
    assert [enter(bulkhead) for _ in range(5)] == [Place.FREE] * 4 + [Place.FULL]
    assert enter(bulkhead, "fcm") is Place.FREE


def test_slow_calls_halve_the_share():
    bulkhead = Bulkhead(threads=8)
    tickets = [bulkhead.enter("twilio", 0.0)[1] for _ in range(2)]
    assert enter(bulkhead, now=SLOW_AFTER_S + 0.1) is Place.TAKEN
    bulkhead.leave("twilio", tickets[0])
    assert enter(bulkhead, now=SLOW_AFTER_S + 0.1) is Place.FREE


def test_hanging_calls_are_told_from_slow_ones():
    bulkhead = Bulkhead(threads=8)
    for _ in range(2):
        bulkhead.enter("twilio", 0.0)
    assert enter(bulkhead, now=STUCK_AFTER_S + 0.1) is Place.STUCK


def test_place_is_free_again_after_the_call():
    bulkhead = Bulkhead(threads=2)
    for _ in range(10):
        place, ticket = bulkhead.enter("twilio", 0.0)
        assert place is Place.FREE
        assert enter(bulkhead) is Place.FULL
        bulkhead.leave("twilio", ticket)


def test_smallest_worker_can_still_call():
    assert enter(Bulkhead(threads=1)) is Place.FREE


def test_large_calls_may_take_longer_before_they_count_as_slow():
    bulkhead = Bulkhead(threads=8)
    for _ in range(2):
        bulkhead.enter("twilio", 0.0, messages=500)
    assert enter(bulkhead, now=SLOW_AFTER_S + 0.1) is Place.FREE
    assert enter(bulkhead, now=SLOW_AFTER_S + 500 * MESSAGE_S + 0.1) is Place.TAKEN


def test_a_call_waits_for_a_healthy_one_to_end():
    bulkhead = Bulkhead(threads=2)
    _, ticket = bulkhead.enter_patiently("twilio", messages=1)
    threading.Timer(0.05, bulkhead.leave, ("twilio", ticket)).start()
    assert bulkhead.enter_patiently("twilio", messages=1)[0] is Place.FREE


def test_nobody_waits_for_long_nor_for_slow_calls():
    bulkhead = Bulkhead(threads=4)
    for _ in range(2):
        bulkhead.enter("twilio", time.monotonic(), messages=1_000)
    started = time.monotonic()
    assert bulkhead.enter_patiently("twilio", messages=1)[0] is Place.FULL
    assert PATIENCE_S <= time.monotonic() - started < 2 * PATIENCE_S
    slow = Bulkhead(threads=4)
    slow.enter("twilio", time.monotonic() - SLOW_AFTER_S - 0.1)
    started = time.monotonic()
    assert slow.enter_patiently("twilio", messages=1)[0] is Place.TAKEN
    assert time.monotonic() - started < PATIENCE_S / 8

from apps.providers.bulkhead import SLOW_AFTER_S, Bulkhead


def test_one_provider_gets_its_share_of_the_threads_and_no_more():
    bulkhead = Bulkhead(threads=8)
    tickets = [bulkhead.enter("twilio", 0.0) for _ in range(5)]
    assert [ticket is not None for ticket in tickets] == [True] * 4 + [False]
    assert bulkhead.enter("fcm", 0.0) is not None


def test_slow_calls_halve_the_share():
    bulkhead = Bulkhead(threads=8)
    first, second = bulkhead.enter("twilio", 0.0), bulkhead.enter("twilio", 0.0)
    assert bulkhead.enter("twilio", SLOW_AFTER_S + 0.1) is None
    bulkhead.leave("twilio", second)
    assert bulkhead.enter("twilio", SLOW_AFTER_S + 0.1) is not None
    bulkhead.leave("twilio", first)


def test_place_is_free_again_after_the_call():
    bulkhead = Bulkhead(threads=2)
    for _ in range(10):
        ticket = bulkhead.enter("twilio", 0.0)
        assert ticket is not None
        assert bulkhead.enter("twilio", 0.0) is None
        bulkhead.leave("twilio", ticket)


def test_smallest_worker_can_still_call():
    assert Bulkhead(threads=1).enter("twilio", 0.0) is not None

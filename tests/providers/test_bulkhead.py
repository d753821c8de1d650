from apps.providers.bulkhead import SLOW_AFTER_S, STUCK_AFTER_S, Bulkhead, Place


def enter(bulkhead, alias="twilio", now=0.0):
    return bulkhead.enter(alias, now)[0]


def test_one_provider_gets_its_share_of_the_threads_and_no_more():
    bulkhead = Bulkhead(threads=8)
    assert [enter(bulkhead) for _ in range(5)] == [Place.FREE] * 4 + [Place.TAKEN]
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
        assert enter(bulkhead) is Place.TAKEN
        bulkhead.leave("twilio", ticket)


def test_smallest_worker_can_still_call():
    assert enter(Bulkhead(threads=1)) is Place.FREE

"""The judge of the fault suite, with evidence made up: it must see what is there and invent nothing."""

import pytest

from apps.delivery.statuses import Status
from tests.chaos.checker import Evidence, Fault, ProviderAccept, check, find_misordered, percentile
from tests.chaos.ledger import Accepted, Answer, GivenUp, LedgerWriter, read_records
from tests.chaos.limits import Kill, Limits, find_breaches


def promise(number, *, at=100.0, deliveries=1, stream="", place=0):
    ids = tuple(f"d{number}.{place_of}" for place_of in range(deliveries))
    return Accepted(
        key=f"k{number}",
        notification_id=f"n{number}",
        delivery_ids=ids,
        at=at,
        requests=1,
        stream=stream,
        place=place,
    )


def taken(delivery_id, at=100.5):
    return ProviderAccept(delivery_id, at, "fcm")


def evidence(accepted=(), rows=None, accepts=(), **others):
    values = {"given_up": (), "answers": (), "faults": ()} | others
    return Evidence(accepted=accepted, rows=rows or {}, accepts=accepts, **values)


@pytest.mark.parametrize(
    ("status", "times_taken", "expected"),
    [
        (Status.SENT, 1, {}),
        (Status.DELIVERED, 1, {}),
        (Status.SENT, 0, {"lost": 1}),  # it says so, but nobody got it
        (Status.DELIVERED, 0, {"lost": 1}),
        (Status.QUEUED, 0, {"lost": 1, "stuck": 1}),
        (Status.SENDING, 0, {"lost": 1, "stuck": 1}),
        (Status.SENDING, 1, {"stuck": 1}),  # the person has it, we never noticed
        (None, 0, {"lost": 1, "stuck": 1}),  # the row is gone
        (None, 1, {"stuck": 1}),
        (Status.SENT, 3, {"duplicates": 2}),
        (Status.DEAD, 0, {"dead": 1}),
        (Status.DEAD, 2, {"dead": 1, "duplicates": 1}),
        (Status.UNKNOWN, 0, {"unknown": 1}),
        (Status.FAILED, 0, {"refused": 1}),
        (Status.SUPPRESSED, 0, {"refused": 1}),
        (Status.EXPIRED, 0, {"refused": 1}),
    ],
)
def test_a_delivery_counts_as_what_became_of_it(status, times_taken, expected):
    rows = {} if status is None else {"d1.0": int(status)}
    tally = check(evidence([promise(1)], rows, [taken("d1.0")] * times_taken))
    kinds = ("lost", "stuck", "duplicates", "dead", "unknown", "refused")
    assert {kind: getattr(tally, kind) for kind in kinds if getattr(tally, kind)} == expected


def test_every_delivery_of_a_notification_counts():
    rows = {"d1.0": Status.SENT, "d1.1": Status.SENT, "d1.2": Status.QUEUED}
    tally = check(evidence([promise(1, deliveries=3)], rows, [taken("d1.0"), taken("d1.1")]))
    assert (tally.accepted, tally.deliveries, tally.lost, tally.examples["lost"]) == (1, 3, 1, ["d1.2"])


def test_what_a_broadcast_promised_counts_too():
    rows = {"b1": Status.SENT}
    tally = check(evidence(rows=rows, accepts=[taken("b1")], promised_elsewhere=frozenset({"b1", "b2"})))
    assert (tally.accepted, tally.lost) == (2, 1)


def test_strangers_are_neither_lost_nor_duplicates():
    tally = check(evidence([promise(1)], {"d1.0": Status.SENT}, [taken("d1.0"), taken("x"), taken("x")]))
    assert (tally.strangers, tally.duplicates, tally.lost) == (1, 0, 0)


def test_giving_up_is_an_accept_error():
    assert check(evidence(given_up=[GivenUp(key="k", reason="503")])).accept_errors == 1


def test_latency_is_that_of_good_answers_and_apart_while_broken():
    answers = [Answer(at=float(at), latency_s=at / 1000, status=202) for at in range(1, 101)]
    answers.append(Answer(at=50.5, latency_s=9.0, status=503))
    tally = check(evidence(answers=answers, faults=[Fault("broken", 41.0, 60.0)]))
    assert (tally.overall.count, tally.overall.p50, tally.overall.p99, tally.overall.max) == (100, 50.0, 99.0, 100.0)
    assert (tally.during_fault.count, tally.during_fault.p50, tally.during_fault.max) == (20, 50.0, 60.0)
    assert tally.errors_during_fault == {"503": 1}


def test_percentile_is_the_nearest_rank():
    assert [percentile([1.0, 2.0, 3.0, 4.0], share) for share in (0.0, 0.25, 0.5, 0.99, 1.0)] == [1, 1, 2, 4, 4]


def test_recovery_is_counted_from_the_end_of_the_fault():
    accepted = [promise(1, at=15.0), promise(2, at=19.0), promise(3, at=21.0), promise(4, at=30.0), promise(5, at=1.0)]
    accepts = [taken(f"d{1 + index}.0", at) for index, at in enumerate((16.0, 27.5, 23.0, 30.1, 51.0))]
    faults = [Fault("away", 10.0, 20.0)]
    tally = check(evidence(accepted, {}, accepts, faults=faults, in_flight=frozenset({"d5.0"})))
    (recovery,) = tally.recoveries
    assert (recovery.first_new_s, recovery.backlog_s, recovery.in_flight_s) == (3.0, 7.5, 31.0)


def test_what_is_left_when_the_next_fault_begins_is_its_backlog():
    faults = [Fault("first", 10.0, 20.0), Fault("second", 25.0, 30.0)]
    accepts = [taken("d1.0", 24.0), taken("d2.0", 33.0)]
    tally = check(evidence([promise(1, at=15.0), promise(2, at=15.0)], {}, accepts, faults=faults))
    assert [one.backlog_s for one in tally.recoveries] == [4.0, 3.0]


def test_what_never_recovered_has_no_figure_and_breaks_the_limit():
    tally = check(
        evidence([promise(1, at=15.0)], {"d1.0": 3}, [taken("d1.0", 16.0)], faults=[Fault("away", 10.0, 20.0)])
    )
    assert tally.recoveries[0].first_new_s is None
    assert any("recovery after away" in breach for breach in find_breaches(tally, (), Limits(recovery_s=15)))


@pytest.mark.parametrize(
    ("order_taken", "late"),
    [
        ([0, 1, 2], []),
        ([0, 2, 1], ["d1.0"]),
        ([0, 0, 1, 0, 2], []),  # a duplicate is another matter
        ([2, 0, 1], ["d0.0", "d1.0"]),
        ([1, 2], []),  # lost is another matter
    ],
)
def test_order_is_that_of_the_first_time(order_taken, late):
    accepted = [promise(place, stream="s", place=place) for place in range(3)]
    assert find_misordered(accepted, [taken(f"d{place}.0") for place in order_taken]) == late


def test_streams_do_not_order_each_other():
    accepted = [promise(1, stream="a", place=1), promise(2, stream="b", place=0), promise(3)]
    assert find_misordered(accepted, [taken("d1.0"), taken("d2.0"), taken("d3.0")]) == []


def tally_of(**rows_and_accepts):
    return check(evidence([promise(1)], {"d1.0": Status.SENT}, [taken("d1.0")], **rows_and_accepts))


def test_a_clean_run_breaks_nothing():
    assert find_breaches(tally_of(), (), Limits()) == []


@pytest.mark.parametrize(
    ("rows", "accepts", "breach"),
    [
        ({"d1.0": Status.QUEUED}, [], "lost: 1, at most 0"),
        ({"d1.0": Status.QUEUED}, [], "stuck: 1, at most 0"),
        ({"d1.0": Status.SENT}, ["d1.0"] * 4, "duplicates: 3, at most 2"),
        ({"d1.0": Status.DEAD}, [], "dead: 1, at most 0"),
        ({"d1.0": Status.SUPPRESSED}, [], "refused: 1, at most 0"),
    ],
)
def test_every_broken_limit_is_named(rows, accepts, breach):
    tally = check(evidence([promise(1)], rows, [taken(one) for one in accepts]))
    assert breach in find_breaches(tally, (Kill("one", 0.0, 1), Kill("another", 0.0, 1)), Limits())


def test_as_many_duplicates_as_rows_in_flight_are_no_breach():
    tally = check(evidence([promise(1)], {"d1.0": Status.SENT}, [taken("d1.0")] * 3))
    assert find_breaches(tally, (Kill("one", 0.0, 2),), Limits()) == []
    assert find_breaches(tally, (), Limits()) == ["duplicates: 2, at most 0"]


def test_answers_while_broken_must_be_quick_and_202():
    slow = [Answer(at=15.0, latency_s=1.2, status=202), Answer(at=16.0, latency_s=0.1, status=503)]
    breaches = find_breaches(
        tally_of(answers=slow, faults=[Fault("away", 10.0, 20.0)]), (), Limits(answer_p99_ms=1_000.0)
    )
    assert breaches == [
        "p99 of 202s while it was broken, ms: 1200, at most 1000",
        "other answers than 202 while it was broken: 1, at most 0",
    ]


def test_an_empty_run_proves_nothing():
    assert "nothing was accepted" in find_breaches(check(evidence()), (), Limits())


def test_a_ledger_survives_the_death_of_its_writer(tmp_path):
    writer = LedgerWriter(tmp_path / "ledger", is_synced=True)
    writer.append([promise(1), promise(2, deliveries=2)])
    writer.close()
    with (tmp_path / "ledger").open("ab") as file:
        file.write(b'{"key": "torn')
    assert read_records(tmp_path / "ledger", Accepted) == [promise(1), promise(2, deliveries=2)]
    assert read_records(tmp_path / "none", Accepted) == []

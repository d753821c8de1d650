import itertools
from datetime import UTC, date, datetime, timedelta
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.delivery.ids import (
    MAX_ADDRESS_NUMBER,
    MAX_BROADCAST_NUMBER,
    MAX_DELIVERIES,
    broadcast_delivery_id,
    broadcast_number_of,
    broadcast_range,
    day_bounds,
    delivery_ids,
    delivery_range,
    first_id_at,
    new_notification_id,
    notification_id_of,
    time_of,
)

milliseconds = st.integers(min_value=0, max_value=int(datetime(2200, 1, 1, tzinfo=UTC).timestamp() * 1000))


@given(milliseconds)
def test_id_is_a_uuid_version_7_of_its_time(now_ms):
    identifier = new_notification_id(now_ms)
    assert identifier.version == 7
    assert identifier.variant == "specified in RFC 4122"
    assert int(time_of(identifier).timestamp() * 1000 + 0.5) == now_ms


@given(milliseconds, st.integers(min_value=1, max_value=MAX_DELIVERIES))
def test_deliveries_lie_in_their_notifications_range(now_ms, count):
    notification_id = new_notification_id(now_ms)
    ids = delivery_ids(notification_id, count)
    low, high = delivery_range(notification_id)
    assert len(set(ids)) == count
    assert all(low <= one <= high and one.version == 7 for one in ids)
    assert {notification_id_of(one) for one in ids} == {notification_id}


def test_ten_thousand_ids_of_one_millisecond_differ():
    assert len({new_notification_id(1) for _ in range(10_000)}) == 10_000


def test_too_many_deliveries_are_refused():
    with pytest.raises(ValueError, match="255"):
        delivery_ids(new_notification_id(), MAX_DELIVERIES + 1)


@given(milliseconds)
def test_day_holds_exactly_its_own_ids(now_ms):
    identifier = new_notification_id(now_ms)
    day = time_of(identifier).date()
    low, high = day_bounds(day)
    assert low <= identifier < high
    assert low <= first_id_at(time_of(identifier)) < high
    assert day_bounds(day + timedelta(days=1))[0] == high


def test_bounds_of_a_day_are_made_from_midnight():
    low, _ = day_bounds(date(2026, 11, 22))
    assert low == UUID(int=1_795_305_600_000 << 80)


def test_broadcast_ids_tell_their_broadcast_and_lie_in_its_range():
    started = 1_767_225_600_123
    for number in (1, 0x3FFF, 0x4000, MAX_BROADCAST_NUMBER):
        low, high = broadcast_range(started, number)
        for channel, address in ((1, 1), (2, MAX_ADDRESS_NUMBER), (3, 7)):
            made = broadcast_delivery_id(started, number, channel, address)
            assert broadcast_number_of(made) == number
            assert low <= made <= high
            assert made.version == 8
            assert made.variant == RFC_4122
            assert time_of(made).timestamp() * 1000 == pytest.approx(started)


def test_broadcasts_of_one_millisecond_share_no_id():
    ranges = sorted(broadcast_range(1, number) for number in (1, 2, 0x3FFF, 0x4000, 0x4001))
    assert all(one[1] < other[0] for one, other in itertools.pairwise(ranges))


def test_notification_delivery_belongs_to_no_broadcast():
    assert broadcast_number_of(delivery_ids(new_notification_id(), 1)[0]) is None


@pytest.mark.parametrize("number", [0, -1, MAX_BROADCAST_NUMBER + 1])
def test_broadcast_number_out_of_range_is_refused(number):
    with pytest.raises(ValueError, match="broadcast's number"):
        broadcast_delivery_id(1, number, 1, 1)

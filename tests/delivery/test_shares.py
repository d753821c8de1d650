from hypothesis import given
from hypothesis import strategies as st

from apps.delivery.shares import share_by_weight, take_turns


@given(st.integers(1, 100_000), st.dictionaries(st.integers(), st.integers(1, 1000), min_size=1, max_size=50))
def test_everybody_gets_something_and_nobody_more_than_the_weight_allows(total, weights):
    shares = share_by_weight(total, weights)
    assert shares.keys() == weights.keys()
    for key, share in shares.items():
        assert share >= 1
        assert share <= max(1, total * weights[key] / sum(weights.values()))


def test_shares_follow_the_weights():
    assert share_by_weight(1_000, {1: 1, 2: 3}) == {1: 250, 2: 750}
    assert share_by_weight(3, {1: 1, 2: 1000}) == {1: 1, 2: 2}


@given(st.lists(st.lists(st.integers(), max_size=8), max_size=8))
def test_taking_turns_loses_nothing(groups):
    assert sorted(take_turns(groups)) == sorted(item for group in groups for item in group)


def test_small_groups_are_early():
    assert take_turns([[1, 2, 3, 4, 5], [10], [20, 21]]) == [10, 20, 1, 21, 2, 3, 4, 5]

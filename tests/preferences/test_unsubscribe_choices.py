"""What a choice means, without a store."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from apps.channels import Channel
from apps.preferences.categories import DEFAULT_RULES, CategoryRules
from apps.preferences.policy import is_wanted
from apps.preferences.snapshots import wishes_of
from apps.preferences.stated import StatedPreferences
from apps.preferences.subscription import Scope, State, Words, choose_words, find_state

KEYS = ["", "marketing", "news"]
RULES = [
    CategoryRules(id=number, key=key, off_by_default=off)
    for number, key in enumerate(KEYS, 1)
    for off in (frozenset[Channel](), frozenset(Channel))
]

WISHES = st.dictionaries(st.sampled_from(Channel), st.booleans())
STATED = st.builds(
    StatedPreferences,
    is_opted_out=st.booleans(),
    time_zone=st.just(""),
    channels=WISHES,
    categories=st.dictionaries(st.sampled_from(KEYS), WISHES),
    quiet_hours=st.just(()),
)
CHANNELS = st.sampled_from(Channel)
ANY_RULES = st.sampled_from(RULES)


def say(stated: StatedPreferences, words: Words) -> StatedPreferences:
    """What ``update_preferences`` makes of it."""

    def merge(old: Mapping[Channel, bool], new: Mapping[Channel, bool | None]) -> dict[Channel, bool]:
        return {channel: wish for channel, wish in {**old, **new}.items() if wish is not None}

    keys = stated.categories.keys() | words.categories.keys()
    return StatedPreferences(
        is_opted_out=stated.is_opted_out if words.is_opted_out is None else words.is_opted_out,
        time_zone="",
        channels=merge(stated.channels, words.channels),
        categories={key: merge(stated.categories.get(key, {}), words.categories.get(key, {})) for key in keys},
        quiet_hours=(),
    )


def gets(stated: StatedPreferences, channel: Channel, rules: CategoryRules) -> bool:
    wishes = wishes_of(stated.categories.get(rules.key, {}))
    return not stated.is_opted_out and is_wanted(wishes, wishes_of(stated.channels), channel, rules)[0]


@given(STATED, CHANNELS, ANY_RULES)
def test_leaving_a_category_ends_it_on_this_channel_and_nothing_else(
    stated: StatedPreferences, channel: Channel, rules: CategoryRules
) -> None:
    after = say(stated, choose_words(Scope.CATEGORY, stated, channel, rules))
    for other in Channel:
        for each in RULES:
            is_meant = other is channel and each.key == rules.key
            assert gets(after, other, each) is (not is_meant and gets(stated, other, each))


@given(STATED, CHANNELS, ANY_RULES)
def test_leaving_a_channel_ends_every_category_on_it_even_those_asked_for(
    stated: StatedPreferences, channel: Channel, rules: CategoryRules
) -> None:
    after = say(stated, choose_words(Scope.CHANNEL, stated, channel, rules))
    for other in Channel:
        for each in RULES:
            assert gets(after, other, each) is (other is not channel and gets(stated, other, each))
    assert find_state(after, channel, rules) is (State.ALL_OFF if stated.is_opted_out else State.CHANNEL_OFF)


@given(STATED, CHANNELS, ANY_RULES)
def test_leaving_everything_ends_everything(stated: StatedPreferences, channel: Channel, rules: CategoryRules) -> None:
    after = say(stated, choose_words(Scope.ALL, stated, channel, rules))
    assert not any(gets(after, other, each) for other in Channel for each in RULES)
    assert find_state(after, channel, rules) is State.ALL_OFF


@given(STATED, CHANNELS, ANY_RULES)
def test_coming_back_always_brings_the_category_back(
    stated: StatedPreferences, channel: Channel, rules: CategoryRules
) -> None:
    after = say(stated, choose_words(Scope.RESUBSCRIBE, stated, channel, rules))
    assert gets(after, channel, rules)
    assert find_state(after, channel, rules) is State.SUBSCRIBED


@given(STATED, CHANNELS, ANY_RULES)
def test_coming_back_opens_no_other_channel_and_no_other_category_refused_by_name(
    stated: StatedPreferences, channel: Channel, rules: CategoryRules
) -> None:
    after = say(stated, choose_words(Scope.RESUBSCRIBE, stated, channel, rules))
    for other in Channel:
        if other is not channel:
            assert after.channels.get(other) == stated.channels.get(other)
        for key in KEYS:
            if (other, key) != (channel, rules.key):
                old = stated.categories.get(key, {}).get(other)
                assert after.categories.get(key, {}).get(other) == old


@given(STATED, CHANNELS, ANY_RULES, st.sampled_from(Scope))
def test_saying_it_twice_is_saying_it_once(
    stated: StatedPreferences, channel: Channel, rules: CategoryRules, scope: Scope
) -> None:
    once = say(stated, choose_words(scope, stated, channel, rules))
    twice = say(once, choose_words(scope, once, channel, rules))
    assert twice == once


@given(STATED, CHANNELS, ANY_RULES)
def test_the_state_is_what_decisions_go_by(stated: StatedPreferences, channel: Channel, rules: CategoryRules) -> None:
    assert (find_state(stated, channel, rules) is State.SUBSCRIBED) is gets(stated, channel, rules)


@given(CHANNELS)
def test_without_a_default_category_the_channel_is_left(channel: Channel) -> None:
    nothing = StatedPreferences(is_opted_out=False, time_zone="", channels={}, categories={}, quiet_hours=())
    left = say(nothing, choose_words(Scope.CATEGORY, nothing, channel, DEFAULT_RULES))
    assert left.channels == {channel: False}
    assert gets(say(left, choose_words(Scope.RESUBSCRIBE, left, channel, DEFAULT_RULES)), channel, DEFAULT_RULES)

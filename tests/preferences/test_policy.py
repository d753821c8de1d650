from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.channels import Channel
from apps.preferences.categories import DEFAULT_RULES, Cap, CapRule, CategoryRules, Kind, QuietHoursRule
from apps.preferences.policy import SMEAR_MINUTES, Action, Decision, Reason, Usage, decide, explain
from apps.preferences.quiet_hours import EVERY_DAY, Window
from apps.preferences.snapshots import DeviceSnapshot, RecipientSnapshot, channels_of, mask_of, wishes_of

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
ALL = frozenset(Channel)


def make_snapshot(**fields: object) -> RecipientSnapshot:
    defaults = {
        "recipient_id": 1,
        "user_id": "user-1",
        "version": 1,
        "email_ct": b"x",
        "phone_ct": b"x",
        "devices": (DeviceSnapshot(1, "android", b"x"),),
    }
    return RecipientSnapshot(**(defaults | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("channel", Channel)
def test_nothing_against_it_sends(channel: Channel) -> None:
    assert decide(make_snapshot(), channel, DEFAULT_RULES, NOW) == Decision(Action.SEND, Reason.ALLOWED)


@pytest.mark.parametrize("channel", Channel)
def test_channel_opt_out_stops_that_channel_only(channel: Channel) -> None:
    snapshot = make_snapshot(channel_wishes=wishes_of({channel: False}))
    reasons = {other: decide(snapshot, other, DEFAULT_RULES, NOW).reason for other in Channel}
    assert reasons == {other: Reason.CHANNEL_OPT_OUT if other is channel else Reason.ALLOWED for other in Channel}


@pytest.mark.parametrize(
    ("fields", "channel"),
    [({"email_ct": None}, Channel.EMAIL), ({"phone_ct": None}, Channel.SMS), ({"devices": ()}, Channel.PUSH)],
)
def test_missing_address_stops_that_channel_only(fields: dict[str, object], channel: Channel) -> None:
    snapshot = make_snapshot(**fields)
    reasons = {other: decide(snapshot, other, DEFAULT_RULES, NOW).reason for other in Channel}
    assert reasons == {other: Reason.NO_ADDRESS if other is channel else Reason.ALLOWED for other in Channel}


def test_first_rule_that_applies_gives_the_reason() -> None:
    for erased, out, disabled, suppressed, missing in product([False, True], repeat=5):
        snapshot = make_snapshot(
            is_erased=erased,
            is_opted_out=out,
            channel_wishes=wishes_of(dict.fromkeys(Channel, False)) if disabled else 0,
            suppressed_channels=ALL if suppressed else frozenset(),
            **({"email_ct": None, "phone_ct": None, "devices": ()} if missing else {}),
        )
        expected = next(
            reason
            for applies, reason in [
                (erased, Reason.RECIPIENT_ERASED),
                (out, Reason.GLOBAL_OPT_OUT),
                (disabled, Reason.CHANNEL_OPT_OUT),
                (suppressed, Reason.ADDRESS_SUPPRESSED),
                (missing, Reason.NO_ADDRESS),
                (True, Reason.ALLOWED),
            ]
            if applies
        )
        for channel in Channel:
            decision = decide(snapshot, channel, CategoryRules(id=7, key="news"), NOW)
            assert decision.reason is expected
            assert decision.action is (Action.SEND if expected is Reason.ALLOWED else Action.SUPPRESS)
            assert decision.rule == expected.label
            assert decision.not_before is None


def test_stored_numbers_of_reasons_never_change() -> None:
    assert {reason.label: reason.value for reason in Reason} == {
        "allowed": 1,
        "global_opt_out": 2,
        "channel_opt_out": 3,
        "category_opt_out": 4,
        "no_address": 5,
        "address_suppressed": 6,
        "quiet_hours": 7,
        "frequency_cap": 8,
        "recipient_erased": 9,
        "category_off_by_default": 10,
        "quiet_hours_not_waited_for": 11,
        "quiet_hours_without_zone": 12,
        "quiet_hours_without_end": 13,
    }


def test_every_reason_has_a_sentence_for_people() -> None:
    sentences = [explain(reason) for reason in Reason]
    assert all(sentence.endswith(".") for sentence in sentences)
    assert len(set(sentences)) == len(sentences)


def test_sets_of_channels_survive_as_bit_masks() -> None:
    for chosen in product([False, True], repeat=len(Channel)):
        channels = frozenset(channel for channel, is_in in zip(Channel, chosen, strict=True) if is_in)
        assert channels_of(mask_of(channels)) == channels


# --- the person's word ------------------------------------------------------------------------------------------------

NEWS = CategoryRules(id=7, key="news", kind=Kind.MARKETING)
CRITICAL = CategoryRules(id=8, key="alarm", kind=Kind.CRITICAL, cap=Cap(1, timedelta(days=1)))
WORD = [None, True, False]


@pytest.mark.parametrize("channel", Channel)
def test_more_specific_word_counts(channel: Channel) -> None:
    for out, of_category, of_channel, by_default in product([False, True], WORD, WORD, [True, False]):
        snapshot = make_snapshot(
            is_opted_out=out,
            category_wishes={} if of_category is None else {7: wishes_of({channel: of_category})},
            channel_wishes=0 if of_channel is None else wishes_of({channel: of_channel}),
        )
        rules = replace(NEWS, off_by_default=frozenset() if by_default else ALL)
        word = next(word for word in (of_category, of_channel, by_default) if word is not None)
        decision = decide(snapshot, channel, rules, NOW)
        assert (decision.action is Action.SEND) is (word and not out)


def test_word_on_another_category_or_channel_says_nothing() -> None:
    off = wishes_of({Channel.SMS: False, Channel.PUSH: False})
    snapshot = make_snapshot(category_wishes={9: off, 7: off})
    assert decide(snapshot, Channel.EMAIL, NEWS, NOW).action is Action.SEND
    assert decide(snapshot, Channel.SMS, NEWS, NOW).reason is Reason.CATEGORY_OPT_OUT
    assert decide(snapshot, Channel.SMS, DEFAULT_RULES, NOW).action is Action.SEND


NIGHT = (Window(EVERY_DAY, 22 * 60, 7 * 60),)
MIDNIGHT = datetime(2026, 1, 31, 0, 30, tzinfo=UTC)
MORNING = datetime(2026, 1, 31, 7, tzinfo=UTC)
SLEEPER: dict[str, object] = {"quiet_hours": NIGHT, "time_zone": "UTC"}
FULL = Usage(3, MIDNIGHT + timedelta(hours=1))


def test_critical_passes_quiet_hours_and_caps() -> None:
    snapshot = make_snapshot(**SLEEPER)
    assert decide(snapshot, Channel.SMS, CRITICAL, MIDNIGHT, usage=FULL).action is Action.SEND
    assert not CRITICAL.obeys_cap


@pytest.mark.parametrize(
    "fields",
    [
        {"is_erased": True},
        {"is_opted_out": True},
        {"channel_wishes": wishes_of({Channel.SMS: False})},
        {"category_wishes": {8: wishes_of({Channel.SMS: False})}},
        {"suppressed_channels": ALL},
        {"phone_ct": None},
    ],
)
def test_critical_passes_no_opt_out_and_no_suppression(fields: dict[str, object]) -> None:
    assert decide(make_snapshot(**fields), Channel.SMS, CRITICAL, NOW).action is Action.SUPPRESS


# --- quiet hours ------------------------------------------------------------------------------------------------------


def test_quiet_hours_defer_to_their_end_spread_over_minutes() -> None:
    moments = set()
    for number in range(2000):
        decision = decide(make_snapshot(user_id=f"user-{number}", **SLEEPER), Channel.SMS, NEWS, MIDNIGHT)
        assert (decision.action, decision.reason) == (Action.DEFER, Reason.QUIET_HOURS)
        moments.add(decision.not_before)
    assert min(moments) >= MORNING
    assert max(moments) < MORNING + timedelta(minutes=SMEAR_MINUTES)
    per_minute = Counter((moment - MORNING) // timedelta(minutes=1) for moment in moments)
    assert len(per_minute) == SMEAR_MINUTES
    assert len(moments) > 500


def test_smear_ends_before_it_is_quiet_again_or_the_message_expires() -> None:
    for number in range(300):
        sleeper = make_snapshot(user_id=f"user-{number}", time_zone="UTC", quiet_hours=(*NIGHT, Window(127, 423, 600)))
        decision = decide(sleeper, Channel.SMS, NEWS, MIDNIGHT)
        assert MORNING <= decision.not_before < MORNING + timedelta(minutes=3)
        expires_at = MORNING + timedelta(seconds=5)
        decision = decide(sleeper, Channel.SMS, NEWS, MIDNIGHT, expires_at=expires_at)
        assert MORNING <= decision.not_before < expires_at
        assert decide(sleeper, Channel.SMS, NEWS, MIDNIGHT, expires_at=MORNING).not_before == MORNING


@pytest.mark.parametrize(
    ("zoneless", "action", "reason"),
    [
        ("UTC", Action.DEFER, Reason.QUIET_HOURS),
        ("Pacific/Honolulu", Action.SEND, Reason.ALLOWED),
        ("suppress", Action.SUPPRESS, Reason.QUIET_HOURS_WITHOUT_ZONE),
        ("nonsense", Action.SUPPRESS, Reason.QUIET_HOURS_WITHOUT_ZONE),
        ("send", Action.SEND, Reason.ALLOWED),
    ],
)
@pytest.mark.parametrize("zone", ["", "Mars/Olympus"])
def test_missing_zone_has_a_policy(zone: str, zoneless: str, action: Action, reason: Reason) -> None:
    snapshot = make_snapshot(quiet_hours=NIGHT, time_zone=zone)
    decision = decide(snapshot, Channel.SMS, replace(NEWS, zoneless=zoneless), MIDNIGHT)
    assert (decision.action, decision.reason) == (action, reason)


def test_missing_zone_is_nobody_s_business_without_quiet_hours() -> None:
    rules = replace(NEWS, zoneless="suppress")
    assert decide(make_snapshot(time_zone=""), Channel.SMS, rules, MIDNIGHT).action is Action.SEND


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (QuietHoursRule.DEFER, Reason.QUIET_HOURS),
        (QuietHoursRule.SUPPRESS, Reason.QUIET_HOURS_NOT_WAITED_FOR),
        (QuietHoursRule.SEND, Reason.ALLOWED),
    ],
)
def test_category_says_what_quiet_hours_do(rule: QuietHoursRule, reason: Reason) -> None:
    rules = replace(NEWS, quiet_hours=rule)
    assert decide(make_snapshot(**SLEEPER), Channel.SMS, rules, MIDNIGHT).reason is reason
    assert decide(make_snapshot(**SLEEPER), Channel.SMS, rules, NOW).reason is Reason.ALLOWED


# --- whatever comes ---------------------------------------------------------------------------------------------------

MOMENTS = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=st.just(UTC))
ODD_WINDOWS = st.builds(Window, *[st.integers(-5, 5000)] * 3)
WISHES = st.integers(0, 2**16 - 1)


@given(
    snapshot=st.builds(
        RecipientSnapshot,
        recipient_id=st.integers(),
        user_id=st.text(),
        version=st.integers(),
        channel_wishes=WISHES,
        category_wishes=st.dictionaries(st.sampled_from([0, 7]), WISHES),
        quiet_hours=st.lists(ODD_WINDOWS, max_size=4).map(tuple),
        time_zone=st.sampled_from(["", "UTC", "Europe/Berlin", "Africa/Monrovia", "Pacific/Apia"]) | st.text(),
        phone_ct=st.just(b"x"),
    ),
    category=st.builds(
        CategoryRules,
        id=st.just(7),
        key=st.text(),
        kind=st.sampled_from(Kind),
        quiet_hours=st.sampled_from(QuietHoursRule),
        cap=st.none() | st.builds(Cap, st.integers(), st.timedeltas(), st.sampled_from(CapRule)),
        zoneless=st.sampled_from(["send", "suppress", "UTC"]) | st.text(),
    ),
    now=MOMENTS,
    usage=st.none() | st.builds(Usage, st.integers(), st.none() | MOMENTS),
    expires_at=st.none() | MOMENTS,
)
def test_there_is_always_one_decision(
    snapshot: RecipientSnapshot,
    category: CategoryRules,
    now: datetime,
    usage: Usage | None,
    expires_at: datetime | None,
) -> None:
    first, second = (decide(snapshot, Channel.SMS, category, now, usage=usage, expires_at=expires_at) for _ in range(2))
    assert first == second
    assert (first.not_before is not None) is (first.action is Action.DEFER)
    assert first.not_before is None or first.not_before >= now
    assert explain(first.reason)


# --- caps -------------------------------------------------------------------------------------------------------------


def test_cap_counts_what_others_used() -> None:
    rules = replace(NEWS, cap=Cap(3, timedelta(days=1)))
    for count in range(3):
        assert decide(make_snapshot(), Channel.SMS, rules, NOW, usage=Usage(count)).action is Action.SEND
    frees_at = NOW + timedelta(hours=5)
    decision = decide(make_snapshot(), Channel.SMS, rules, NOW, usage=Usage(3, frees_at))
    assert decision == Decision(Action.DEFER, Reason.FREQUENCY_CAP, frees_at)
    suppressing = replace(NEWS, cap=Cap(3, timedelta(days=1), CapRule.SUPPRESS))
    decision = decide(make_snapshot(), Channel.SMS, suppressing, NOW, usage=Usage(3, frees_at))
    assert decision == Decision(Action.SUPPRESS, Reason.FREQUENCY_CAP)
    assert decide(make_snapshot(), Channel.SMS, rules, NOW).action is Action.SEND
    assert decide(make_snapshot(), Channel.SMS, NEWS, NOW, usage=Usage(99)).action is Action.SEND


def test_capped_message_does_not_wake_its_recipient_later() -> None:
    rules = replace(NEWS, cap=Cap(3, timedelta(days=1)))
    decision = decide(make_snapshot(**SLEEPER), Channel.SMS, rules, NOW, usage=Usage(3, MIDNIGHT + timedelta(days=1)))
    assert decision.reason is Reason.FREQUENCY_CAP
    assert decision.not_before >= MORNING + timedelta(days=1)

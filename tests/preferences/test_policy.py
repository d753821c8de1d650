from datetime import UTC, datetime
from itertools import product

import pytest

from apps.channels import Channel
from apps.preferences.categories import DEFAULT_RULES, CategoryRules
from apps.preferences.policy import Action, Decision, Reason, decide, explain
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

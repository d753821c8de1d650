import base64
from datetime import UTC, datetime, timedelta

import pytest
from django.core import checks
from hypothesis import example, given
from hypothesis import strategies as st
from pytest_django import Settings

from apps.channels import Channel, Lane
from apps.preferences import profile, unsubscribe
from apps.preferences.categories import BUILT_IN, KEY_MAX_LENGTH, CategoryRules, Kind
from apps.preferences.checks import check_unsubscribe_links
from apps.preferences.unsubscribe import ExpiredLink, InvalidLink
from notify_project.redaction import MASK, clean_text

NOW = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def is_user_id(text: str) -> bool:
    try:
        profile.check_user_id(text)
    except profile.InvalidValue:
        return False
    return True


USER_IDS = st.text(min_size=1, max_size=128).filter(is_user_id)
CATEGORIES = st.from_regex(r"[a-z0-9_.-]{0,64}", fullmatch=True)


def make_token(user_id: str = "user-1", category: str = "marketing", now: datetime = NOW) -> str:
    url = unsubscribe.make_url(user_id=user_id, channel=Channel.EMAIL, category=category, now=now)
    return url.rpartition("/")[2]


@given(USER_IDS, st.sampled_from(Channel), CATEGORIES)
def test_a_link_says_what_was_put_into_it(user_id: str, channel: Channel, category: str) -> None:
    url = unsubscribe.make_url(user_id=user_id, channel=channel, category=category, now=NOW)
    link = unsubscribe.read_token(url.rpartition("/")[2], NOW)
    assert (link.user_id, link.channel, link.category) == (user_id, channel, category)
    assert link.made_at == datetime(2026, 3, 1, 12, 0, 1, tzinfo=UTC)
    assert link.expires_at == link.made_at + timedelta(days=90)


def test_a_link_stands_below_the_public_address(settings: Settings) -> None:
    settings.PUBLIC_URL = "https://notify.example.com"
    url = unsubscribe.make_url(user_id="user-1", channel=Channel.EMAIL, category="marketing", now=NOW)
    assert url.startswith("https://notify.example.com/u/1")


@given(USER_IDS, CATEGORIES)
@example("\N{GRINNING FACE}" * 128, "c" * KEY_MAX_LENGTH)
def test_a_token_is_bounded_and_needs_no_escaping(user_id: str, category: str) -> None:
    token = make_token(user_id, category)
    assert 49 <= len(token) <= unsubscribe.MAX_TOKEN_LENGTH
    assert set(token) <= set(ALPHABET)


def test_the_bound_is_reached_by_the_longest_ids() -> None:
    assert len(make_token("\N{GRINNING FACE}" * 128, "c" * KEY_MAX_LENGTH)) == unsubscribe.MAX_TOKEN_LENGTH


@given(st.from_regex(r"[a-z0-9]{6,40}", fullmatch=True))
def test_nobody_reads_the_user_id_off_a_token(user_id: str) -> None:
    token = make_token(user_id, "newsletter")
    blob = base64.urlsafe_b64decode(token[1:])
    for words in (token.encode(), blob):
        assert user_id.encode() not in words
        assert b"newsletter" not in words


@given(USER_IDS, CATEGORIES)
def test_logs_never_show_a_token(user_id: str, category: str) -> None:
    assert clean_text(f"/u/{make_token(user_id, category)}") == f"/u/{MASK}"


def test_a_link_expires_at_its_hour() -> None:
    token = make_token()
    end = unsubscribe.read_token(token, NOW).expires_at
    assert unsubscribe.read_token(token, end - timedelta(microseconds=1)).user_id == "user-1"
    with pytest.raises(ExpiredLink):
        unsubscribe.read_token(token, end)


def test_a_link_keeps_the_days_it_was_given(settings: Settings) -> None:
    settings.UNSUBSCRIBE_LINK_DAYS = 40
    token = make_token()
    settings.UNSUBSCRIBE_LINK_DAYS = 1
    assert unsubscribe.read_token(token, NOW + timedelta(days=39)).user_id == "user-1"


@given(st.text())
@example("")
@example("1")
@example("1" + "A" * 48)
@example("1" + "é" * 48)
@example("1" + "A" * 816)
@example("\ud800")
@example("0" * 1_000_000)
def test_any_other_text_is_an_invalid_link(text: str) -> None:
    with pytest.raises(InvalidLink):
        unsubscribe.read_token(text, NOW)


@given(st.binary(max_size=700))
def test_any_other_bytes_are_an_invalid_link(blob: bytes) -> None:
    with pytest.raises(InvalidLink):
        unsubscribe.read_token("1" + base64.urlsafe_b64encode(blob).decode(), NOW)


def test_no_single_character_of_a_token_can_be_changed() -> None:
    token = make_token()
    for position, char in enumerate(token):
        for other in set(ALPHABET + "=.+/ \n") - {char}:
            with pytest.raises(InvalidLink):
                unsubscribe.read_token(token[:position] + other + token[position + 1 :], NOW)


@pytest.mark.parametrize("change", [lambda t: t[:-1], lambda t: t + "A", lambda t: t + "=", lambda t: t[1:], str.upper])
def test_a_token_cut_or_lengthened_is_invalid(change) -> None:
    with pytest.raises(InvalidLink):
        unsubscribe.read_token(change(make_token()), NOW)


def test_links_outlive_a_rotation_of_the_key_while_the_old_one_is_kept(settings: Settings) -> None:
    settings.SECRET_KEY = "first"
    old = make_token()
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "second", ["first"]
    assert unsubscribe.read_token(old, NOW).user_id == "user-1"
    new = make_token()
    settings.SECRET_KEY_FALLBACKS = []
    assert unsubscribe.read_token(new, NOW).user_id == "user-1"
    with pytest.raises(InvalidLink):
        unsubscribe.read_token(old, NOW)


def test_links_differ_by_whatever_they_say() -> None:
    tokens = {
        make_token(),
        make_token(user_id="user-2"),
        make_token(category=""),
        make_token(now=NOW + timedelta(seconds=1)),
        unsubscribe.make_url(user_id="user-1", channel=Channel.SMS, category="marketing", now=NOW).rpartition("/")[2],
    }
    assert len(tokens) == 5


@pytest.mark.parametrize(
    ("kind", "lane", "expected"),
    [
        (Kind.MARKETING, Lane.BULK, True),
        (Kind.MARKETING, Lane.HIGH, True),
        (Kind.GENERAL, Lane.BULK, True),
        (Kind.GENERAL, Lane.HIGH, False),
        (Kind.TRANSACTIONAL, Lane.BULK, False),
        (Kind.TRANSACTIONAL, Lane.HIGH, False),
        (Kind.CRITICAL, Lane.BULK, False),
        (Kind.CRITICAL, Lane.HIGH, False),
    ],
)
def test_bulk_mail_gets_links_and_nothing_else(kind: Kind, lane: Lane, expected: bool) -> None:
    assert unsubscribe.applies(CategoryRules(id=1, key="x", kind=kind), lane) is expected


def test_every_built_in_kind_is_decided() -> None:
    applying = {key for key, _, kind, _ in BUILT_IN if unsubscribe.applies(CategoryRules(1, key, kind), Lane.BULK)}
    assert applying == {"", "marketing"}


@pytest.mark.parametrize(
    ("days", "ids"),
    [
        (0, ["preferences.E006"]),
        (29, ["preferences.W001"]),
        (30, []),
        (3_650, []),
        (3_651, ["preferences.E006"]),
    ],
)
def test_links_count_for_a_sensible_time(settings: Settings, days: int, ids: list[str]) -> None:
    settings.UNSUBSCRIBE_LINK_DAYS = days
    assert [message.id for message in check_unsubscribe_links()] == ids
    assert check_unsubscribe_links in checks.registry.registry.registered_checks

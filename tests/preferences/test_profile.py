import json
from typing import Any

import pytest

from apps.preferences import profile
from apps.preferences.profile import InvalidValue


@pytest.mark.parametrize("user_id", ["u", "user-1", "a b", "ünï-コード", "%2F", "a?b#c", "x" * 128, "...", "a|b", "💌"])
def test_printable_user_id_is_taken(user_id: str) -> None:
    assert profile.check_user_id(user_id) == user_id


@pytest.mark.parametrize(
    "user_id",
    [
        "",
        " ",
        " a",
        "a ",
        "a/b",
        ".",
        "..",
        "a\nb",
        "a\0",
        "\x7f",
        "\ud800",
        "a\u202eb",
        "\u00a0",
        "a\u2028b",
        "x" * 129,
    ],
)
def test_user_id_that_cannot_be_in_a_url_is_refused(user_id: str) -> None:
    with pytest.raises(InvalidValue):
        profile.check_user_id(user_id)


@pytest.mark.parametrize(
    "user_id",
    [
        "ann@example.com", "Ann.B+x@mail.example.com", "mailto:ann@example.com", "+15005550006", "+49 30 1234567",
        "+1 (500) 555-0006", "+12345678",
    ],
)  # fmt: skip
def test_user_id_that_is_a_contact_point_is_refused_and_not_repeated(user_id: str) -> None:
    with pytest.raises(InvalidValue, match="Use an id of your own") as caught:
        profile.check_user_id(user_id)
    assert user_id not in str(caught.value)


@pytest.mark.parametrize(
    "user_id", ["12345", "15005550006", "+1234567", "user+15005550006", "user@tenant", "@ann", "a.b", "-1", "+"]
)
def test_ordinary_user_id_is_no_contact_point(user_id: str) -> None:
    assert profile.check_user_id(user_id) == user_id


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("", ""),
        ("en", "en"),
        ("EN-us", "en-US"),
        ("zh-hant-tw", "zh-Hant-TW"),
        ("es-419", "es-419"),
        ("de-1996", "de-1996"),
    ],
)
def test_locale_is_a_language_tag(written: str, stored: str) -> None:
    assert profile.check_locale(written) == stored


@pytest.mark.parametrize(
    "written", ["e", "en_US", "english", "en-", "-en", "en-US-", "en US", "en\n", "ен", "a" * 36, "de-1-2"]
)
def test_what_is_no_language_tag_is_refused(written: str) -> None:
    with pytest.raises(InvalidValue):
        profile.check_locale(written)


@pytest.mark.parametrize("name", ["", "UTC", "Europe/Berlin", "America/Argentina/Ushuaia", "Asia/Kathmandu"])
def test_iana_zone_is_taken(name: str) -> None:
    assert profile.check_time_zone(name) == name


@pytest.mark.parametrize(
    "name",
    ["europe/berlin", "CET+1", "Mars/Olympus", "../etc/passwd", "/UTC", "localtime", "Factory", "UTC ", "+02:00"],
)
def test_what_is_no_iana_zone_is_refused(name: str) -> None:
    with pytest.raises(InvalidValue):
        profile.check_time_zone(name)


@pytest.mark.parametrize(
    "value", [{}, {"plan": "gold", "n": 1, "x": 1.5, "ok": True, "none": None, "list": ["a", {"b": []}]}]
)
def test_json_object_is_taken(value: dict[str, Any]) -> None:
    assert profile.check_attributes(value) == value


@pytest.mark.parametrize(
    "value",
    [
        None, [], "x", 1, True, {"a": "\0"}, {"\0": 1}, {"a": "\ud800"}, {"\udfff": 1}, {"a": float("nan")},
        {"a": float("inf")}, {"a": {1, 2}}, {"a": {"b": {"c": {"d": {"e": {}}}}}}, {"a": "x" * 4096}, {"ü" * 2100: 1},
    ],
)  # fmt: skip
def test_what_jsonb_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(InvalidValue):
        profile.check_attributes(value)


@pytest.mark.parametrize("number", [1e20, -1e19, float(2**63), 2**63, -(2**63) - 1, 10**30, float("-inf")])
def test_number_that_readers_of_json_may_not_hold_is_refused(number: float) -> None:
    with pytest.raises(InvalidValue, match="Send a long number as a text"):
        profile.check_attributes({"list": [{"a": number}]})


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63), 1e18, 5e-324, 0, -1.5])
def test_number_of_64_bits_is_taken(number: float) -> None:
    assert profile.check_attributes({"a": number}) == {"a": number}


def test_deep_nesting_is_refused_without_recursing_into_it() -> None:
    deep = json.loads("[" * 900 + "]" * 900)
    with pytest.raises(InvalidValue):
        profile.check_attributes({"a": deep})

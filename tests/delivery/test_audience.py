"""The audience language: what it takes and refuses, and that PostgreSQL and plain Python choose the same people."""

import itertools
import json
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps.channels import Channel
from apps.delivery.broadcasts import audience as language
from apps.delivery.broadcasts.audience import compile_audience, parse_audience
from apps.delivery.models import AudienceUpload, AudienceUploadPart
from apps.preferences.models import Category, CategoryPreference, Device, Platform, Recipient
from apps.problems import Problem
from tests.clients.factories import make_client

_numbers = itertools.count(1)


def choose(audience: dict[str, Any], channel: Channel = Channel.PUSH) -> set[str]:
    """The user ids of an audience, as PostgreSQL finds them."""
    query = compile_audience(audience, channel)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT r.user_id FROM preferences_recipient r WHERE {query.sql}", query.params)
        return {user_id for (user_id,) in cursor.fetchall()}


def refuse(audience: Any) -> tuple[str, str]:
    """Pointer and words of the refusal."""
    with pytest.raises(Problem) as refusal:
        parse_audience(audience)
    assert refusal.value.status_code == 422
    (error,) = refusal.value.errors
    return error.pointer, error.detail


def add_device(recipient: Recipient, platform: str, **changes: Any) -> Device:
    token = next(_numbers).to_bytes(32)
    return Device.objects.create(recipient=recipient, platform=platform, token_ct=b"x", token_bi=token, **changes)


# --- What it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("audience", "pointer"),
    [
        (None, "/audience"),
        ([], "/audience"),
        ({}, "/audience"),
        ({"everybody": False}, "/audience/everybody"),
        ({"everybody": 1}, "/audience/everybody"),
        ({"everybody": True, "user_ids": ["a"]}, "/audience"),
        ({"nobody": True}, "/audience/nobody"),
        ({"a/b~": True}, "/audience/a~1b~0"),
        ({"user_ids": []}, "/audience/user_ids"),
        ({"user_ids": "a"}, "/audience/user_ids"),
        ({"user_ids": ["a", 1]}, "/audience/user_ids/1"),
        ({"user_ids": ["a", ""]}, "/audience/user_ids/1"),
        ({"user_ids": ["a" * 129]}, "/audience/user_ids/0"),
        ({"user_ids": ["a\0"]}, "/audience/user_ids/0"),
        ({"user_ids": ["a"] * 10_001}, "/audience/user_ids"),
        ({"upload_id": "x"}, "/audience/upload_id"),
        ({"upload_id": None}, "/audience/upload_id"),
        ({"filter": {}}, "/audience/filter"),
        ({"filter": "plan = pro"}, "/audience/filter"),
        ({"filter": {"sql": "true"}}, "/audience/filter/sql"),
        ({"filter": {"locale": "de", "platform": "ios"}}, "/audience/filter"),
        ({"filter": {"all": []}}, "/audience/filter/all"),
        ({"filter": {"any": {"locale": "de"}}}, "/audience/filter/any"),
        ({"filter": {"not": [{"locale": "de"}]}}, "/audience/filter/not"),
        ({"filter": {"all": [{"locale": "de"}, {"not": {"locale": 1}}]}}, "/audience/filter/all/1/not/locale"),
        ({"filter": {"locale": "%"}}, "/audience/filter/locale"),
        ({"filter": {"locale": ""}}, "/audience/filter/locale"),
        ({"filter": {"platform": "windows"}}, "/audience/filter/platform"),
        ({"filter": {"platform": ["ios"]}}, "/audience/filter/platform"),
        ({"filter": {"category": ""}}, "/audience/filter/category"),
        ({"filter": {"attribute": "plan"}}, "/audience/filter"),
        ({"filter": {"is": "pro"}}, "/audience/filter/is"),
        ({"filter": {"attribute": "", "is": 1}}, "/audience/filter/attribute"),
        ({"filter": {"attribute": 1, "is": 1}}, "/audience/filter/attribute"),
        ({"filter": {"attribute": [], "is": 1}}, "/audience/filter/attribute"),
        ({"filter": {"attribute": ["a"] * 6, "is": 1}}, "/audience/filter/attribute"),
        ({"filter": {"attribute": ["a", 1], "is": 1}}, "/audience/filter/attribute/1"),
        ({"filter": {"attribute": "a", "like": "p%"}}, "/audience/filter/like"),
        ({"filter": {"attribute": "a", "is": 1, "in": [1]}}, "/audience/filter"),
        ({"filter": {"attribute": "a", "is": {"b": 1}}}, "/audience/filter/is"),
        ({"filter": {"attribute": "a", "is": 2**63}}, "/audience/filter/is"),
        ({"filter": {"attribute": "a", "is": float("nan")}}, "/audience/filter/is"),
        ({"filter": {"attribute": "a", "is": "\ud800"}}, "/audience/filter/is"),
        ({"filter": {"attribute": "a", "in": []}}, "/audience/filter/in"),
        ({"filter": {"attribute": "a", "in": "pro"}}, "/audience/filter/in"),
        ({"filter": {"attribute": "a", "in": ["b", ["c"]]}}, "/audience/filter/in/1"),
        ({"filter": {"attribute": "a", "in": [1] * 101}}, "/audience/filter/in"),
        ({"filter": {"attribute": "a", "exists": "yes"}}, "/audience/filter/exists"),
        ({"filter": {"attribute": "a", "at_least": "18"}}, "/audience/filter/at_least"),
        ({"filter": {"attribute": "a", "at_least": True}}, "/audience/filter/at_least"),
        ({"filter": {"attribute": "a", "below": None}}, "/audience/filter/below"),
        ({"filter": {"attribute": "a", "below": float("inf")}}, "/audience/filter/below"),
        ({"filter": {"attribute": "a", "at_least": 1, "exists": True}}, "/audience/filter"),
    ],
)
def test_refuses_with_a_pointer(audience: Any, pointer: str):
    assert refuse(audience)[0] == pointer


def nested(levels: int) -> dict[str, Any]:
    condition: dict[str, Any] = {"locale": "de"}
    for _ in range(levels - 1):
        condition = {"not": condition}
    return {"filter": condition}


def test_takes_five_levels_and_no_more():
    parse_audience(nested(5))
    assert refuse(nested(6))[0] == "/audience/filter/not/not/not/not/not"


def test_takes_fifty_conditions_and_no_more():
    conditions = [{"any": [{"attribute": "n", "is": number}, {"locale": "de"}]} for number in range(25)]
    parse_audience({"filter": {"all": conditions}})
    pointer, detail = refuse({"filter": {"all": [*conditions, {"platform": "ios"}]}})
    assert pointer == "/audience/filter/all/25"
    assert "50" in detail


def test_knows_the_platforms_of_devices():
    assert sorted(language.PLATFORMS) == sorted(Platform.values)


def test_points_at_a_category_there_is_not():
    audience = {"filter": {"any": [{"category": "a"}, {"not": {"all": [{"category": "b"}, {"locale": "de"}]}}]}}
    parse_audience(audience, is_category={"a", "b"}.__contains__)
    with pytest.raises(Problem) as refusal:
        parse_audience(audience, is_category={"a"}.__contains__)
    (error,) = refusal.value.errors
    assert (error.pointer, error.code) == ("/audience/filter/any/1/not/all/0/category", "unknown_category")


# --- Whom it chooses --------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_chooses_by_locale_and_its_beginning():
    for user_id, locale in {"a": "de", "b": "de-AT", "c": "den", "d": "en-DE", "e": "", "f": "zh-Hant-TW"}.items():
        Recipient.objects.create(user_id=user_id, locale=locale)
    assert choose({"filter": {"locale": "DE"}}) == {"a", "b"}
    assert choose({"filter": {"locale": "de-at"}}) == {"b"}
    assert choose({"filter": {"locale": "zh-hant"}}) == {"f"}
    assert choose({"filter": {"not": {"locale": "de"}}}) == {"c", "d", "e", "f"}


@pytest.mark.django_db
def test_chooses_by_the_platform_of_active_devices():
    for user_id in "abc":
        Recipient.objects.create(user_id=user_id)
    a, b, _ = Recipient.objects.order_by("user_id")
    add_device(a, "android")
    add_device(a, "ios")
    add_device(b, "ios", deactivated_at="2026-01-01T00:00:00Z")
    assert choose({"filter": {"platform": "ios"}}) == {"a"}
    assert choose({"filter": {"not": {"platform": "ios"}}}) == {"b", "c"}


@pytest.mark.django_db
def test_chooses_who_asked_for_a_category_on_the_channel():
    category = Category.objects.create(key="news", name="News")
    for user_id in "abc":
        Recipient.objects.create(user_id=user_id)
    a, b, _ = Recipient.objects.order_by("user_id")
    CategoryPreference.objects.create(recipient=a, category=category, channel=Channel.PUSH, is_enabled=True)
    CategoryPreference.objects.create(recipient=b, category=category, channel=Channel.PUSH, is_enabled=False)
    CategoryPreference.objects.create(recipient=b, category=category, channel=Channel.EMAIL, is_enabled=True)
    assert choose({"filter": {"category": "news"}}, Channel.PUSH) == {"a"}
    assert choose({"filter": {"category": "news"}}, Channel.EMAIL) == {"b"}
    assert choose({"filter": {"category": "news"}}, Channel.SMS) == set()


@pytest.mark.django_db
def test_chooses_by_list_and_by_upload_each_once():
    for user_id in "abc":
        Recipient.objects.create(user_id=user_id)
    ids = list(Recipient.objects.order_by("user_id").values_list("id", flat=True))
    upload = AudienceUpload.objects.create(id=uuid4(), client=make_client(), created_at="2026-01-01T00:00:00Z")
    AudienceUploadPart.objects.create(upload=upload, recipient_ids=[ids[1], ids[2], ids[1]])
    AudienceUploadPart.objects.create(upload=upload, recipient_ids=[ids[2], 987_654_321])
    query = compile_audience({"upload_id": str(upload.id)}, Channel.SMS)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT user_id FROM preferences_recipient r WHERE {query.sql} ORDER BY 1", query.params)
        assert cursor.fetchall() == [("b",), ("c",)]
    assert choose({"user_ids": ["a", "a", "c", "zzz"]}) == {"a", "c"}
    assert choose({"everybody": True}) == {"a", "b", "c"}
    assert choose({"upload_id": str(uuid4())}) == set()


@pytest.mark.django_db
@pytest.mark.parametrize("word", ["'; DROP TABLE preferences_recipient; --", "%s", '"', "$1", "{a,b}", "a\\"])
def test_words_of_callers_stay_words(word: str):
    Recipient.objects.create(user_id="a", attributes={word: word})
    Recipient.objects.create(user_id="b", attributes={"x": 1})
    for test in ({"is": word}, {"in": [word, 1]}, {"in": [word, *range(50)]}, {"exists": True}):
        assert choose({"filter": {"attribute": word, **test}}) == {"a"}
        assert choose({"filter": {"attribute": [word], **test}}) == {"a"}
    assert choose({"user_ids": [word]}) == set()


# --- The same people as a reading in Python ---------------------------------------------------------------------------

NAMES = ("plan", "beta", "age", "0", "address")
values = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([0.5, 1.0, -0.0, 2.25]), st.sampled_from(["", "pro"])
)
trees = st.recursive(
    values,
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(NAMES), inner, max_size=2)),
    max_leaves=4,
)
people = st.lists(
    st.fixed_dictionaries(
        {
            "attributes": st.dictionaries(st.sampled_from(NAMES), trees, max_size=4),
            "locale": st.sampled_from(["", "de", "de-AT", "de-AT-1996", "den", "en"]),
            "platforms": st.sets(st.sampled_from(language.PLATFORMS), max_size=2),
            "asked_for": st.sets(st.sampled_from([1, 2, 3]), max_size=2),
        }
    ),
    max_size=6,
)
paths = st.one_of(st.sampled_from(NAMES), st.lists(st.sampled_from(NAMES), min_size=1, max_size=3))
leaves = st.one_of(
    st.builds(lambda path, value: {"attribute": path, "is": value}, paths, values),
    st.builds(lambda path, some: {"attribute": path, "in": some}, paths, st.lists(values, min_size=1, max_size=4)),
    st.builds(lambda path, some: {"attribute": path, "in": [*some, *range(100, 130)]}, paths, st.lists(values)),
    st.builds(lambda path, flag: {"attribute": path, "exists": flag}, paths, st.booleans()),
    st.builds(lambda path, low: {"attribute": path, "at_least": low}, paths, st.integers(-2, 2)),
    st.builds(lambda path, low: {"attribute": path, "at_least": low, "below": low + 1.5}, paths, st.integers(-2, 2)),
    st.builds(lambda path, high: {"attribute": path, "below": high}, paths, st.floats(-3, 3)),
    st.sampled_from([{"locale": "de"}, {"locale": "de-AT"}, {"platform": "ios"}, {"category": "news"}]),
)
filters = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda parts: {"all": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda parts: {"any": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda part: {"not": part}, inner),
    ),
    max_leaves=6,
).filter(lambda condition: depth_of(condition) <= 5)


def depth_of(condition: dict[str, Any]) -> int:
    if "not" in condition:
        return 1 + depth_of(condition["not"])
    return 1 + max(map(depth_of, condition.get("all") or condition.get("any") or []), default=0)


ABSENT = object()


def look_up(person: dict[str, Any], path: str | list[str]) -> Any:
    value = person["attributes"]
    for name in [path] if isinstance(path, str) else path:
        if not isinstance(value, dict) or name not in value:
            return ABSENT
        value = value[name]
    return value


def is_same(value: Any, other: Any) -> bool:
    """JSON's equality: true is not 1, 1.0 is 1."""
    if isinstance(value, bool) or isinstance(other, bool):
        return value is other
    return type(value) in (str, int, float, type(None)) and value == other


def holds(condition: dict[str, Any], person: dict[str, Any], channel: int) -> bool:
    match condition:
        case {"all": parts}:
            return all(holds(part, person, channel) for part in parts)
        case {"any": parts}:
            return any(holds(part, person, channel) for part in parts)
        case {"not": part}:
            return not holds(part, person, channel)
        case {"locale": locale}:
            return person["locale"] == locale or person["locale"].startswith(f"{locale}-")
        case {"platform": platform}:
            return platform in person["platforms"]
        case {"category": _}:
            return channel in person["asked_for"]
    value = look_up(person, condition["attribute"])
    if "exists" in condition:
        return (value is not ABSENT) is condition["exists"]
    if "is" in condition or "in" in condition:
        return any(is_same(value, wanted) for wanted in condition.get("in", [condition.get("is")]))
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and condition.get("at_least", -99) <= value < condition.get("below", 99)


@pytest.mark.django_db
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(crowd=people, condition=filters, channel=st.sampled_from(Channel))
def test_chooses_the_same_people_as_python(crowd: list[dict[str, Any]], condition: dict[str, Any], channel: Channel):
    with transaction.atomic():
        category, _ = Category.objects.get_or_create(key="news", defaults={"name": "News"})
        for number, person in enumerate(crowd):
            recipient = Recipient.objects.create(
                user_id=str(number), attributes=person["attributes"], locale=person["locale"]
            )
            for platform in person["platforms"]:
                add_device(recipient, platform)
            for asked in person["asked_for"]:
                CategoryPreference.objects.create(
                    recipient=recipient, category=category, channel=asked, is_enabled=True
                )
        expected = {str(number) for number, person in enumerate(crowd) if holds(condition, person, channel)}
        assert choose({"filter": condition}, channel) == expected
        transaction.set_rollback(True)


# --- Plans ------------------------------------------------------------------------------------------------------------

PEOPLE = 30_000


@pytest.fixture(scope="module")
def crowd(django_db_setup: None, django_db_blocker: Any) -> Any:
    """Thirty thousand people, one in 307 on plan ``team``, one in 101 speaking German in Austria."""
    with django_db_blocker.unblock():
        with connection.cursor() as cursor:
            cursor.execute(
                "INSERT INTO preferences_recipient (user_id, locale, attributes) "
                "SELECT 'crowd-' || n, CASE WHEN n %% 101 = 0 THEN 'de-AT' ELSE 'en-GB' END, "
                "jsonb_build_object('plan', CASE WHEN n %% 307 = 0 THEN 'team' ELSE 'free' END, 'n', n, "
                "'address', jsonb_build_object('city', 'city-' || n %% 500)) FROM generate_series(1, %s) n",
                [PEOPLE],
            )
            cursor.execute("VACUUM ANALYZE preferences_recipient")
        yield
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM preferences_recipient WHERE user_id LIKE 'crowd-%'")
            cursor.execute("VACUUM ANALYZE preferences_recipient")


def plan_of(audience: dict[str, Any]) -> str:
    query = compile_audience(audience, Channel.PUSH)
    with connection.cursor() as cursor:
        cursor.execute(
            f"EXPLAIN (FORMAT JSON) SELECT r.id FROM preferences_recipient r WHERE {query.sql}", query.params
        )
        return json.dumps(cursor.fetchone()[0])


@pytest.mark.django_db(transaction=False)
@pytest.mark.parametrize(
    ("audience", "index", "count"),
    [
        ({"filter": {"attribute": "plan", "is": "team"}}, "recipient_attributes", 97),
        ({"filter": {"attribute": ["address", "city"], "is": "city-7"}}, "recipient_attributes", 60),
        ({"filter": {"attribute": "n", "in": [1, 2, 3]}}, "recipient_attributes", 3),
        ({"filter": {"locale": "de"}}, "recipient_locale", 297),
        ({"filter": {"locale": "de-AT"}}, "recipient_locale", 297),
        (
            {"filter": {"any": [{"locale": "de"}, {"attribute": "plan", "in": ["team", "pro"]}]}},
            "recipient_locale",
            394,
        ),
        (
            {"filter": {"all": [{"attribute": "plan", "is": "team"}, {"not": {"attribute": "n", "below": 600}}]}},
            "recipient_attributes",
            96,
        ),
        ({"user_ids": ["crowd-1", "crowd-2", "nobody"]}, "recipient_user_id_unique", 2),
    ],
)
def test_finds_few_among_many_by_an_index(crowd: None, audience: dict[str, Any], index: str, count: int):
    plan = plan_of(audience)
    assert f'"{index}"' in plan
    assert "Seq Scan" not in plan
    assert len(choose(audience)) == count

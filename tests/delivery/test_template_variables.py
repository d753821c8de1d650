"""What is declared, and whether a context is so."""

import math
from datetime import UTC, date, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.delivery.templating.locales import choose_locale
from apps.delivery.templating.variables import (
    Variable,
    bind,
    find_wrong_declarations,
    find_wrong_values,
    sample_context,
)


def declare(**types):
    return {name: Variable(**({"type": given} if isinstance(given, str) else given)) for name, given in types.items()}


def faults(context, **types):
    return [(error.pointer, error.code) for error in find_wrong_values(context, declare(**types))]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("string", ["", "x", "ü" * 10_000], [1, None, True, [], {}, "x" * 10_001]),
        ("number", [0, -1, 1.5, 2**62], ["1", True, None, math.inf, math.nan, 2**63, -1e300]),
        ("integer", [0, -5, 2**63 - 1], [1.5, 1.0, "1", True, None, 2**63]),
        ("boolean", [True, False], [0, 1, "true", None]),
        (
            "date",
            ["2026-11-22", "2024-02-29"],
            ["2026-11-31", "22.11.2026", "2026-11-22T10:00:00Z", "20261122", 5, None],
        ),
        (
            "datetime",
            ["2026-11-22T18:30:00Z", "2026-11-22T18:30:00.5+01:00"],
            ["2026-11-22", "2026-11-22T18:30:00", "0001-01-01T00:00:00+14:00", "now", 5, None],
        ),
        ("url", ["https://example.com/x", "myapp://x"], ["javascript:alert(1)", "example.com", "", 5, None]),
        ("list", [[], [1, "a", {"b": None}], [0] * 1_000], [{}, "x", None, [0] * 1_001]),
        ("object", [{}, {"a": {"b": [1]}}], [[], "x", None]),
    ],
)
def test_types(kind, good, bad):
    for value in good:
        assert faults({"x": value}, x=kind) == [], value
    for value in bad:
        assert [pointer for pointer, _ in faults({"x": value}, x=kind)] == ["/context/x"], value


def test_every_fault_is_named_at_once():
    context = {"name": 5, "colour": "red", "a/b~c": 1, "order": {"lines": [{"price": math.inf}]}}
    assert faults(context, name="string", total="number", order="object") == [
        ("/context/colour", "unknown_variable"),
        ("/context/a~1b~0c", "unknown_variable"),
        ("/context/name", "invalid"),
        ("/context/order/lines/0/price", "invalid"),
        ("/context/total", "required"),
    ]


def test_faults_repeat_no_value():
    errors = find_wrong_values(
        {"when": "SECRET", "link": "SECRET", "name": "SECRET" * 10, "SECRETS": 1},
        declare(when="date", link="url", name={"type": "string", "max_length": 5}),
    )
    assert len(errors) == 4
    assert not any("SECRET" in error.detail for error in errors)


def test_max_length_bounds_texts_and_lists():
    short = {"type": "string", "max_length": 3}
    few = {"type": "list", "max_length": 2}
    assert faults({"x": "abc", "y": [1, 2]}, x=short, y=few) == []
    assert faults({"x": "abcd", "y": [1, 2, 3]}, x=short, y=few) == [
        ("/context/x", "too_long"),
        ("/context/y", "too_long"),
    ]


def test_optional_variables_may_be_left_out_or_null():
    types = {"x": {"type": "string", "required": False}, "y": {"type": "integer", "default": 3}}
    assert faults({}, **types) == []
    assert faults({"x": None, "y": None}, **types) == []
    assert bind({"x": None}, declare(**types)) == {"x": None, "y": 3}
    assert bind({"y": 0}, declare(**types)) == {"x": None, "y": 0}


def test_required_variable_with_a_default_must_be_given():
    assert faults({}, x={"type": "string", "required": True, "default": "a"}) == [("/context/x", "required")]


def test_large_or_deep_context_is_refused():
    assert faults({"x": ["y" * 9_000] * 8}, x="list") == [("/context", "too_large")]
    deep = value = {}
    for _ in range(20):
        value["a"] = value = {}
    assert [code for _, code in faults({"x": deep}, x="object")] == ["too_deep"]


def test_dates_are_bound_as_dates():
    bound = bind({"d": "2026-11-22", "t": "2026-11-22T18:30:00Z"}, declare(d="date", t="datetime"))
    assert bound == {"d": date(2026, 11, 22), "t": datetime(2026, 11, 22, 18, 30, tzinfo=UTC)}


@pytest.mark.parametrize(
    ("declaration", "pointer"),
    [
        ({"loop": {"type": "string"}}, "/variables/loop"),
        ({"if": {"type": "string"}}, "/variables/if"),
        ({"x": {"type": "integer", "max_length": 5}}, "/variables/x/max_length"),
        ({"x": {"type": "integer", "default": "5"}}, "/variables/x/default"),
        ({"x": {"type": "url", "example": "javascript:x"}}, "/variables/x/example"),
        ({"x": {"type": "list", "default": [math.inf]}}, "/variables/x/default/0"),
    ],
)
def test_wrong_declarations_are_named(declaration, pointer):
    variables = msgspec.convert(declaration, dict[str, Variable])
    assert [error.pointer for error in find_wrong_declarations(variables)] == [pointer]


def test_samples_fit_their_declarations():
    kinds = ("string", "number", "integer", "boolean", "date", "datetime", "url")
    variables = declare(**{kind: kind for kind in kinds}, short={"type": "string", "max_length": 2})
    assert find_wrong_values(sample_context(variables), variables) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
KINDS = st.sampled_from(["string", "number", "integer", "boolean", "date", "datetime", "url", "list", "object"])


@given(st.dictionaries(st.sampled_from(["a", "b", "c"]), JSON, max_size=3), KINDS, KINDS)
def test_a_context_is_refused_or_can_be_bound(context, one, other):
    variables = declare(a=one, b={"type": other, "required": False})
    try:
        msgspec.json.encode(context)
    except (OverflowError, UnicodeEncodeError, ValueError):
        return  # JSON cannot hold it, so it never arrives
    if not find_wrong_values(context, variables):
        assert set(bind(context, variables)) == {"a", "b"}


@pytest.mark.parametrize(
    ("locale", "available", "expected"),
    [
        ("de-AT", ["de-AT", "de", "en"], "de-AT"),
        ("de-AT", ["de", "en"], "de"),
        ("de-AT", ["en"], "en"),
        ("zh-Hant-TW", ["zh-Hant", "zh", "en"], "zh-Hant"),
        ("", ["de", "en"], "en"),
        ("fr", ["de", "en"], "en"),
        ("de", ["de-AT", "en"], "en"),
        ("fr", ["de"], None),
    ],
)
def test_locale_falls_back(locale, available, expected):
    assert choose_locale(locale, "en", available) == expected


def test_default_locale_falls_back_too():
    assert choose_locale("fr", "en-GB", ["de", "en"]) == "en"

"""The template language: what it does, what it refuses, and that nobody can escape from it or hang it."""

import time
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.delivery.templating.compiler import Kind, compile_text
from apps.delivery.templating.errors import TemplateError
from apps.delivery.templating.limits import BODY_MAX, ITEMS_MAX

TYPES = {
    "name": "string",
    "count": "integer",
    "price": "number",
    "link": "url",
    "items": "list",
    "order": "object",
    "day": "date",
    "moment": "datetime",
    "is_new": "boolean",
}
VALUES: dict[str, Any] = {
    "name": "Ann",
    "count": 2,
    "price": 1234.5,
    "link": "https://example.com/?a=1&b=2",
    "items": [{"label": "Tea", "price": 3.5}, {"label": "Milk", "price": 1}],
    "order": {"number": "A-1", "address": {"city": "Graz"}, "empty": None, "tags": ["x", "y"]},
    "day": date(2026, 11, 22),
    "moment": datetime(2026, 11, 22, 18, 5, tzinfo=UTC),
    "is_new": True,
}


def render(source: str, kind: Kind = Kind.TEXT, locale: str = "en", **changes: Any) -> str:
    return compile_text(source, kind, TYPES, locale).render({**VALUES, **changes})


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("Hello {{ name }}!", "Hello Ann!"),
        ("{{name}}{{ count }}", "Ann2"),
        ("{{ order.address.city }} {{ order.tags.1 }}", "Graz y"),
        ("{{ order.empty }}|{{ is_new }}", "|true"),
        ("{{ price }} {{ 3.0 }}", "1234.5 3"),
        ("{{ '{{' }} {{ \"}} %}\" }}", "{{ }} %}"),
        ("{% if count > 1 and not order.empty %}many{% else %}few{% endif %}", "many"),
        ("{% if count == 1 %}one{% elif count == 2 %}two{% else %}more{% endif %}", "two"),
        ("{% if name == 'Bob' or order.nothing %}x{% endif %}-", "-"),
        ("{% if order.empty == none %}none{% endif %}", "none"),
        (
            "{% for item in items %}{{ loop.index }}/{{ loop.length }} {{ item.label }};{% endfor %}",
            "1/2 Tea;2/2 Milk;",
        ),
        ("{% for item in items %}{{ item.label }}{% if not loop.last %}, {% endif %}{% endfor %}", "Tea, Milk"),
        (
            "{% for item in order.tags %}{% for other in order.tags %}{{ item }}{{ other }} {% endfor %}{% endfor %}",
            "xx xy yx yy ",
        ),
        ("{% for item in order.tags %}{% for other in items %}{% endfor %}{{ loop.index }}{% endfor %}", "12"),
        ("a {# a comment {{ nothing }} #}b", "a b"),
        ("media {#main{color:red}}", "media {#main{color:red}}"),
        ("{ { name } }", "{ { name } }"),
        ("one\n{% if is_new %}\ntwo\n{% endif %}\nthree", "one\ntwo\nthree"),
        ("a {% if is_new %}b{% endif %}\nc", "a b\nc"),
    ],
)
def test_renders(source, expected):
    assert render(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ name | upper }} {{ name | lower }} {{ ' a ' | trim }}", "ANN ann a"),
        ("{{ 'über' | capitalize }}", "Über"),
        ("{{ order.nothing | default('friend') }}, {{ order.empty | default(0) }}", "friend, 0"),
        ("{{ 'a long sentence' | truncate(8) }} {{ 'short' | truncate(8) }}", "a long… short"),
        ("{{ 'a long sentence' | truncate(8, '...') }}", "a lon..."),
        ("{{ price | number }} {{ price | number(2) }} {{ 0.005 | number(2) }}", "1,234.5 1,234.50 0.00"),
        ("{{ 'a b&c/d' | urlencode }}", "a%20b%26c%2Fd"),
        ("{{ order.tags | join }} {{ order.tags | join('-') | upper }}", "x, y X-Y"),
        ("{{ items | length }} {{ name | length }} {{ order.tags | first }} {{ order.tags | last }}", "2 3 x y"),
        ("{{ day }} | {{ day | date('short') }} | {{ day | date('iso') }}", "Nov. 22, 2026 | 11/22/2026 | 2026-11-22"),
        ("{{ moment | time('H:i') }} {{ moment | date('j. F') }}", "18:05 22. November"),
        ("{{ '2026-01-31' | date('iso') }}", "2026-01-31"),
    ],
)
def test_filters(source, expected):
    assert render(source) == expected


@pytest.mark.parametrize(
    ("locale", "expected"),
    [
        ("de", "22. November 2026, 1.234,50"),
        ("de-AT", "22. November 2026, 1.234,50"),
        ("fr", "22 novembre 2026, 1\xa0234,50"),
        ("en-GB", "22 Nov 2026, 1,234.50"),
        ("tlh", "Nov. 22, 2026, 1,234.50"),
    ],
)
def test_dates_and_numbers_are_written_as_the_text_is(locale, expected):
    assert render("{{ day }}, {{ price | number(2) }}", locale=locale) == expected


@pytest.mark.parametrize(
    ("source", "detail"),
    [
        ("a\nb {{ nothing }}", "line 2: nothing is not declared"),
        ("{{ name", "line 1: {{ is not closed by }}"),
        ("{% if name %}", "{% endif %} is missing"),
        ("{% for item in items %}{% endif %}", "{% endif %} is not expected here"),
        ("{% if name %}{% endfor %}", "{% endfor %} is not expected here"),
        ("{% else %}", "{% else %} is not expected here"),
        ("{% if name %}{% else %}{% else %}{% endif %}", "{% else %} is not expected here"),
        ("{% if %}{% endif %}", "missing"),
        ("{{ }}", "missing"),
        ("{{ name | shout }}", "there is no filter shout; there are default"),
        ("{{ name | truncate }}", "used as truncate(40)"),
        ("{{ name | truncate('x') }}", "used as truncate(40)"),
        ("{{ name | truncate(1000000000) }}", "used as truncate(40)"),
        ("{{ price | number(1000000) }}", "used as number"),
        ("{{ name | upper(name) }}", "a filter's argument is a number or a text in quotes"),
        ("{{ items }}", "items is a list"),
        ("{{ order }}", "order is a object"),
        ("{{ name.first }}", "name is a string and has no fields"),
        ("{% for name in items %}{% endfor %}", "the name is taken"),
        ("{% for x in name %}{% endfor %}", "name is no list"),
        ("{% for x in items %}{{ loop.parent }}{% endfor %}", "a loop has"),
        ("{{ loop.index }}", "loop is not declared"),
        ("{% for x in items %}{% endfor %}{{ x }}", "x is not declared"),
        ("{% include 'x' %}", "there is no {% include %}"),
        ("{{ count + 1 }}", "'+' means nothing here"),
        ("{{ name() }}", "'(' is not expected here"),
        ("{{ name[0] }}", "'[' means nothing here"),
        ("{{ 'a' 'b' }}", "'b' is not expected here"),
        ("{{ name | nl2br | upper }}", "nl2br is the last filter"),
        ("{% if not %}{% endif %}", "missing"),
        ("{% for item in items.0.1.2.3.4.5.6.7.8.9 %}{% endfor %}", "a path has at most"),
    ],
)
def test_wrong_source_is_refused_with_its_line(source, detail):
    with pytest.raises(TemplateError) as caught:
        compile_text(source, Kind.TEXT, TYPES, "en")
    assert detail in str(caught.value)
    assert caught.value.line


@pytest.mark.parametrize(
    ("source", "variable"),
    [
        ("{{ order.missing }}", ("order", "missing")),
        ("{{ order.address.zip | upper }}", ("order", "address", "zip")),
        ("{% for item in items %}{{ item.size }}{% endfor %}", ("items", 0, "size")),
        ("{% for item in order.nothing %}{% endfor %}", ("order", "nothing")),
        ("{% for item in order.address %}{% endfor %}", ("order", "address")),
        ("{% for one in items %}{% for item in one.parts %}{% endfor %}{% endfor %}", ("items", 0, "parts")),
        ("{{ order.address | upper }}", ("order", "address")),
        ("{{ name | number }}", ("name",)),
        ("{{ name | date }}", ("name",)),
    ],
)
def test_value_that_does_not_fit_is_named_by_its_path(source, variable):
    with pytest.raises(TemplateError) as caught:
        render(source)
    assert caught.value.variable == variable
    assert "Ann" not in str(caught.value)


ESCAPES = [
    "{{ name.__class__ }}",
    "{{ name.__class__.__mro__ }}",
    "{{ order.__class__ }}",
    "{{ order._private }}",
    "{{ ''.__class__.__base__.__subclasses__() }}",
    "{{ order.items }}",
    "{{ order.keys }}",
    "{{ order.pop }}",
    "{{ items.append }}",
    "{{ items.0.__init__ }}",
    "{{ items.-1 }}",
    "{{ self }}",
    "{{ request.META }}",
    "{{ settings.SECRET_KEY }}",
    "{{ config }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ lipsum() }}",
    "{{ name|attr('__class__') }}",
    "{{ name|format(1) }}",
    "{{ '%s'|format(name) }}",
    "{{ '{0.__class__}'.format(name) }}",
    "{{ moment.tzinfo }}",
    "{{ moment.__reduce__ }}",
    "{% for x in order.__dict__ %}{% endfor %}",
    "{% import os %}",
    "{% load static %}",
    "{% extends 'admin/base.html' %}",
    "{% include '/etc/passwd' %}",
    "{% debug %}",
    "{% set x = name %}",
    "{% macro m() %}{% endmacro %}",
    "{% raw %}{% endraw %}",
    "{{ name if true else name }}",
    "{{ lambda: name }}",
    "{{ [name] }}",
    "{{ {'a': name} }}",
    "${name}",
    "<% name %>",
    "{{ name | safe }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_nothing_leads_out_of_the_context(source):
    """Each is refused, or is plain text to us: none shows more than the context's own values."""
    try:
        assert render(source) in (source, "")
    except TemplateError:
        pass


def bounded(source: str, kind: Kind = Kind.TEXT, types: dict[str, str] | None = None, **changes: Any) -> float:
    """The CPU seconds it took to refuse or to render."""
    started = time.thread_time()
    try:
        text = compile_text(source, kind, types or TYPES, "de").render({**VALUES, **changes})
        assert len(text.encode()) <= 5 * BODY_MAX
    except TemplateError:
        pass
    return time.thread_time() - started


NESTED = "{% for a in items %}{% for b in items %}{% for c in items %}{{ c }}{% endfor %}{% endfor %}{% endfor %}"
LONG = "x" * 60_000
HANGS: dict[str, tuple[str, dict[str, Any]]] = {
    "range": ("{% for i in range(1000000000) %}x{% endfor %}", {}),
    "multiplication": ("{{ 'a' * 1000000000 }}", {}),
    "power": ("{{ 10 ** 100000000 }}", {}),
    "huge number": ("{{ " + "9" * 900 + " }}", {}),
    "padding": ("{{ '%1000000000d' | format(1) }}", {}),
    "nested loops": (NESTED, {"items": ["x"] * ITEMS_MAX}),
    "empty nested loops": (NESTED.replace("{{ c }}", ""), {"items": [1] * ITEMS_MAX}),
    "long list": ("{% for a in items %}{% endfor %}", {"items": [1] * 100_000}),
    "growing by filters": ("{{ name" + " | urlencode" * 8 + " }}", {"name": "ü" * 60_000}),
    "filters on a long text in a loop": (
        "{% for a in items %}{{ name | upper | lower | upper | first }}{% endfor %}",
        {"items": [1] * ITEMS_MAX, "name": LONG},
    ),
    "comparing long texts in a loop": (
        "{% for a in items %}{% if name == order.x %}{% endif %}{% endfor %}",
        {"items": [1] * ITEMS_MAX, "name": LONG, "order": {"x": LONG + "y"}},
    ),
    "large output in a loop": ("{% for a in items %}{{ name }}{% endfor %}", {"items": [1] * 1000, "name": LONG}),
    "join in a loop": (
        "{% for a in items %}{{ items | join(', ') | length }}{% endfor %}",
        {"items": ["x" * 60] * ITEMS_MAX},
    ),
    "number with many digits": ("{{ price | number(10) }}", {"price": 1e300}),
    "opened braces": ("{" * 100_000, {}),
    "opened tags": ("{{" * 50_000, {}),
    "opened comments": ("{#" * 50_000, {}),
    "opened blocks": ("{% if name %}" * 5_000, {}),
    "many prints": ("{{ name }}" * 10_000, {}),
    "quotes": ("{{ '" + "'" * 90_000, {}),
    "deep not": ("{% if " + "not " * 20_000 + "name %}{% endif %}", {}),
    "long chain": ("{{ name" + " | upper" * 5_000 + " }}", {}),
    "long path": ("{{ order" + ".a" * 5_000 + " }}", {}),
    "parentheses": ("{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}", {}),
    "minus signs": ("{{ " + "-" * 50_000 + "1 }}", {}),
    "blank lines": ("{% if name %}" + " " * 90_000 + "{% endif %}", {}),
    "new lines": ("\n" * 90_000 + "{{ nothing }}", {}),
}


@pytest.mark.parametrize("name", HANGS)
def test_nothing_hangs(name):
    source, changes = HANGS[name]
    assert bounded(source, **changes) < 1.0


@pytest.mark.parametrize(
    "source",
    [
        "<" * 400_000,
        "<a " * 100_000,
        "<a" + " b" * 200_000,
        "<a" + " b=''" * 90_000,
        "<!--" * 90_000,
        "<a b=" * 90_000,
        '<a href="' + "&" * 90_000,
        "</title" * 60_000,
        '<a href="' + "a" * 90_000 + '{{ link }}">',
        "<title>" + "</title" * 60_000,
    ],
    ids=lambda source: source[:12],
)
def test_reading_html_is_linear(source):
    assert bounded(source, Kind.HTML) < 1.0


SIGNS = [
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "'",
    '"',
    " ",
    "\n",
    "|",
    ".",
    ",",
    "(",
    ")",
    "==",
    "<",
    ">=",
    "-",
    "0",
    "9" * 20,
]
WORDS = [*TYPES, "loop", "x", "if", "elif", "else", "endif", "for", "in", "endfor", "and", "or", "not", "none", "true"]
NAMES = ["upper", "number", "date", "default", "join", "truncate", "urlencode", "first", "nl2br", "length"]
MARKUP = ["<a href=", "<p style='", "<script>", "</script>", "<!--", "-->", "<title>", "=", "/", "&", "ü", "\0", "😀"]
TAGS = ["{% for x in items %}", "{% endfor %}", "{% if name %}", "{% endif %}", "{{ x }}", "{{ name | upper }}"]
PARTS = st.sampled_from([*SIGNS, *WORDS, *NAMES, *MARKUP, *TAGS])


@settings(max_examples=400, deadline=None)
@given(
    st.lists(PARTS, max_size=40).map("".join), st.sampled_from(list(Kind)), st.sampled_from(["en", "de", "ar", "xx"])
)
def test_any_source_renders_or_is_refused(source, kind, locale):
    try:
        text = compile_text(source, kind, TYPES, locale).render(VALUES)
    except TemplateError:
        return
    assert isinstance(text, str)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["label", "price", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)
FILTERED = (
    "{{ order.x | %s }}"
    "{%% for a in items %%}{{ a | %s | default('-') }}{%% if a == order.x %%}{%% endif %%}{%% endfor %%}"
)
CALLS = [
    "upper", "lower", "capitalize", "trim", "truncate(3)", "number", "number(2)", "date", "date('Y r U')", "time",
    "urlencode", "join", "length", "first", "last", "default('x')",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(JSON_VALUES, st.lists(JSON_VALUES, max_size=3), st.sampled_from(CALLS), st.sampled_from(CALLS))
def test_any_values_render_or_are_refused(value, items, one, other):
    program = compile_text(FILTERED % (one, other), Kind.TEXT, TYPES, "de")
    try:
        program.render({**VALUES, "order": {"x": value}, "items": items})
    except TemplateError:
        pass


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_title_is_one_line_whatever_the_context(value):
    title = render(
        "Re: {{ name }} {{ order.x }}", Kind.TITLE, name=value, order={"x": "\r\nBcc: eve@example.com" + value}
    )
    assert "\r" not in title
    assert "\n" not in title
    assert len(title.splitlines()) == 1
    assert not any(ord(character) < 32 or ord(character) == 127 for character in title)


def test_output_is_bounded_in_bytes():
    assert len(render("{{ name }}", name="x" * BODY_MAX)) == BODY_MAX
    with pytest.raises(TemplateError, match="too large"):
        render("{{ name }}", name="ü" * (BODY_MAX // 2 + 1))
    with pytest.raises(TemplateError, match="too large"):
        render("{% for a in items %}" + "x" * 1_000 + "{% endfor %}", items=[1] * 101)


def test_a_program_renders_the_same_again():
    """Nothing of one render is left for the next, not even after an error in a loop."""
    program = compile_text("{% for x in items %}{{ x.label }}{% endfor %}{{ name }}", Kind.TEXT, TYPES, "en")
    with pytest.raises(TemplateError):
        program.render({**VALUES, "items": [{"label": "a"}, {}]})
    assert program.render(VALUES) == "TeaMilkAnn"
    assert set(VALUES) == set(TYPES)

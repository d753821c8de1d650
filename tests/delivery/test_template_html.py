"""Values in HTML: escaped, never a script, never out of the attribute they stand in."""

from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.delivery.templating.compiler import Kind, compile_text
from apps.delivery.templating.errors import TemplateError
from apps.delivery.templating.html_places import is_harmless_style, is_safe_address

TYPES = {"name": "string", "link": "url", "other": "url", "items": "list", "order": "object", "ok": "boolean"}
VALUES: dict[str, Any] = {
    "name": "Ann & <b>Bob</b> \"'`",
    "link": "https://example.com/?a=1&b=2",
    "other": "https://example.org/",
    "items": ["a", "b"],
    "order": {"link": "https://example.net/x", "color": "#ff0000"},
    "ok": True,
}
ENCODED = "Ann%20%26%20%3Cb%3EBob%3C%2Fb%3E%20%22%27%60"
ESCAPED = "Ann &amp; &lt;b&gt;Bob&lt;/b&gt; &quot;&#x27;`"


def render(source: str, **changes: Any) -> str:
    return compile_text(source, Kind.HTML, TYPES, "en").render({**VALUES, **changes})


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("<p>{{ name }}</p>", f"<p>{ESCAPED}</p>"),
        ('<p title="{{ name }}">', f'<p title="{ESCAPED}">'),
        ("<p title='{{ name }}'>", f"<p title='{ESCAPED}'>"),
        ("<title>{{ name }}</title>", f"<title>{ESCAPED}</title>"),
        ("<p>{{ '<b>' }}{{ name | upper | truncate(4) }}", "<p>&lt;b&gt;ANN…"),
        ('<a href="{{ link }}">', '<a href="https://example.com/?a=1&amp;b=2">'),
        ('<a href=" {{ order.link }}#x">', '<a href=" https://example.net/x#x">'),
        ('<a href="https://example.com/{{ name | urlencode }}">', f'<a href="https://example.com/{ENCODED}">'),
        ('<a href="mailto:a@b.example?body={{ name | urlencode }}">', f'<a href="mailto:a@b.example?body={ENCODED}">'),
        ('<a href="/x/{{ ok }}">', '<a href="/x/true">'),
        ('<a href="#{{ ok }}">', '<a href="#true">'),
        ('<a href="{% if ok %}{{ link }}{% else %}{{ other }}{% endif %}">', '<a href="https://example.com/?a=1&amp;b=2">'),
        ('<td style="color: {{ order.color }}; width: {{ 50 }}%">', '<td style="color: #ff0000; width: 50%">'),
        ("<!-- nothing --><p>{{ ok }}", "<!-- nothing --><p>true"),
        ('<!--[if mso]><a href="{{ link }}"></a><![endif]-->', '<!--[if mso]><a href="https://example.com/?a=1&amp;b=2"></a><![endif]-->'),
        ("<!--[if !mso]><!--><p>{{ ok }}</p><!--<![endif]-->", "<!--[if !mso]><!--><p>true</p><!--<![endif]-->"),
        ("<style>p{color:red}</style><p>{{ ok }}", "<style>p{color:red}</style><p>true"),
        ("<!doctype html><p>{{ ok }}", "<!doctype html><p>true"),
        ("<br/><img alt='a>b' src=x.png><p>{{ ok }}", "<br/><img alt='a>b' src=x.png><p>true"),
        ("1 < 2 {{ ok }}", "1 < 2 true"),
        ("<p>{{ name | nl2br }}</p>", f"<p>{ESCAPED}</p>"),
        ("<ul>{% for item in items %}<li>{{ item }}</li>{% endfor %}</ul>", "<ul><li>a</li><li>b</li></ul>"),
        ('<p{% if ok %} class="new"{% endif %}>{{ ok }}', '<p class="new">true'),
        ('<p class="a{% if ok %} b{% endif %}">{{ ok }}', '<p class="a b">true'),
    ],
)  # fmt: skip
def test_value_is_escaped_for_its_place(source, expected):
    assert render(source) == expected


def test_line_breaks_of_a_value_become_line_breaks_of_the_mail():
    assert render("<p>{{ name | nl2br }}</p>", name="a\n<b>") == "<p>a<br>\n&lt;b&gt;</p>"


REFUSED_PLACES = [
    "<a href={{ link }}>",
    "<a {{ name }}>",
    "<a {{ name }}='x'>",
    "<a x{{ name }}='x'>",
    "<a x {{ name }}>",
    "<a x= {{ name }}>",
    "<{{ name }}>",
    "</{{ name }}>",
    "<p{{ name }}>",
    "<script>{{ name }}</script>",
    "<script>var x = '{{ name }}';</script>",
    "<script type='application/ld+json'>{\"a\": \"{{ name }}\"}</script>",
    "<script><!--<script></script>{{ name }}</script>",
    "<SCRIPT >{{ name }}",
    "<style>p{color:{{ name }}}</style>",
    "<!-- {{ name }} -->",
    "<!-- --!- {{ name }} -->",
    "<!doctype {{ name }}>",
    "<?xml {{ name }}?>",
    "</ {{ name }}>",
    '<p onclick="{{ name }}">',
    '<p ONMOUSEOVER = "x({{ ok }})">',
    '<iframe srcdoc="{{ name }}">',
    '<iframe src="{{ link }}">',
    '<img srcset="{{ link }} 2x">',
    '<meta http-equiv="refresh" content="0;url={{ link }}">',
    '<base href="{{ link }}">',
    '<link rel="stylesheet" href="{{ link }}">',
    '<object data="{{ link }}">',
    '<embed src="{{ link }}">',
    '<a href="{{ name }}">',
    '<a href="{{ ok }}">',
    '<a href="javascript:{{ name }}">',
    '<a href="JavaScript:f({{ ok }})">',
    '<a href=" java\nscript:{{ ok }}">',
    '<a href="&#106;avascript:{{ ok }}">',
    '<a href="&#x6A;avascript&colon;{{ ok }}">',
    '<a href="javascript&{{ name }}">',
    '<a href="java{{ name }}">',
    '<a href="data:text/html,{{ name }}">',
    '<a href="vbscript:{{ name }}">',
    '<a href="{% if ok %}java{% endif %}script:{{ ok }}">',
    '<a href="java{% if ok %}{% endif %}script:{{ ok }}">',
    '<a href="{% if ok %}javascript:{% else %}https://{% endif %}{{ ok }}">',
    '<a href="{% for item in items %}javascript:{% endfor %}{{ ok }}">',
    '<a href="' + " " * 3_000 + 'javascript:{{ ok }}">',
    '<form action="{{ name }}">',
    '<button formaction="{{ name }}">',
    '<body background="{{ name }}">',
    "<{% if ok %}script{% else %}p{% endif %}>{{ name }}",
    "<p title={% if ok %}'{% endif %}{{ name }}'>",
    "{% if ok %}<script>{% endif %}{{ name }}",
    "{% for item in items %}<p title='{% endfor %}{{ name }}'>",
    "{% for item in items %}{% else %}<p title='{% endfor %}{{ name }}'>",
    "<svg><a xlink:href='{{ link }}'>",
    '<p{% if ok %} class="x"{% endif %}y>{{ name }}',
    '<p{% if ok %} class="x"{% endif %}{{ name }}>',
    "<math><p>{{ name }}",
    "<noscript><p>{{ name }}",
    "<template>{{ name }}",
    "<xmp>{{ name }}",
    "<plaintext>{{ name }}",
    '<a title="{{ name | nl2br }}">',
]  # fmt: skip


@pytest.mark.parametrize("source", REFUSED_PLACES)
def test_place_that_escaping_does_not_make_safe_is_refused_when_the_version_is_made(source):
    with pytest.raises(TemplateError) as caught:
        compile_text(source, Kind.HTML, TYPES, "en")
    assert caught.value.line


BAD_ADDRESSES = [
    "javascript:alert(1)",
    "JAVASCRIPT:alert(1)",
    " javascript:alert(1)",
    "java\tscript:alert(1)",
    "java\nscript:alert(1)",
    "\x01javascript:alert(1)",
    "javascript://example.com/%0aalert(1)",
    "data:text/html,<script>alert(1)</script>",
    "data://text/html;base64,PHNjcmlwdD4=",
    "vbscript:msgbox(1)",
    "blob:https://example.com/1",
    "filesystem:https://example.com/x",
    "about:blank",
    "//example.com/x",
    "/relative",
    "example.com",
    "http:example.com",
    "https://",
    "https:///path",
    "https:\\\\example.com",
    "https://example.com/\\x",
    'https://example.com/"onclick=alert(1)',
    "https://example.com/<script>",
    "https://example.com/a b",
    "https://example.com/\u2028x",
    "https://example.com/\r\nx",
    "&#106;avascript:alert(1)",
    "custom:alert",
    ":",
    "",
    "https://example.com/" + "x" * 3_000,
]


@pytest.mark.parametrize("address", BAD_ADDRESSES)
def test_address_that_is_not_whole_or_runs_a_script_is_refused(address):
    assert not is_safe_address(address)
    for source in (
        '<a href="{{ link }}">',
        '<img src="{{ order.link }}">',
        '<a href="{% if ok %}{{ link }}{% endif %}">',
    ):
        with pytest.raises(TemplateError) as caught:
            render(source, link=address, order={"link": address})
        assert caught.value.variable in (("link",), ("order", "link"))
        assert len(address) < 12 or address not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "https://example.com",
        "HTTP://example.com/?q=1&x=%20#y",
        "https://example.com/o'neil",
        "https://müller.example/ü",
        "mailto:ann@example.com",
        "tel:+15005550006",
        "sms:+15005550006",
        "myapp://orders/1",
        "com.example.app://x",
    ],
)
def test_ordinary_addresses_are_taken(address):
    assert is_safe_address(address)
    assert render('<a href="{{ link }}">', link=address).startswith('<a href="')


@pytest.mark.parametrize(
    "value", ["expression(alert(1))", "url(x)", "red;background:url(x)", "a\\62", "/**/", "x" * 65, "\"'"]
)
def test_style_takes_plain_words_only(value):
    assert not is_harmless_style(value)
    with pytest.raises(TemplateError):
        render('<p style="color: {{ name }}">', name=value)


class _Reader(HTMLParser):
    """Collects what is not plain text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.seen: list[Any] = []
        self.text = ""
        self.attributes: dict[str, str | None] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, sorted(name for name, _ in attrs)))
        self.attributes |= dict(attrs)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        self.seen.append("comment")


NASTY = st.lists(
    st.sampled_from(
        ["<", ">", '"', "'", "&", "=", "/", "!--", "-->", "script", "onclick", " ", "\n", "`", ";", "{{", "%}", "ü"]
    )
    | st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), max_size=5),
    max_size=12,
).map("".join)


@settings(max_examples=300, deadline=None)
@given(NASTY)
def test_no_value_adds_markup(value):
    """A parser that is not ours sees the tags and attributes of the template alone, and the value as text."""
    reader = _Reader()
    reader.feed(render("<p title=\"{{ name }}\" lang='{{ name }}'>{{ name }}</p>|<b>x</b>", name=value))
    reader.close()
    assert reader.seen == [("p", ["lang", "title"]), ("b", [])]
    assert reader.attributes == {"title": value, "lang": value}
    assert reader.text == f"{value}|x"

"""Where in an HTML text a value is printed, and so what it must not contain.

The literal parts of a template are read as a browser's tokenizer does (https://html.spec.whatwg.org/#tokenization), far
enough to tell text from attribute, one attribute from another and the start of an address from the rest of it. Between
tags and in quoted attributes a value is escaped; at the start of an address it must be an address of a harmless scheme;
where escaping does not help (scripts, style sheets, attribute names, handlers) a value is refused when the version is
made.
"""

import html
import re
from enum import Enum
from typing import Final, NamedTuple

from apps.delivery.templating.errors import TemplateError
from apps.delivery.templating.limits import READINGS_MAX


class Mode(Enum):
    """Which part of the syntax the next character belongs to."""

    TEXT = "text"
    TAG_OPEN = "tag open"
    TAG_NAME = "tag name"
    TAG_EDGE = "tag edge"  # behind the name, or behind an attribute that may be left out
    BEFORE_ATTRIBUTE = "before attribute"
    ATTRIBUTE_NAME = "attribute name"
    AFTER_ATTRIBUTE = "after attribute"
    BEFORE_VALUE = "before value"
    QUOTED = "quoted"
    UNQUOTED = "unquoted"
    DECLARATION = "declaration"
    COMMENT = "comment"
    RAW = "raw"


class Address(Enum):
    """How much of an address's scheme the literal part before has settled."""

    START = "start"
    OPEN = "open"  # some characters of what may become a scheme
    SETTLED = "settled"
    REFUSED = "refused"  # a scheme that runs scripts, or nobody can tell


class Printing(Enum):
    """How a value is printed."""

    TEXT = "text"
    ATTRIBUTE = "attribute"
    ADDRESS = "address"
    STYLE = "style"


class Place(NamedTuple):
    """A position in the HTML. ``tag`` is the element's name so far, with a slash before an end tag's; ``seen`` the
    literal beginning of an address."""

    mode: Mode = Mode.TEXT
    tag: str = ""
    attribute: str = ""
    quote: str = ""
    address: Address = Address.SETTLED
    seen: str = ""


_ADDRESSES: Final = frozenset(
    {
        "href",
        "src",
        "action",
        "formaction",
        "background",
        "poster",
        "cite",
        "longdesc",
        "usemap",
        "manifest",
        "data",
        "icon",
        "lowsrc",
        "dynsrc",
        "codebase",
        "profile",
        "classid",
        "archive",
        "xlink:href",
    }
)
_REFUSED_ATTRIBUTES: Final = frozenset({"srcdoc", "srcset", "imagesrcset", "ping", "http-equiv", "attributename"})
_REFUSED_TAGS: Final = frozenset(
    {"script", "style", "iframe", "object", "embed", "applet", "base", "meta", "link", "param", "frame", "portal"}
)
# Browsers read what is in them by other rules, or by rules that depend on the browser; mail clients drop them.
_FORBIDDEN_TAGS: Final = frozenset(
    {"svg", "math", "noscript", "template", "noembed", "noframes", "xmp", "plaintext", "frameset"}
)
_RAW_TAGS: Final = frozenset({"script", "style", "iframe", "textarea", "title"})
_ESCAPABLE_TAGS: Final = frozenset({"textarea", "title"})  # raw text in which character references count
_SCRIPTED: Final = frozenset({"javascript", "vbscript", "livescript", "mocha", "data", "blob", "filesystem", "about"})
_SCHEME: Final = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]{0,30}):", re.IGNORECASE)
_KNOWN: Final = frozenset({"http", "https", "mailto", "tel", "sms"})
_UNFIT: Final = re.compile(r'[\x00-\x20\x7f-\xa0"<>`\\\u2028\u2029]')
_STYLE: Final = re.compile(r"[#A-Za-z0-9 .,%+-]{1,64}\Z")
_ADDRESS_MAX: Final = 2_048
_ATTRIBUTE: Final = re.compile(r"[^\s=>/]+")
_TAG_NAME: Final = re.compile(r"[^\s/>]+")
_SPACE: Final = " \t\r\n\f"


def is_safe_address(value: str) -> bool:
    """Whether this is a whole address that cannot run a script: http, https, mailto, tel, sms, or an app's own scheme
    followed by ``//``."""
    match = _SCHEME.match(value)
    if match is None or len(value) > _ADDRESS_MAX or _UNFIT.search(value):
        return False
    scheme, rest = match["scheme"].lower(), value[match.end() :]
    if scheme in ("http", "https"):
        return re.match(r"//[^/?#]", rest) is not None
    return bool(rest) if scheme in _KNOWN else scheme not in _SCRIPTED and rest.startswith("//") and len(rest) > 2


def is_harmless_style(value: str) -> bool:
    """Whether this can stand within a style attribute: a colour, a length, a word."""
    return _STYLE.match(value) is not None


def printing_at(place: Place, line: int) -> tuple[Printing, Place]:
    """How a value is printed here, and the place after it. Raises ``TemplateError`` where none can be."""
    tag = place.tag.lstrip("/")
    if place.mode is Mode.TEXT:
        return Printing.TEXT, place
    if place.mode is Mode.RAW and tag in _ESCAPABLE_TAGS:
        return Printing.ATTRIBUTE, place
    if place.mode is Mode.QUOTED:
        return _printing_in_attribute(place, tag, line)
    raise TemplateError(f"a value cannot be printed {_WHERE[place.mode]}", line=line)


def _printing_in_attribute(place: Place, tag: str, line: int) -> tuple[Printing, Place]:
    name = place.attribute
    if tag in _REFUSED_TAGS or name in _REFUSED_ATTRIBUTES or name.startswith("on"):
        raise TemplateError(f"a value cannot be printed into {name} of <{tag}>", line=line)
    if name == "style":
        return Printing.STYLE, place
    if place.address is Address.SETTLED:
        return Printing.ATTRIBUTE, place
    if place.address is Address.START:
        return Printing.ADDRESS, place._replace(address=Address.SETTLED)
    raise TemplateError(
        f"a value cannot be printed here into {name}: begin the address with one variable that holds all of it, or "
        "with https://",
        line=line,
    )


_WHERE: Final = {
    Mode.TAG_OPEN: "right after <",
    Mode.TAG_NAME: "into the name of a tag",
    Mode.TAG_EDGE: 'as an attribute; write name="{{ … }}"',
    Mode.BEFORE_ATTRIBUTE: 'as an attribute; write name="{{ … }}"',
    Mode.ATTRIBUTE_NAME: "into the name of an attribute",
    Mode.AFTER_ATTRIBUTE: 'as an attribute; write name="{{ … }}"',
    Mode.BEFORE_VALUE: 'as an attribute without quotes; write name="{{ … }}"',
    Mode.UNQUOTED: 'as an attribute without quotes; write name="{{ … }}"',
    Mode.DECLARATION: "into a declaration",
    Mode.COMMENT: "into a comment",
    Mode.RAW: "into a script, a style sheet or other raw text",
}


def merge_places(one: Place, other: Place, line: int) -> Place:
    """The place after an ``if`` whose branches end in these. Raises ``TemplateError`` if they differ in more than how
    far an address has come."""
    if one == other:
        return one
    if {one.mode, other.mode} <= _EDGES and one._replace(mode=other.mode) == other:
        return one._replace(mode=Mode.TAG_EDGE)
    settled = Address.SETTLED
    if one._replace(address=settled, seen="") != other._replace(address=settled, seen=""):
        raise TemplateError(
            "the branches end in different places of the HTML: open and close tags and attributes within one branch",
            line=line,
        )
    if {one.address, other.address} == {Address.START, settled}:
        return one._replace(address=Address.START, seen="")
    return one._replace(address=Address.REFUSED, seen="")


_EDGES: Final = frozenset({Mode.TAG_NAME, Mode.TAG_EDGE, Mode.BEFORE_ATTRIBUTE})


class _Step(NamedTuple):
    place: Place
    position: int


class HtmlReader:
    """Follows the literal parts of one text. ``place`` may be set back, to read another branch from there."""

    def __init__(self) -> None:
        self.place = Place()
        self._left = READINGS_MAX

    def read(self, text: str) -> None:
        """Goes on behind ``text``; raises ``TemplateError`` for an element that cannot be judged, and for too many."""
        position = 0
        while position < len(text):
            self.place, position = _READERS[self.place.mode](self.place, text, position)
            self._left -= 1
            if self._left < 0:
                raise TemplateError("the HTML has too many elements and attributes")


def _read_text(place: Place, text: str, position: int) -> _Step:
    start = text.find("<", position)
    if start < 0:
        return _Step(place, len(text))
    return _Step(Place(Mode.TAG_OPEN), start + 1)


def _read_tag_open(place: Place, text: str, position: int) -> _Step:
    character = text[position]
    if character in "!?" and not place.tag:
        if text.startswith("!--", position):
            return _read_comment_open(text, position + 3)
        return _Step(Place(Mode.DECLARATION), position + 1)
    if character == "/" and not place.tag:
        return _Step(place._replace(tag="/"), position + 1)
    if character.isascii() and character.isalpha():
        return _Step(place._replace(mode=Mode.TAG_NAME), position)
    if place.tag == "/":  # "</" and no letter: a bogus comment up to ">"
        return _Step(Place(Mode.DECLARATION), position)
    return _Step(Place(), position)


def _read_comment_open(text: str, position: int) -> _Step:
    """After ``<!--``. Outlook's conditional comments hold HTML, which is read as such."""
    for end in (">", "->"):
        if text.startswith(end, position):
            return _Step(Place(), position + len(end))
    if text.startswith("[if", position):
        end_of_condition = text.find("]>", position)
        if end_of_condition >= 0:
            return _Step(Place(), end_of_condition + 2)
    return _Step(Place(Mode.COMMENT), position)


def _read_comment(place: Place, text: str, position: int) -> _Step:
    ends = [end + length for mark, length in (("-->", 3), ("--!>", 4)) if (end := text.find(mark, position)) >= 0]
    return _Step(Place(), min(ends)) if ends else _Step(place, len(text))


def _read_declaration(place: Place, text: str, position: int) -> _Step:
    end = text.find(">", position)
    return _Step(place, len(text)) if end < 0 else _Step(Place(), end + 1)


def _read_tag_name(place: Place, text: str, position: int) -> _Step:
    match = _TAG_NAME.match(text, position)
    if match is not None:
        return _Step(place._replace(tag=place.tag + match[0].lower()), match.end())
    if place.tag in _FORBIDDEN_TAGS:
        raise TemplateError(f"<{place.tag}> is not for e-mail; leave it out")
    return _Step(place._replace(mode=Mode.BEFORE_ATTRIBUTE), position)


def _read_tag_edge(place: Place, text: str, position: int) -> _Step:
    if text[position] not in _SPACE + "/>":
        raise TemplateError("put a space between attributes")
    return _Step(place._replace(mode=Mode.BEFORE_ATTRIBUTE), position)


def _read_before_attribute(place: Place, text: str, position: int) -> _Step:
    character = text[position]
    if character == ">":
        return _Step(_after_tag(place), position + 1)
    if character in _SPACE or character == "/":
        return _Step(place, position + 1)
    return _Step(place._replace(mode=Mode.ATTRIBUTE_NAME, attribute=character.lower()), position + 1)


def _read_attribute_name(place: Place, text: str, position: int) -> _Step:
    match = _ATTRIBUTE.match(text, position)
    if match is not None:
        return _Step(place._replace(attribute=place.attribute + match[0].lower()), match.end())
    return _Step(place._replace(mode=Mode.AFTER_ATTRIBUTE), position)


def _read_after_attribute(place: Place, text: str, position: int) -> _Step:
    character = text[position]
    if character in _SPACE:
        return _Step(place, position + 1)
    if character == "=":
        return _Step(place._replace(mode=Mode.BEFORE_VALUE), position + 1)
    return _Step(place._replace(mode=Mode.BEFORE_ATTRIBUTE, attribute=""), position)


def _read_before_value(place: Place, text: str, position: int) -> _Step:
    character = text[position]
    if character in _SPACE:
        return _Step(place, position + 1)
    if character in "'\"":
        address = Address.START if place.attribute in _ADDRESSES else Address.SETTLED
        return _Step(place._replace(mode=Mode.QUOTED, quote=character, address=address, seen=""), position + 1)
    if character == ">":
        return _Step(_after_tag(place), position + 1)
    return _Step(place._replace(mode=Mode.UNQUOTED), position)


def _read_quoted(place: Place, text: str, position: int) -> _Step:
    end = text.find(place.quote, position)
    if end >= 0:
        return _Step(Place(Mode.BEFORE_ATTRIBUTE, place.tag), end + 1)
    return _Step(_settle_address(place, text[position:]), len(text))


def _read_unquoted(place: Place, text: str, position: int) -> _Step:
    for index in range(position, len(text)):
        if text[index] in _SPACE:
            return _Step(Place(Mode.BEFORE_ATTRIBUTE, place.tag), index + 1)
        if text[index] == ">":
            return _Step(_after_tag(place), index + 1)
    return _Step(place, len(text))


def _read_raw(place: Place, text: str, position: int) -> _Step:
    """Raw text ends with its own end tag alone. One cut in two by a tag of ours is overlooked: then more is refused."""
    end = re.compile(rf"</{re.escape(place.tag)}(?=[\s/>])", re.IGNORECASE).search(text, position)
    if end is None or (place.tag == "script" and "<!--" in text):  # which may begin a script within the script
        return _Step(place, len(text))
    return _Step(Place(Mode.BEFORE_ATTRIBUTE, "/" + place.tag), end.end())


def _after_tag(place: Place) -> Place:
    return Place(Mode.RAW, place.tag) if place.tag in _RAW_TAGS else Place()


def _settle_address(place: Place, text: str) -> Place:
    if place.address in (Address.SETTLED, Address.REFUSED):
        return place
    seen = place.seen + text[:_ADDRESS_MAX]
    start = re.sub(r"[\x00-\x20]", "", html.unescape(seen))
    match = re.search(r"[:/?#]", start)
    if match is None:
        if len(seen) >= _ADDRESS_MAX:
            return place._replace(address=Address.REFUSED, seen="")
        return place._replace(address=Address.OPEN if start else Address.START, seen=seen)
    is_scripted = match[0] == ":" and start[: match.start()].lower() in _SCRIPTED
    return place._replace(address=Address.REFUSED if is_scripted else Address.SETTLED, seen="")


_READERS: Final = {
    Mode.TEXT: _read_text,
    Mode.TAG_OPEN: _read_tag_open,
    Mode.TAG_NAME: _read_tag_name,
    Mode.TAG_EDGE: _read_tag_edge,
    Mode.BEFORE_ATTRIBUTE: _read_before_attribute,
    Mode.ATTRIBUTE_NAME: _read_attribute_name,
    Mode.AFTER_ATTRIBUTE: _read_after_attribute,
    Mode.BEFORE_VALUE: _read_before_value,
    Mode.QUOTED: _read_quoted,
    Mode.UNQUOTED: _read_unquoted,
    Mode.DECLARATION: _read_declaration,
    Mode.COMMENT: _read_comment,
    Mode.RAW: _read_raw,
}

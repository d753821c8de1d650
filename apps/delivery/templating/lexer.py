"""A template's source as text and tags, and a tag's inside as words. Every step is linear in the source."""

import re
from collections.abc import Iterator
from typing import Final, Literal, NamedTuple

from apps.delivery.templating.errors import TemplateError
from apps.delivery.templating.limits import TAG_MAX, TAGS_MAX, TERMS_MAX

PieceKind = Literal["text", "print", "block"]
WordKind = Literal["name", "string", "number", "sign"]

_OPEN: Final = re.compile(r"\{[{%#]")
# A tag ends at the first closing braces that are not within quotes.
_INSIDE: Final = re.compile(r"(?:[^'\"%}]|'[^'\n]*'|\"[^\"\n]*\"|%(?!\})|\}(?!\}))*+")
_REST_OF_LINE: Final = re.compile(r"[ \t]*(?:\r?\n|\Z)")
_WORD: Final = re.compile(
    r"(?P<space>\s+)"
    r"|(?P<string>'[^'\n]*'|\"[^\"\n]*\")"
    r"|(?P<number>-?[0-9]{1,18}(?:\.[0-9]{1,18})?)(?![A-Za-z0-9_])"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<sign>==|!=|<=|>=|[<>|().,])"
)


class Piece(NamedTuple):
    """A run of text, ``{{ … }}`` or ``{% … %}``; ``source`` is the text, or what stands inside."""

    kind: PieceKind
    source: str
    line: int


class Word(NamedTuple):
    """A name, number or sign as written, or a string without its quotes."""

    kind: WordKind
    source: str


def split_pieces(source: str) -> Iterator[Piece]:
    """The pieces of a template. A block or comment that stands alone on its line takes the line with it. Raises
    ``TemplateError``."""
    done = position = tags = 0
    line = 1
    no_comment_before = 0
    while match := _OPEN.search(source, position):
        start = match.start()
        if match[0] == "{#":
            line_end = source.find("\n", start)
            line_end = len(source) if line_end < 0 else line_end
            closing = -1 if start < no_comment_before else source.find("#}", start + 2, line_end)
            if closing < 0:  # a comment stays on its line; in a style sheet "{#" is nothing of ours
                no_comment_before, position = line_end, start + 1
                continue
            end, piece = closing + 2, None
        else:
            end, piece = _read_tag(source, start, line + source.count("\n", done, start))
            tags += 1
            if tags > TAGS_MAX:
                raise TemplateError(f"a text has at most {TAGS_MAX} tags", line=piece.line)
        text = source[done:start]
        if piece is None or piece.kind == "block":
            text, end = _take_line(source, done, start, end, text)
        if text:
            yield Piece("text", text, line)
        if piece is not None:
            yield piece
        line += source.count("\n", done, end)
        done = position = end
    if done < len(source):
        yield Piece("text", source[done:], line)


def _read_tag(source: str, start: int, line: int) -> tuple[int, Piece]:
    kind: PieceKind = "print" if source[start + 1] == "{" else "block"
    closing = "}}" if kind == "print" else "%}"
    match = _INSIDE.match(source, start + 2)
    end = start + 2 if match is None else match.end()
    if not source.startswith(closing, end):
        raise TemplateError(f"{source[start : start + 2]} is not closed by {closing}", line=line)
    if end - start > TAG_MAX:
        raise TemplateError(f"a tag has at most {TAG_MAX} characters", line=line)
    return end + 2, Piece(kind, source[start + 2 : end].strip(), line)


def _take_line(source: str, done: int, start: int, end: int, text: str) -> tuple[str, int]:
    """The text before a tag and the tag's end, without the line if nothing else stands on it."""
    line_start = source.rfind("\n", done, start) + 1
    if line_start == 0:
        if done > 0 and source[done - 1] != "\n":
            return text, end
        line_start = done
    rest = _REST_OF_LINE.match(source, end)
    if rest is None or source[line_start:start].strip(" \t"):
        return text, end
    return source[done:line_start], rest.end()


def split_words(source: str, line: int) -> list[Word]:
    """The words of a tag's inside. Raises ``TemplateError``."""
    words: list[Word] = []
    position = 0
    while position < len(source):
        match = _WORD.match(source, position)
        if match is None:
            raise TemplateError(f"{source[position]!r} means nothing here", line=line)
        position = match.end()
        kind = match.lastgroup
        if kind == "string":
            words.append(Word("string", match[0][1:-1]))
        elif kind != "space":
            words.append(Word(kind, match[0]))  # type: ignore[arg-type]
        if len(words) > TERMS_MAX:
            raise TemplateError(f"a tag has at most {TERMS_MAX} words and signs", line=line)
    return words

"""A template's source compiled to a program, once; the program renders any context, within bounds.

There is no Python code made from a template: a program is a tree of closures over literal texts and look-ups.
"""

import html
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Final

from apps.delivery.templating.errors import TemplateError
from apps.delivery.templating.expressions import LOOP, Evaluate, ExpressionParser
from apps.delivery.templating.filters import format_moment, plain_text
from apps.delivery.templating.html_places import (
    HtmlReader,
    Place,
    Printing,
    is_harmless_style,
    is_safe_address,
    merge_places,
    printing_at,
)
from apps.delivery.templating.lexer import Piece, split_pieces
from apps.delivery.templating.limits import (
    BODY_MAX,
    DEPTH_MAX,
    HTML_MAX,
    ITEMS_MAX,
    LOOP_DEPTH_MAX,
    TITLE_MAX,
)
from apps.delivery.templating.state import Missing, Path, State

Node = Callable[[State], None]
Show = Callable[[Any, State], str]


class Kind(Enum):
    """What a text is: a title is one line, HTML is escaped."""

    TITLE = "title"
    TEXT = "text"
    HTML = "html"


_ROOM: Final[Mapping[Kind, int]] = {Kind.TITLE: 4 * TITLE_MAX, Kind.TEXT: BODY_MAX, Kind.HTML: HTML_MAX}
# What no reader shows and some give a meaning to.
_CONTROLS: Final = {code: None for code in (*range(0x20), 0x7F) if code not in (0x09, 0x0A, 0x0D)}
# Faults that a value of an unforeseen kind may provoke in a filter or a comparison.
_VALUE_FAULTS: Final = (ArithmeticError, LookupError, TypeError, ValueError)


class Program:
    """A compiled text."""

    def __init__(self, nodes: Sequence[Node], kind: Kind, constant: str | None) -> None:
        self._run = _block(nodes)
        self._kind = kind
        self._constant = None if constant is None else self._finish(constant)

    def render(self, scope: Mapping[str, Any], samples: Collection[str] = ()) -> str:
        """The text for these values; what is missing below one of ``samples`` stands as its own name. Raises
        ``TemplateError``, and nothing else."""
        if self._constant is not None:
            return self._constant
        state = State(scope, _ROOM[self._kind], samples)
        try:
            self._run(state)
        except _VALUE_FAULTS as error:
            raise TemplateError(f"a value is not of the kind that is expected ({type(error).__name__})") from None
        return self._finish("".join(state.output))

    def _finish(self, text: str) -> str:
        if self._kind is not Kind.TITLE:
            return text
        line = " ".join(text.translate(_CONTROLS).split())
        if len(line) > TITLE_MAX:
            raise TemplateError(f"a title has at most {TITLE_MAX} characters")
        return line


def compile_text(source: str, kind: Kind, types: Mapping[str, str], locale: str) -> Program:
    """The program of ``source``; ``types`` are the declared variables. Raises ``TemplateError`` with the line."""
    compiler = _Compiler(source, kind, types, locale)
    nodes, constant = compiler.compile()
    return Program(nodes, kind, constant)


class _Compiler:
    """One pass over the pieces of a source, by recursive descent over its blocks."""

    def __init__(self, source: str, kind: Kind, types: Mapping[str, str], locale: str) -> None:
        self._pieces: Iterator[Piece] = split_pieces(source)
        self._kind = kind
        self._names = dict(types)
        self._locale = locale
        self._html = HtmlReader()
        self._depth = 0
        self._loops = 0
        self._literals: list[str] | None = []  # all there is, as long as there are no tags

    def compile(self) -> tuple[list[Node], str | None]:
        nodes, end, line = self._read_block(())
        if end:
            raise TemplateError(f"{{% {end} %}} ends nothing", line=line)
        return nodes, None if self._literals is None else "".join(self._literals)

    def _read_block(self, ends: Sequence[str]) -> tuple[list[Node], str, int]:
        """The nodes up to a block tag out of ``ends`` (or up to the end of the source), that tag, and its line."""
        nodes: list[Node] = []
        line = 1
        for piece in self._pieces:
            line = piece.line
            if piece.kind == "text":
                nodes.append(self._text(piece))
                continue
            self._literals = None
            parser = ExpressionParser(piece.source, line, self._names, self._locale)
            if piece.kind == "print":
                nodes.append(self._print(parser, line))
                continue
            keyword = parser.take_keyword()
            if keyword in _ENDS:
                if keyword not in ends:
                    raise TemplateError(f"{{% {keyword} %}} is not expected here", line=line)
                self._pending = parser
                return nodes, keyword, line
            nodes.append(self._read_statement(keyword, parser, line))
        if ends:
            raise TemplateError(f"{{% {ends[-1]} %}} is missing", line=line)
        return nodes, "", line

    def _read_statement(self, keyword: str, parser: ExpressionParser, line: int) -> Node:
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise TemplateError(f"blocks are nested more than {DEPTH_MAX} deep", line=line)
        if keyword == "if":
            node = self._read_if(parser, line)
        elif keyword == "for":
            node = self._read_for(parser, line)
        else:
            raise TemplateError(f"there is no {{% {keyword} %}}; there are if and for", line=line)
        self._depth -= 1
        return node

    def _read_if(self, parser: ExpressionParser, line: int) -> Node:
        before = self._html.place
        branches: list[tuple[Evaluate, Node]] = []
        otherwise: Node | None = None
        condition = parser.read_condition()
        after: Place | None = None
        while True:
            self._html.place = before
            nodes, end, end_line = self._read_block(("elif", "else", "endif"))
            branches.append((condition, _block(nodes)))
            after = self._html.place if after is None else merge_places(after, self._html.place, end_line)
            if end != "elif":
                break
            condition = self._pending.read_condition()
        self._pending.expect_end()
        if end == "else":
            self._html.place = before
            nodes, _, end_line = self._read_block(("endif",))
            self._pending.expect_end()
            otherwise = _block(nodes)
        else:
            self._html.place = before
        self._html.place = merge_places(after, self._html.place, end_line)
        return _branching(branches, otherwise)

    def _read_for(self, parser: ExpressionParser, line: int) -> Node:
        name, items, path = parser.read_loop()
        if self._loops == LOOP_DEPTH_MAX:
            raise TemplateError(f"loops are nested more than {LOOP_DEPTH_MAX} deep", line=line)
        before, outer = self._html.place, self._names
        self._names = {**outer, name: "any", LOOP: "loop"}
        self._loops += 1
        nodes, end, end_line = self._read_block(("else", "endfor"))
        self._loops -= 1
        self._names = outer
        self._pending.expect_end()
        # The body may run any number of times, so it must end where it began.
        self._html.place = merge_places(before, self._html.place, end_line)
        if self._html.place != before:
            raise TemplateError("a loop must not stand within an address", line=end_line)
        otherwise: Node | None = None
        if end == "else":
            others, _, end_line = self._read_block(("endfor",))
            self._pending.expect_end()
            otherwise = _block(others)
            self._html.place = merge_places(before, self._html.place, end_line)
        return _looping(name, items, path, _block(nodes), otherwise)

    def _text(self, piece: Piece) -> Node:
        if self._literals is not None:
            self._literals.append(piece.source)
        if self._kind is Kind.HTML:
            try:
                self._html.read(piece.source)
            except TemplateError as error:
                raise TemplateError(error.detail, line=piece.line) from None
        return _literal(piece.source)

    def _print(self, parser: ExpressionParser, line: int) -> Node:
        evaluate, path, filters = parser.read_print()
        has_breaks = "nl2br" in filters
        if has_breaks and filters[-1] != "nl2br":
            raise TemplateError("nl2br is the last filter", line=line)
        declared = self._names[str(path[0])] if path is not None and len(path) == 1 else "any"
        show = self._plain(declared, bool(filters))
        if self._kind is not Kind.HTML:
            return _printing(evaluate, show, path, line)
        printing, self._html.place = printing_at(self._html.place, line)
        if printing is Printing.ADDRESS and declared not in ("url", "any"):
            raise TemplateError(f"a {declared} is no address; declare the variable as url", line=line)
        if has_breaks and printing is not Printing.TEXT:
            raise TemplateError("nl2br is for HTML between tags", line=line)
        if printing in _CHECKS:
            return _printing(evaluate, _checked(printing), path, line, sample=_SAMPLES[printing])
        return _printing(evaluate, _escaped(show, has_breaks=has_breaks), path, line)

    def _plain(self, declared: str, has_filters: bool) -> Show:
        """How a value becomes text: dates without a filter as people write them here."""
        if declared in ("date", "datetime") and not has_filters:
            style, locale = ("long" if declared == "date" else "datetime"), self._locale
            return lambda value, state: "" if value is None else format_moment(value, locale, style)
        return _show


_ENDS: Final = frozenset({"elif", "else", "endif", "endfor"})


def _show(value: Any, state: State) -> str:
    return plain_text(value)


def _block(nodes: Sequence[Node]) -> Node:
    steps = len(nodes) + 1

    def run(state: State) -> None:
        state.spend(steps)
        for node in nodes:
            node(state)

    return run


def _literal(text: str) -> Node:
    size = len(text.encode())

    def run(state: State) -> None:
        state.room -= size
        if state.room < 0:
            raise TemplateError("what comes out is too large")
        state.output.append(text)

    return run


def _printing(evaluate: Evaluate, show: Show, path: Path | None, line: int, sample: str | None = None) -> Node:
    def run(state: State) -> None:
        try:
            value = evaluate(state)
            if isinstance(value, Missing) and state.accepts(value):
                state.write(show(str(value), state) if sample is None else sample)
            else:
                state.write(show(value, state))
        except TemplateError as error:
            error.line = line
            if path is not None and not error.variable:
                error.variable = state.full_path(path)
            raise

    return run


def _escaped(show: Show, *, has_breaks: bool) -> Show:
    if has_breaks:
        return lambda value, state: html.escape(show(value, state)).replace("\n", "<br>\n")
    return lambda value, state: html.escape(show(value, state))


def _checked(printing: Printing) -> Show:
    fits, wish = _CHECKS[printing]

    def show(value: Any, state: State) -> str:
        text = plain_text(value)
        if fits(text):
            return html.escape(text)
        raise TemplateError(wish)

    return show


_CHECKS: Final[Mapping[Printing, tuple[Callable[[str], bool], str]]] = {
    Printing.ADDRESS: (
        is_safe_address,
        "an address in the HTML is not a whole one beginning with https:// or another harmless scheme",
    ),
    Printing.STYLE: (is_harmless_style, "a value in a style attribute is not a plain colour, number or word"),
}
_SAMPLES: Final = {Printing.ADDRESS: "https://example.com/", Printing.STYLE: "0"}


def _branching(branches: Sequence[tuple[Evaluate, Node]], otherwise: Node | None) -> Node:
    def run(state: State) -> None:
        for condition, node in branches:
            state.spend(1)
            if condition(state):
                node(state)
                return
        if otherwise is not None:
            otherwise(state)

    return run


def _looping(name: str, evaluate: Evaluate, path: Path, body: Node, otherwise: Node | None) -> Node:
    def run(state: State) -> None:
        items = _checked_items(evaluate(state), state, path)
        if not items:
            if otherwise is not None:
                otherwise(state)
            return
        outer = state.scope.get(LOOP)
        source = state.full_path(path)
        for index, item in enumerate(items):
            state.scope[name] = item
            state.items[name] = (*source, index)
            state.scope[LOOP] = {
                "index": index + 1,
                "first": index == 0,
                "last": index == len(items) - 1,
                "length": len(items),
            }
            body(state)
        del state.scope[name], state.items[name]
        state.scope[LOOP] = outer

    return run


def _checked_items(items: Any, state: State, path: Path) -> list[Any]:
    if items is None:
        return []
    if isinstance(items, Missing) and state.accepts(items):
        return [items]
    if type(items) is not list:
        raise TemplateError(f"{'.'.join(map(str, path))} is no list", variable=state.full_path(path))
    if len(items) > ITEMS_MAX:
        detail = f"{'.'.join(map(str, path))} has more than {ITEMS_MAX} items"
        raise TemplateError(detail, variable=state.full_path(path))
    return items

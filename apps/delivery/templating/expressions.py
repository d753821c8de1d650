"""What stands inside a tag, compiled to functions of a render's state.

A path leads through objects and lists of the context by plain look-up, never to an attribute; there are no calls, no
arithmetic and no other functions than the filters' fixed list.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from typing import Any, Final

from apps.delivery.templating.errors import TemplateError
from apps.delivery.templating.filters import FILTERS, Filter, Literal, prepare_filter
from apps.delivery.templating.lexer import Word, split_words
from apps.delivery.templating.limits import FILTERS_MAX, PATH_MAX
from apps.delivery.templating.state import SCALARS, Missing, Path, State

Evaluate = Callable[[State], Any]

CONTAINERS: Final = frozenset({"list", "object", "any"})
CONSTANTS: Final[Mapping[str, Any]] = {"true": True, "false": False, "none": None}
KEYWORDS: Final = frozenset({*CONSTANTS, "and", "or", "not", "in", "if", "elif", "else", "endif", "for", "endfor"})
LOOP: Final = "loop"
LOOP_FIELDS: Final = ("index", "first", "last", "length")
_COMPARISONS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_COMPARED_PER_STEP: Final = 64


class ExpressionParser:
    """Reads one tag's words. ``names`` are the variables there are and their declared types (``any`` for a loop's)."""

    def __init__(self, source: str, line: int, names: Mapping[str, str], locale: str) -> None:
        self._words = split_words(source, line)
        self._position = 0
        self._line = line
        self._names = names
        self._locale = locale

    def read_print(self) -> tuple[Evaluate, Path | None, Sequence[str]]:
        """The value to print; its path and its filters' names if it is a variable. Raises ``TemplateError``."""
        evaluate, path, filters = self._read_filtered()
        self.expect_end()
        if path is not None and not filters and self._type_of(path) in ("list", "object"):
            raise self._error(f"{_dotted(path)} is a {self._type_of(path)}: loop over it or name one of its fields")
        return evaluate, path, filters

    def read_condition(self) -> Evaluate:
        """The condition of an ``if``."""
        condition = self._read_or()
        self.expect_end()
        return condition

    def read_loop(self) -> tuple[str, Evaluate, Path]:
        """``item in items``: the loop's variable, the list and its path."""
        name = self._take("name")
        if name in self._names or name in KEYWORDS or name == LOOP or name.startswith("_"):
            raise self._error(f"{name} cannot be a loop's variable: the name is taken")
        if self._take("name") != "in":
            raise self._error("write {% for item in items %}")
        path = self._read_path(self._take("name"))
        if len(path) == 1 and self._type_of(path) not in ("list", "any"):
            raise self._error(f"{path[0]} is no list")
        self.expect_end()
        return name, _path_evaluator(path), path

    def expect_end(self) -> None:
        """Raises ``TemplateError`` if there is anything more."""
        if self._position < len(self._words):
            raise self._error(f"{self._words[self._position].source!r} is not expected here")

    def take_keyword(self) -> str:
        """The block's name, its first word."""
        return self._take("name")

    def _read_or(self) -> Evaluate:
        terms = [self._read_and()]
        while self._accept("or"):
            terms.append(self._read_and())
        return terms[0] if len(terms) == 1 else lambda state: any(term(state) for term in terms)

    def _read_and(self) -> Evaluate:
        terms = [self._read_not()]
        while self._accept("and"):
            terms.append(self._read_not())
        return terms[0] if len(terms) == 1 else lambda state: all(term(state) for term in terms)

    def _read_not(self) -> Evaluate:
        is_negated = False
        while self._accept("not"):
            is_negated = not is_negated
        condition = self._read_comparison()
        return (lambda state: not condition(state)) if is_negated else condition

    def _read_comparison(self) -> Evaluate:
        left, _, _ = self._read_filtered()
        word = self._peek()
        if word is None or word.kind != "sign" or word.source not in _COMPARISONS:
            return left
        self._position += 1
        right, _, _ = self._read_filtered()
        return _comparison(word.source, left, right)

    def _read_filtered(self) -> tuple[Evaluate, Path | None, list[str]]:
        evaluate, path = self._read_atom()
        names: list[str] = []
        while self._accept("|"):
            name = self._take("name")
            arguments = self._read_arguments()
            if len(names) == FILTERS_MAX:
                raise self._error(f"at most {FILTERS_MAX} filters can follow one another")
            names.append(name)
            evaluate = self._apply(name, arguments, evaluate)
        return evaluate, path, names

    def _apply(self, name: str, arguments: list[Literal], evaluate: Evaluate) -> Evaluate:
        if name not in FILTERS:
            raise self._error(f"there is no filter {name}; there are {', '.join(FILTERS)}")
        try:
            return _filtering(prepare_filter(name, arguments, self._locale), evaluate)
        except ValueError as error:
            raise self._error(str(error)) from None

    def _read_arguments(self) -> list[Literal]:
        if not self._accept("("):
            return []
        arguments: list[Literal] = []
        while not self._accept(")"):
            if arguments and not self._accept(","):
                raise self._error("the arguments of a filter are separated by commas and end with )")
            arguments.append(self._read_literal())
        return arguments

    def _read_literal(self) -> Literal:
        word = self._next()
        if word.kind == "string":
            return word.source
        if word.kind == "number":
            return float(word.source) if "." in word.source else int(word.source)
        if word.source in CONSTANTS:
            value: Literal = CONSTANTS[word.source]
            return value
        raise self._error("a filter's argument is a number or a text in quotes")

    def _read_atom(self) -> tuple[Evaluate, Path | None]:
        word = self._peek()
        if word is not None and word.kind == "name" and word.source not in CONSTANTS:
            self._position += 1
            path = self._read_path(word.source)
            return _path_evaluator(path), path
        if word is None or word.kind == "sign":
            raise self._error("a variable or a value is missing")
        value = self._read_literal()
        return (lambda state: value), None

    def _read_path(self, root: str) -> Path:
        if root in KEYWORDS:
            raise self._error(f"{root!r} is not expected here")
        if root not in self._names:
            declared = ", ".join(sorted(self._names)[:10]) or "none"
            raise self._error(f"{root} is not declared; declared are: {declared}")
        path: list[str | int] = [root]
        while self._accept("."):
            word = self._next()
            if word.kind == "sign" or word.kind == "string" or word.source[0] in "_-":
                raise self._error("after a dot stands the name of a field")
            path.extend(_steps(word))
            if len(path) > PATH_MAX:
                raise self._error(f"a path has at most {PATH_MAX} parts")
        self._check_path(tuple(path))
        return tuple(path)

    def _check_path(self, path: Path) -> None:
        if path[0] == LOOP:
            if len(path) != 2 or path[1] not in LOOP_FIELDS:
                raise self._error(f"a loop has {', '.join(f'loop.{field}' for field in LOOP_FIELDS)}")
        elif len(path) > 1 and self._names[str(path[0])] not in CONTAINERS:
            raise self._error(f"{path[0]} is a {self._names[str(path[0])]} and has no fields")

    def _type_of(self, path: Path) -> str:
        return self._names[str(path[0])] if len(path) == 1 else "any"

    def _peek(self) -> Word | None:
        return self._words[self._position] if self._position < len(self._words) else None

    def _next(self) -> Word:
        word = self._peek()
        if word is None:
            raise self._error("the tag ends too early")
        self._position += 1
        return word

    def _accept(self, source: str) -> bool:
        word = self._peek()
        if word is None or word.source != source or word.kind == "string":
            return False
        self._position += 1
        return True

    def _take(self, kind: str) -> str:
        word = self._next()
        if word.kind != kind:
            raise self._error(f"{word.source!r} is not expected here")
        return word.source

    def _error(self, detail: str) -> TemplateError:
        return TemplateError(detail, line=self._line)


def _steps(word: Word) -> list[str | int]:
    """One field, or what the lexer took for a number: ``items.0.1``."""
    if word.kind == "name":
        return [word.source]
    return [int(part) for part in word.source.split(".")]


def _dotted(path: Path) -> str:
    return ".".join(map(str, path))


def _path_evaluator(path: Path) -> Evaluate:
    root, rest = str(path[0]), path[1:]
    if not rest:
        return lambda state: state.scope[root]

    def evaluate(state: State) -> Any:
        value = state.scope[root]
        for step in rest:
            kind = type(value)
            if kind is dict and str(step) in value:
                value = value[str(step)]
            elif kind is list and type(step) is int and step < len(value):
                value = value[step]
            else:
                return Missing(state.full_path(path))
        return value

    return evaluate


def _filtering(applied: Filter, evaluate: Evaluate) -> Evaluate:
    def run(state: State) -> Any:
        value = evaluate(state)
        if type(value) is str and len(value) >= _COMPARED_PER_STEP:
            state.spend(len(value) // _COMPARED_PER_STEP)
        return applied(value, state)

    return run


def _comparison(sign: str, left: Evaluate, right: Evaluate) -> Evaluate:
    compare = _COMPARISONS[sign]
    is_order = sign not in ("==", "!=")

    def run(state: State) -> bool:
        one, other = _comparable(left(state)), _comparable(right(state))
        if one is None or other is None:
            return False if is_order else bool(compare(one is None, other is None))
        if isinstance(one, str) and isinstance(other, str):
            state.spend(min(len(one), len(other)) // _COMPARED_PER_STEP)
        elif _kind(one) != _kind(other):
            raise TemplateError(f"{sign} compares numbers with numbers, texts with texts and dates with dates")
        return bool(compare(one, other))

    return run


def _comparable(value: Any) -> Any:
    if value is None or isinstance(value, Missing):
        return None
    if not isinstance(value, SCALARS):
        raise TemplateError("lists and objects cannot be compared")
    return value


def _kind(value: Any) -> str:
    if isinstance(value, datetime):
        return "datetime"
    if isinstance(value, date):
        return "date"
    return "text" if isinstance(value, str) else "number"

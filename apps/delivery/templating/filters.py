"""The filters there are. Each one's output is bounded by its input or by an argument that is checked at compilation."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from django.utils import dateformat, numberformat, translation
from django.utils.formats import get_format
from django.utils.translation import get_supported_language_variant

from apps.delivery.templating.errors import TemplateError
from apps.delivery.templating.limits import ITEMS_MAX, VALUE_MAX
from apps.delivery.templating.state import Missing, State

Literal = str | int | float | bool | None
Filter = Callable[[Any, State], Any]

DATE_STYLES: Final[Mapping[str, str]] = {
    "long": "DATE_FORMAT",
    "short": "SHORT_DATE_FORMAT",
    "month": "YEAR_MONTH_FORMAT",
    "day": "MONTH_DAY_FORMAT",
    "datetime": "DATETIME_FORMAT",
    "time": "TIME_FORMAT",
}
PATTERN_MAX: Final = 40
DECIMALS_MAX: Final = 10
SEPARATOR_MAX: Final = 20


class _Spec(NamedTuple):
    """``prepare`` makes the filter from its arguments and the text's locale; raises ``ValueError``."""

    prepare: Callable[[Sequence[Literal], str], Filter]
    usage: str
    takes_missing: bool = False


def prepare_filter(name: str, arguments: Sequence[Literal], locale: str) -> Filter:
    """The filter with its arguments; raises ``ValueError`` with its usage if they do not fit."""
    spec = FILTERS[name]
    try:
        applied = spec.prepare(arguments, locale)
    except (ValueError, TypeError):
        raise ValueError(f"the filter is used as {spec.usage}") from None

    def run(value: Any, state: State) -> Any:
        if not spec.takes_missing:
            if isinstance(value, Missing) and state.accepts(value):
                return value
            if value is None:
                return None
        result = applied(value, state)
        if type(result) is str and len(result) > VALUE_MAX:
            raise TemplateError(f"the filter {name} makes more than {VALUE_MAX} characters")
        return result

    return run


def plain_text(value: Any) -> str:
    """A scalar as it is printed where no filter says otherwise."""
    if type(value) is str:
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else str(value)
    if isinstance(value, date):
        return value.isoformat()
    raise TemplateError("a list or an object cannot be printed; loop over it or name one of its fields")


def format_moment(value: date, locale: str, style: str) -> str:
    """A date or time as people write it in ``locale``; ``style`` is one of ``DATE_STYLES``, ``iso`` or a pattern of
    Django's ``date`` filter."""
    if style == "iso":
        return value.isoformat()
    language = _language(locale)
    pattern = get_format(DATE_STYLES[style], language, use_l10n=True) if style in DATE_STYLES else style
    moment = value if isinstance(value, datetime) else datetime.combine(value, time())
    with translation.override(language):
        return dateformat.format(moment, str(pattern))


def _language(locale: str) -> str:
    """The nearest language whose months and formats are known."""
    try:
        return get_supported_language_variant(locale.lower())
    except LookupError:
        return "en"


def _text_filter(change: Callable[[str], str]) -> Callable[[Sequence[Literal], str], Filter]:
    def prepare(arguments: Sequence[Literal], locale: str) -> Filter:
        _expect(not arguments)
        return lambda value, state: change(plain_text(value))

    return prepare


def _prepare_default(arguments: Sequence[Literal], locale: str) -> Filter:
    (instead,) = arguments
    return lambda value, state: instead if value is None or isinstance(value, Missing) or value == "" else value


def _prepare_truncate(arguments: Sequence[Literal], locale: str) -> Filter:
    length, end = arguments if len(arguments) == 2 else (*arguments, "…")
    _expect(type(length) is int and isinstance(end, str) and len(end) <= length <= VALUE_MAX)
    assert isinstance(length, int)
    assert isinstance(end, str)

    def truncate(value: Any, state: State) -> str:
        text = plain_text(value)
        return text if len(text) <= length else text[: length - len(end)].rstrip() + end

    return truncate


def _prepare_number(arguments: Sequence[Literal], locale: str) -> Filter:
    (argument,) = arguments or (None,)
    _expect(argument is None or (type(argument) is int and 0 <= argument <= DECIMALS_MAX))
    decimals = argument if isinstance(argument, int) else None
    language = _language(locale)
    point, separator = get_format("DECIMAL_SEPARATOR", language), get_format("THOUSAND_SEPARATOR", language)
    grouping = get_format("NUMBER_GROUPING", language) or 3

    def number(value: Any, state: State) -> str:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TemplateError("the filter number is for numbers")
        exact = Decimal(repr(value))
        if decimals is not None:
            exact = round(exact, decimals)
        return str(numberformat.format(exact, point, decimals, grouping, separator, force_grouping=True))

    return number


def _prepare_date(default_style: str) -> Callable[[Sequence[Literal], str], Filter]:
    def prepare(arguments: Sequence[Literal], locale: str) -> Filter:
        (style,) = arguments or (default_style,)
        _expect(isinstance(style, str) and 0 < len(style) <= PATTERN_MAX)
        return lambda value, state: format_moment(_to_moment(value), locale, str(style))

    return prepare


def _to_moment(value: Any) -> date:
    """A declared date, or one within a list or object, where it is still a text."""
    if isinstance(value, date):
        return value
    try:
        return datetime.fromisoformat(value) if len(value) > 10 else date.fromisoformat(value)
    except (ValueError, TypeError):
        raise TemplateError("the filter date is for dates such as 2026-11-22 or 2026-11-22T18:30:00Z") from None


def _prepare_join(arguments: Sequence[Literal], locale: str) -> Filter:
    (separator,) = arguments or (", ",)
    _expect(isinstance(separator, str) and len(separator) <= SEPARATOR_MAX)

    def join(value: Any, state: State) -> str:
        if type(value) is not list or len(value) > ITEMS_MAX:
            raise TemplateError(f"the filter join is for lists of at most {ITEMS_MAX} items")
        texts = [plain_text(item) for item in value]
        state.spend(len(texts) + sum(map(len, texts)) // 64)
        return str(separator).join(texts)

    return join


def _prepare_length(arguments: Sequence[Literal], locale: str) -> Filter:
    _expect(not arguments)

    def length(value: Any, state: State) -> int:
        if not isinstance(value, str | list | dict):
            raise TemplateError("the filter length is for lists and texts")
        return len(value)

    return length


def _prepare_pick(position: int) -> Callable[[Sequence[Literal], str], Filter]:
    def prepare(arguments: Sequence[Literal], locale: str) -> Filter:
        _expect(not arguments)

        def pick(value: Any, state: State) -> Any:
            if not isinstance(value, str | list):
                raise TemplateError("the filters first and last are for lists and texts")
            return value[position] if value else None

        return pick

    return prepare


def _expect(is_right: bool) -> None:
    if not is_right:
        raise ValueError


def _urlencode(text: str) -> str:
    return quote(text.encode(errors="replace"), safe="")


FILTERS: Final[Mapping[str, _Spec]] = {
    "default": _Spec(_prepare_default, 'default("friend")', takes_missing=True),
    "upper": _Spec(_text_filter(str.upper), "upper"),
    "lower": _Spec(_text_filter(str.lower), "lower"),
    "capitalize": _Spec(_text_filter(lambda text: text[:1].upper() + text[1:]), "capitalize"),
    "trim": _Spec(_text_filter(str.strip), "trim"),
    "truncate": _Spec(_prepare_truncate, 'truncate(40) or truncate(40, "...")'),
    "number": _Spec(_prepare_number, f"number or number(2), with at most {DECIMALS_MAX} decimals"),
    "date": _Spec(_prepare_date("long"), f'date, date("short") or a pattern of at most {PATTERN_MAX} characters'),
    "time": _Spec(_prepare_date("time"), 'time or time("H:i")'),
    "urlencode": _Spec(_text_filter(_urlencode), "urlencode"),
    "join": _Spec(_prepare_join, 'join or join(" / ")'),
    "length": _Spec(_prepare_length, "length"),
    "first": _Spec(_prepare_pick(0), "first"),
    "last": _Spec(_prepare_pick(-1), "last"),
    "nl2br": _Spec(_text_filter(str), "nl2br, as the last filter, in HTML between tags"),
}

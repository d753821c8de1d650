"""What a template declares about its context, and whether a context is so."""

import re
from collections.abc import Callable, Mapping
from datetime import date, datetime
from math import isfinite
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from apps.delivery.templating.expressions import KEYWORDS, LOOP
from apps.delivery.templating.html_places import is_safe_address
from apps.delivery.templating.limits import (
    CONTEXT_DEPTH_MAX,
    CONTEXT_MAX,
    ITEMS_MAX,
    TEXT_LENGTH,
    URL_LENGTH,
    VARIABLES_MAX,
)
from apps.problems import FieldError

VariableType = Literal["string", "number", "integer", "boolean", "date", "datetime", "url", "list", "object"]
NAME: Final = r"^[A-Za-z][A-Za-z0-9_]{0,63}\Z"
NUMBER_MAX: Final = 2**63  # beyond it JSON's readers disagree


class Variable(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One variable of a template. `required` is true where there is no `default`; `max_length` bounds a text's
    characters or a list's items; `example` is what previews show."""

    type: VariableType
    required: bool | UnsetType = UNSET
    default: Any = UNSET
    max_length: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    description: Annotated[str, Meta(max_length=500)] = ""
    example: Any = UNSET

    @property
    def is_required(self) -> bool:
        return self.default is UNSET if self.required is UNSET else bool(self.required)


VariableName = Annotated[str, Meta(pattern=NAME)]
Variables = Annotated[dict[VariableName, Variable], Meta(max_length=VARIABLES_MAX)]


def load_variables(stored: Any) -> dict[str, Variable]:
    """The declarations as stored."""
    return msgspec.convert(stored, dict[str, Variable])


def find_wrong_declarations(variables: Mapping[str, Variable]) -> list[FieldError]:
    """What is wrong with the declarations, by pointers into ``{"variables": …}``."""
    errors = []
    for name, variable in variables.items():
        pointer = f"/variables/{name}"
        if name in KEYWORDS or name == LOOP:
            errors.append(FieldError(pointer, f"{name} is a word of the template language; choose another", "reserved"))
        if variable.max_length is not None and variable.type not in ("string", "url", "list"):
            errors.append(FieldError(f"{pointer}/max_length", "only texts, urls and lists have a length"))
        for field in ("default", "example"):
            value = getattr(variable, field)
            if value is not UNSET and not (field == "default" and value is None):
                errors += find_wrong_value(value, variable, f"{pointer}/{field}")
    return errors


def find_wrong_values(context: Mapping[str, Any], variables: Mapping[str, Variable]) -> list[FieldError]:
    """What is wrong with a context, by pointers into ``{"context": …}``: every missing, unknown and unfit value. The
    texts repeat no value."""
    if len(msgspec.json.encode(context)) > CONTEXT_MAX:
        return [FieldError("/context", f"the context takes more than {CONTEXT_MAX} bytes as JSON", "too_large")]
    errors = [
        FieldError(_pointer(name), f"the template has no such variable; it has {_names(variables)}", "unknown_variable")
        for name in context
        if name not in variables
    ]
    for name, variable in sorted(variables.items()):
        value = context.get(name, UNSET)
        if value is UNSET or (value is None and not variable.is_required):
            if variable.is_required:
                errors.append(FieldError(_pointer(name), f"this variable is required ({variable.type})", "required"))
        else:
            errors += find_wrong_value(value, variable, _pointer(name))
    return errors


def bind(context: Mapping[str, Any], variables: Mapping[str, Variable]) -> dict[str, Any]:
    """The values a render sees: every declared variable, defaults filled in, dates as dates. For a context that was
    found right; raises ``ValueError`` for another."""
    bound: dict[str, Any] = {}
    for name, variable in variables.items():
        value = context.get(name)
        if value is None and variable.default is not UNSET:
            value = variable.default
        if value is not None and (parse := _PARSERS.get(variable.type)) is not None:
            value = parse(value)
        bound[name] = value
    return bound


def sample_context(variables: Mapping[str, Variable]) -> dict[str, Any]:
    """A context for previews: examples, defaults, or what shows the variable's name. Lists and objects that have
    neither are left out."""
    samples = {
        name: variable.example if variable.example is not UNSET else variable.default
        for name, variable in variables.items()
    }
    return {
        name: _SAMPLES[variables[name].type](name, variables[name]) if value is UNSET else value
        for name, value in samples.items()
        if value is not UNSET or variables[name].type in _SAMPLES
    }


def find_wrong_value(value: Any, variable: Variable, pointer: str) -> list[FieldError]:
    """What is wrong with one value."""
    if not _IS_OF_TYPE[variable.type](value):
        return [FieldError(pointer, f"this must be {_WISHES[variable.type]}", "invalid")]
    if isinstance(value, str | list):
        length = variable.max_length or _LENGTHS.get(variable.type, TEXT_LENGTH)
        unit = "items" if isinstance(value, list) else "characters"
        if len(value) > length:
            return [FieldError(pointer, f"this has at most {length} {unit}", "too_long")]
    if isinstance(value, list | dict):
        return _find_wrong_nested(value, pointer, CONTEXT_DEPTH_MAX)
    return []


def _find_wrong_nested(value: Any, pointer: str, levels: int) -> list[FieldError]:
    match value:
        case list() | dict() if levels == 0:
            return [FieldError(pointer, f"this is nested more than {CONTEXT_DEPTH_MAX} levels deep", "too_deep")]
        case list():
            return [
                error
                for index, item in enumerate(value)
                for error in _find_wrong_nested(item, f"{pointer}/{index}", levels - 1)
            ]
        case dict():
            return [
                error
                for key, item in value.items()
                for error in _find_wrong_nested(item, f"{pointer}/{_escape(str(key))}", levels - 1)
            ]
        case bool() | None:
            return []
        case str() if len(value) > TEXT_LENGTH:
            return [FieldError(pointer, f"this has at most {TEXT_LENGTH} characters", "too_long")]
        case int() | float() if not _is_number(value):
            return [FieldError(pointer, f"this must be {_WISHES['number']}", "invalid")]
    return []


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and isfinite(value) and -NUMBER_MAX <= value < NUMBER_MAX


def _is_date(value: Any) -> bool:
    return (
        isinstance(value, str)
        and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value) is not None
        and _parses(date.fromisoformat, value)
    )


def _is_datetime(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= 40 and _parses(_parse_datetime, value)


def _parse_datetime(value: str) -> datetime:
    moment: datetime = msgspec.convert(value, Annotated[datetime, Meta(tz=True)])
    moment.utctimetuple()  # an OverflowError at the ends of the calendar
    return moment


def _parses(parse: Callable[[str], object], value: str) -> bool:
    try:
        parse(value)
    except (ValueError, OverflowError, msgspec.ValidationError):
        return False
    return True


_IS_OF_TYPE: Final[Mapping[str, Callable[[Any], bool]]] = {
    "string": lambda value: isinstance(value, str),
    "number": _is_number,
    "integer": lambda value: isinstance(value, int) and _is_number(value),
    "boolean": lambda value: isinstance(value, bool),
    "date": _is_date,
    "datetime": _is_datetime,
    "url": lambda value: isinstance(value, str) and is_safe_address(value),
    "list": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
_WISHES: Final[Mapping[str, str]] = {
    "string": "a text",
    "number": "a number between -2^63 and 2^63",
    "integer": "a whole number between -2^63 and 2^63",
    "boolean": "true or false",
    "date": "a date such as 2026-11-22",
    "datetime": "a time with an offset such as 2026-11-22T18:30:00+01:00",
    "url": "a whole address without spaces, beginning with https:// (or http, mailto, tel, sms, or an app's own scheme "
    "and //); addresses that run scripts are refused",
    "list": "a list",
    "object": "an object",
}
_LENGTHS: Final[Mapping[str, int]] = {"url": URL_LENGTH, "list": ITEMS_MAX}
_PARSERS: Final[Mapping[str, Callable[[Any], Any]]] = {"date": date.fromisoformat, "datetime": _parse_datetime}
_SAMPLES: Final[Mapping[str, Callable[[str, Variable], Any]]] = {
    "string": lambda name, variable: f"[{name}]"[: variable.max_length],
    "number": lambda name, variable: 12.5,
    "integer": lambda name, variable: 3,
    "boolean": lambda name, variable: True,
    "date": lambda name, variable: "2026-01-31",
    "datetime": lambda name, variable: "2026-01-31T18:30:00+00:00",
    "url": lambda name, variable: "https://example.com/",
}


def _names(variables: Mapping[str, Variable]) -> str:
    return ", ".join(sorted(variables)[:20]) or "none"


def _pointer(name: str) -> str:
    return f"/context/{_escape(name)}"


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")

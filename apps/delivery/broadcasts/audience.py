"""Who gets a broadcast: a small language, checked into plain data and compiled into SQL. Pure.

An audience is one of ``{"everybody": true}``, ``{"filter": …}``, ``{"user_ids": […]}`` and ``{"upload_id": "…"}``; the
conditions of a filter are explained in ``docs/broadcasts.md``. Whatever a caller writes reaches the database as a
parameter; the SQL itself is made of constants only.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from uuid import UUID

import orjson

from apps.channels import Channel
from apps.preferences import profile
from apps.preferences.categories import KEY_MAX_LENGTH
from apps.problems import invalid_field

MAX_DEPTH: Final = 5
MAX_CONDITIONS: Final = 50
MAX_VALUES: Final = 100  # of one "in"
MAX_USER_IDS: Final = 10_000
MAX_NAME_LENGTH: Final = 200
MAX_PATH: Final = profile.ATTRIBUTES_MAX_DEPTH
PLATFORMS: Final = ("android", "ios", "web")
# Up to so many values, each is looked up in the index; more are hardly selective, and one comparison a row is cheaper.
_MAX_LOOKUPS: Final = 20

Scalar = str | bool | int | float | None


@dataclass(frozen=True, slots=True)
class AttributeIn:
    """The attribute at ``path`` is one of ``values``; an absent one is none of them, not even null."""

    path: tuple[str, ...]
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class AttributeExists:
    """There is an attribute at ``path``, null included; or with ``is_expected`` off, there is none."""

    path: tuple[str, ...]
    is_expected: bool


@dataclass(frozen=True, slots=True)
class AttributeBetween:
    """The attribute at ``path`` is a number with ``at_least`` ≤ it < ``below``, as far as they are given."""

    path: tuple[str, ...]
    at_least: float | None
    below: float | None


@dataclass(frozen=True, slots=True)
class LocaleIs:
    """The person's locale is ``locale`` or begins with it and a hyphen."""

    locale: str


@dataclass(frozen=True, slots=True)
class PlatformIs:
    """The person has an active device of this platform."""

    platform: str


@dataclass(frozen=True, slots=True)
class CategoryOptIn:
    """The person has themselves asked for this category on the channel in question."""

    category: str


@dataclass(frozen=True, slots=True)
class AllOf:
    parts: tuple["Condition", ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    parts: tuple["Condition", ...]


@dataclass(frozen=True, slots=True)
class Not:
    part: "Condition"


Condition = (
    AttributeIn | AttributeExists | AttributeBetween | LocaleIs | PlatformIs | CategoryOptIn | AllOf | AnyOf | Not
)


@dataclass(frozen=True, slots=True)
class Everybody:
    pass


@dataclass(frozen=True, slots=True)
class Filter:
    condition: Condition


@dataclass(frozen=True, slots=True)
class UserIds:
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Upload:
    id: UUID


Audience = Everybody | Filter | UserIds | Upload


class Query(NamedTuple):
    """A condition over ``preferences_recipient AS r`` that is true or false and never null."""

    sql: str
    params: list[Any]


# --- Reading ----------------------------------------------------------------------------------------------------------


def parse_audience(
    data: Any, pointer: str = "/audience", *, is_category: Callable[[str], bool] = lambda key: True
) -> Audience:
    """The audience in parsed JSON; raises a 422 ``Problem`` that points at what is wrong. ``is_category`` says whether
    there is a category of this key."""
    kind = _single_key(data, pointer, ("everybody", "filter", "user_ids", "upload_id"))
    value, place = data[kind], f"{pointer}/{kind}"
    if kind == "everybody":
        if value is not True:
            raise invalid_field(place, "must be true; to reach fewer people give a filter")
        return Everybody()
    if kind == "filter":
        return Filter(_Reader(is_category).read(value, place, MAX_DEPTH))
    if kind == "user_ids":
        return UserIds(_read_user_ids(value, place))
    return Upload(_read_upload_id(value, place))


class _Reader:
    """Reads one filter, counting its conditions."""

    def __init__(self, is_category: Callable[[str], bool]) -> None:
        self._count = 0
        self._is_category = is_category

    def read(self, data: Any, pointer: str, levels: int) -> Condition:
        """The condition at ``pointer``, which may have ``levels`` levels."""
        if levels == 0:
            raise invalid_field(pointer, f"conditions may stand at most {MAX_DEPTH} levels deep")
        if isinstance(data, dict) and "attribute" in data:
            self._add_one(pointer)
            return _read_attribute(data, pointer)
        kind = _single_key(data, pointer, _KINDS)
        value, place = data[kind], f"{pointer}/{kind}"
        if kind == "not":
            return Not(self.read(value, place, levels - 1))
        if kind in ("all", "any"):
            if not isinstance(value, list) or not value:
                raise invalid_field(place, "must be a list of at least one condition")
            parts = tuple(self.read(part, f"{place}/{index}", levels - 1) for index, part in enumerate(value))
            return AllOf(parts) if kind == "all" else AnyOf(parts)
        self._add_one(pointer)
        if kind == "locale":
            return _read_locale(value, place)
        return _read_platform(value, place) if kind == "platform" else self._read_category(value, place)

    def _read_category(self, value: Any, pointer: str) -> CategoryOptIn:
        category = CategoryOptIn(_read_text(value, pointer, KEY_MAX_LENGTH))
        if not self._is_category(category.category):
            detail = "there is no such category; GET /v1/categories lists them"
            raise invalid_field(pointer, detail, "unknown_category")
        return category

    def _add_one(self, pointer: str) -> None:
        self._count += 1
        if self._count > MAX_CONDITIONS:
            raise invalid_field(pointer, f"a filter has at most {MAX_CONDITIONS} conditions")


def _single_key(data: Any, pointer: str, known: Sequence[str]) -> str:
    if not isinstance(data, dict):
        raise invalid_field(pointer, f"must be an object with one of {', '.join(known)}")
    for name in data:
        if name not in known:
            raise invalid_field(f"{pointer}/{_escape(name)}", f"unknown; known are {', '.join(known)}", "unknown_field")
    if len(data) != 1:
        raise invalid_field(pointer, f"must have exactly one of {', '.join(known)}")
    name = next(iter(data))
    assert isinstance(name, str)
    return name


def _read_attribute(data: Mapping[str, Any], pointer: str) -> Condition:
    path = _read_path(data["attribute"], f"{pointer}/attribute")
    tests = [name for name in data if name != "attribute"]
    for name in tests:
        if name not in _TESTS:
            place = f"{pointer}/{_escape(name)}"
            raise invalid_field(place, f"there is no such test; there are {', '.join(_TESTS)}", "unknown_field")
    if tests and set(tests) <= {"at_least", "below"}:
        return _read_between(path, data, pointer)
    if len(tests) != 1:
        raise invalid_field(pointer, "an attribute takes one of is, in and exists, or at_least and below", "required")
    value, place = data[tests[0]], f"{pointer}/{tests[0]}"
    if tests[0] == "is":
        return AttributeIn(path, (_read_scalar(value, place),))
    if tests[0] == "exists":
        if not isinstance(value, bool):
            raise invalid_field(place, "must be true or false")
        return AttributeExists(path, value)
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_VALUES:
        raise invalid_field(place, f"must be a list of 1 to {MAX_VALUES} values")
    return AttributeIn(path, tuple(_read_scalar(item, f"{place}/{index}") for index, item in enumerate(value)))


def _read_path(value: Any, pointer: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        return (_read_text(value, pointer, MAX_NAME_LENGTH),)
    if not 1 <= len(value) <= MAX_PATH:
        raise invalid_field(pointer, f"must be a name, or a list of 1 to {MAX_PATH} names, the outermost first")
    return tuple(_read_text(name, f"{pointer}/{index}", MAX_NAME_LENGTH) for index, name in enumerate(value))


def _read_between(path: tuple[str, ...], data: Mapping[str, Any], pointer: str) -> AttributeBetween:
    limits = {name: data[name] for name in ("at_least", "below") if name in data}
    for name, value in limits.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise invalid_field(f"{pointer}/{name}", "must be a number")
        _check_number(value, f"{pointer}/{name}")
    return AttributeBetween(path, limits.get("at_least"), limits.get("below"))


def _read_scalar(value: Any, pointer: str) -> Scalar:
    if isinstance(value, str):
        return _read_text(value, pointer, profile.ATTRIBUTES_MAX_BYTES, shortest=0)
    if value is not None and not isinstance(value, bool | int | float):
        raise invalid_field(pointer, "must be a text, a number, true, false or null")
    if not isinstance(value, bool) and value is not None:
        _check_number(value, pointer)
    return value


def _check_number(value: float, pointer: str) -> None:
    if not -profile.NUMBER_LIMIT <= value < profile.NUMBER_LIMIT:  # which NaN and the infinities are not
        raise invalid_field(pointer, "must be between -2^63 and 2^63, as numbers in attributes are")


def _read_text(value: Any, pointer: str, longest: int, shortest: int = 1) -> str:
    if not isinstance(value, str) or not shortest <= len(value) <= longest:
        raise invalid_field(pointer, f"must be a text of {shortest} to {longest} characters")
    if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
        raise invalid_field(pointer, "must hold no NUL character and no half of a surrogate pair")
    return value


def _read_locale(value: Any, pointer: str) -> LocaleIs:
    try:
        return LocaleIs(profile.check_locale(_read_text(value, pointer, profile.LOCALE_MAX_LENGTH)))
    except profile.InvalidValue as error:
        raise invalid_field(pointer, str(error)) from None


def _read_platform(value: Any, pointer: str) -> PlatformIs:
    if value not in PLATFORMS:
        raise invalid_field(pointer, f"must be one of {', '.join(PLATFORMS)}")
    return PlatformIs(value)


def _read_user_ids(value: Any, pointer: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_USER_IDS:
        raise invalid_field(pointer, f"must be a list of 1 to {MAX_USER_IDS} user ids; upload a longer one")
    return tuple(
        _read_text(user_id, f"{pointer}/{index}", profile.USER_ID_MAX_LENGTH) for index, user_id in enumerate(value)
    )


def _read_upload_id(value: Any, pointer: str) -> UUID:
    try:
        return UUID(value if isinstance(value, str) else "")
    except ValueError:
        raise invalid_field(pointer, "must be the id of an upload: POST /v1/audiences") from None


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")  # RFC 6901, 3


_KINDS: Final = ("all", "any", "not", "attribute", "locale", "platform", "category")
_TESTS: Final = ("is", "in", "exists", "at_least", "below")


# --- Compiling --------------------------------------------------------------------------------------------------------


def compile_audience(audience: Audience | Mapping[str, Any], channel: Channel) -> Query:
    """The people of ``audience`` (or of its JSON) as seen from ``channel``. Erased ones are not left out by it."""
    if isinstance(audience, Mapping):
        audience = parse_audience(audience)
    match audience:
        case Filter(condition):
            return _compile(condition, channel)
        case UserIds(ids):
            return Query("r.user_id = ANY(%s::varchar[])", [list(ids)])
        case Upload(upload_id):
            return Query(
                "r.id IN (SELECT unnest(p.recipient_ids) FROM audience_upload_part p WHERE p.upload_id = %s::uuid)",
                [upload_id],
            )
    return Query("true", [])


def _compile(condition: Condition, channel: Channel) -> Query:
    match condition:
        case AllOf(parts):
            return _join(" AND ", [_compile(part, channel) for part in parts])
        case AnyOf(parts):
            return _join(" OR ", [_compile(part, channel) for part in parts])
        case Not(part):
            inner = _compile(part, channel)
            return Query(f"(NOT {inner.sql})", inner.params)
        case AttributeIn(path, values):
            return _compile_in(path, values)
        case AttributeExists(path, is_expected):
            return Query(f"({_step(path)} IS {'NOT ' if is_expected else ''}NULL)", list(path))
        case AttributeBetween():
            return _compile_between(condition)
        case LocaleIs(locale):
            return Query("(r.locale = %s OR r.locale LIKE %s)", [locale, f"{locale}-%"])
        case PlatformIs(platform):
            return Query(
                "EXISTS (SELECT FROM preferences_device d WHERE d.recipient_id = r.id AND d.platform = %s"
                " AND d.deactivated_at IS NULL)",
                [platform],
            )
    return Query(
        "EXISTS (SELECT FROM preferences_categorypreference w JOIN preferences_category c ON c.id = w.category_id"
        " WHERE w.recipient_id = r.id AND w.channel = %s AND w.is_enabled AND c.key = %s)",
        [int(channel), condition.category],
    )


def _join(word: str, queries: Sequence[Query]) -> Query:
    return Query(
        f"({word.join(query.sql for query in queries)})", [value for query in queries for value in query.params]
    )


def _compile_in(path: tuple[str, ...], values: Sequence[Scalar]) -> Query:
    distinct = list(dict.fromkeys(_to_json(value) for value in values))
    if len(distinct) > _MAX_LOOKUPS:
        return Query(f"(({_step(path)} = ANY(%s::jsonb[])) IS TRUE)", [*path, distinct])
    # Containment is what the GIN index knows.
    return _join(
        " OR ", [Query("r.attributes @> %s::jsonb", [_to_json(_nest(path, orjson.loads(text)))]) for text in distinct]
    )


def _compile_between(condition: AttributeBetween) -> Query:
    step, path = _step(condition.path), condition.path
    # jsonb compares numbers as numbers; those of another type are ruled out first.
    sql, params = [f"jsonb_typeof({step}) = 'number'"], [*path]
    for sign, limit in ((">=", condition.at_least), ("<", condition.below)):
        if limit is not None:
            sql.append(f"{step} {sign} %s::jsonb")
            params += [*path, _to_json(limit)]
    return Query(f"(({' AND '.join(sql)}) IS TRUE)", params)


def _step(path: tuple[str, ...]) -> str:
    """The value at ``path``, its names being parameters. Not ``#>``, for which "0" would also be a list's first."""
    return "(r.attributes" + " -> %s::text" * len(path) + ")"


def _nest(path: tuple[str, ...], value: Scalar) -> Any:
    nested: Any = value
    for name in reversed(path):
        nested = {name: nested}
    return nested


def _to_json(value: Any) -> str:
    return orjson.dumps(value).decode()

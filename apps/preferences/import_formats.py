"""From a record of an import file to an item in the shape of ``entries``. Pure.

CSV (RFC 4180, UTF-8, commas, a header): a column is named after its field, ``preferences.channels.sms`` and the like
reach into preferences, and ``attributes``, ``devices`` and ``preferences.quiet_hours`` hold JSON. A blank cell removes
the value; in a column of preferences or devices it says nothing. NDJSON: one object a line.
"""

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec

from apps.channels import CHANNEL_LABELS
from apps.preferences.faults import Fault, InvalidEntry

UTF8_BOM: Final = b"\xef\xbb\xbf"
_OTHER_BOMS: Final = (b"\xff\xfe", b"\xfe\xff")
PLAIN_COLUMNS: Final = ("user_id", "email", "phone", "locale", "time_zone")
JSON_COLUMNS: Final = ("attributes", "devices", "preferences.quiet_hours")
_FLAGS: Final = {
    "true": True, "yes": True, "1": True, "on": True,
    "false": False, "no": False, "0": False, "off": False,
}  # fmt: skip
_NOT_UTF8: Final = Fault("", "The line is not UTF-8.", "encoding")


class Format(StrEnum):
    """How a file is written."""

    CSV = "csv"
    NDJSON = "ndjson"


class InvalidFile(ValueError):
    """A file that cannot be imported at all. The text says how to mend it."""


@dataclass(frozen=True, slots=True)
class _Column:
    """Where a cell goes, and what is made of its text; a blank one goes nowhere unless ``is_plain``."""

    path: tuple[str, ...]
    convert: Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Header:
    """The columns of a CSV file."""

    names: tuple[str, ...]
    plain: tuple[tuple[int, str], ...]
    others: tuple[tuple[int, _Column], ...]
    user_id: int


def check_encoding(head: bytes) -> None:
    """Raises ``InvalidFile`` if the file's first bytes are another encoding's mark, or no text's at all."""
    if head.startswith(_OTHER_BOMS) or b"\0" in head:
        raise InvalidFile("The file is not UTF-8 text (it looks like UTF-16 or a spreadsheet). Save it as UTF-8.")


def read_header(line: bytes, category_ids: Mapping[str, int]) -> Header:
    """The header in the first line of a CSV file. Raises ``InvalidFile`` naming what is wrong."""
    try:
        rows = list(csv.reader([line.removeprefix(UTF8_BOM).decode().strip("\r\n")], strict=True))
    except (UnicodeDecodeError, csv.Error):
        raise InvalidFile("The first line must name the columns, in UTF-8, separated by commas.") from None
    names = tuple(name.strip() for name in rows[0]) if rows else ()
    if names.count("user_id") != 1:
        hint = " The columns seem to be separated by something else." if len(names) == 1 else ""
        raise InvalidFile(f"The first line must name the columns, separated by commas, user_id among them.{hint}")
    if len(set(names)) != len(names):
        raise InvalidFile("A column stands twice in the first line.")
    plain, others = [], []
    for place, name in enumerate(names):
        if name in PLAIN_COLUMNS:
            plain.append((place, name))
        else:
            others.append((place, _find_column(place, name, category_ids)))
    return Header(names, tuple(plain), tuple(others), names.index("user_id"))


def _find_column(place: int, name: str, category_ids: Mapping[str, int]) -> _Column:
    if name in JSON_COLUMNS:
        return _Column(tuple(name.split(".")), _read_json)
    if name == "preferences.opted_out":
        return _Column(("preferences", "opted_out"), _read_flag)
    path = tuple(name.split("."))
    if path[:2] == ("preferences", "channels") and len(path) == 3 and path[2] in CHANNEL_LABELS:
        return _Column(path, _read_flag)
    if path[:2] == ("preferences", "categories") and len(path) >= 4 and path[-1] in CHANNEL_LABELS:
        key = ".".join(path[2:-1])  # a category's key may hold dots
        if key in category_ids:
            return _Column(("preferences", "categories", key, path[-1]), _read_flag)
    known = [
        *PLAIN_COLUMNS, *JSON_COLUMNS, "preferences.opted_out", "preferences.channels.<channel>",
        "preferences.categories.<category>.<channel>",
    ]  # fmt: skip
    raise InvalidFile(f"Column {place + 1} has a name nobody knows; known are {', '.join(known)}.")


def _read_flag(text: str) -> bool:
    flag = _FLAGS.get(text.strip().lower())
    if flag is None:
        raise ValueError("Enter true or false, or leave the cell blank.")
    return flag


def _read_json(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        raise ValueError("The cell is not valid JSON.") from None


def read_csv_item(record: bytes, header: Header) -> dict[str, Any]:
    """The item in a row. Raises ``InvalidEntry``."""
    cells = _split_cells(record)
    if len(cells) != len(header.names):
        detail = f"The row has {len(cells)} cells, the header has {len(header.names)}."
        raise InvalidEntry(Fault("", detail, "cells"))
    item: dict[str, Any] = {name: cells[place] for place, name in header.plain}
    for name in ("email", "phone"):
        if item.get(name) == "":
            item[name] = None
    faults: list[Fault] = []
    for place, column in header.others:
        text = cells[place]
        if text == "":
            if column.path == ("attributes",):
                item["attributes"] = {}
            continue
        try:
            _put(item, column.path, column.convert(text))
        except ValueError as error:
            faults.append(Fault("/".join(column.path), str(error)))
    if faults:
        raise InvalidEntry(*faults)
    return item


def _split_cells(record: bytes) -> list[str]:
    try:
        text = record.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise InvalidEntry(_NOT_UTF8) from None
    if '"' not in text:
        return text.split(",")
    try:
        return next(csv.reader([text], strict=True))
    except (csv.Error, StopIteration):
        raise InvalidEntry(Fault("", "The quotes of the row do not match.", "quotes")) from None


def _put(item: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for name in path[:-1]:
        item = item.setdefault(name, {})
    item[path[-1]] = value


def read_json_item(record: bytes) -> Any:
    """The item on a line of NDJSON. Raises ``InvalidEntry``."""
    try:
        return msgspec.json.decode(record)
    except (msgspec.DecodeError, RecursionError):
        raise InvalidEntry(Fault("", "The line is not valid JSON.", "json")) from None
    except UnicodeError:
        raise InvalidEntry(_NOT_UTF8) from None


class _Named(msgspec.Struct):
    user_id: str


_decode_named = msgspec.json.Decoder(_Named).decode


def find_user_id(record: bytes, header: Header | None) -> str | None:
    """The user id of a record without looking at the rest, as far as it can be had: for keeping one user's records
    in order."""
    try:
        if header is None:
            return _decode_named(record).user_id
        return _split_cells(record)[header.user_id]
    except (msgspec.MsgspecError, RecursionError, UnicodeError, InvalidEntry, IndexError):
        return None

"""From a file's bytes to records: one line of NDJSON, or one row of CSV that may span lines.

A broken line must cost that line only. So a quote that never ends is not believed for longer than a record may be,
and a row of several lines that does not have the header's number of cells is taken for a broken first line; reading
goes on with the second. Nothing here holds more than a block in memory, however long a line is.
"""

import csv
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Final, NamedTuple

MAX_RECORD_BYTES: Final = 128 * 1024
RECORDS_PER_BLOCK: Final = 2_000
BYTES_PER_BLOCK: Final = 4 * 1024 * 1024
_SKIP_BYTES: Final = 1024 * 1024
_BLANK: Final = b" \t\r\n"


class Reject(NamedTuple):
    """A line that was not loaded: its number from 1, the field's path (or blank), and what is wrong; no data."""

    line: int
    field: str
    reason: str


class Place(NamedTuple):
    """A point between two records: bytes before it, and lines."""

    offset: int = 0
    line: int = 0


BEGINNING: Final = Place()


@dataclass(slots=True)
class Block:
    """Some consecutive records: ``records[n]`` begins on line ``lines[n]``. ``end`` is the place after them."""

    lines: list[int] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    end: Place = BEGINNING


class _Line(NamedTuple):
    number: int
    end: int
    data: bytes | None  # None: too long


def read_blocks(file: BinaryIO, start: Place, *, columns: int | None) -> Iterator[Block]:
    """The records of ``file`` from ``start`` on, blank ones left out. ``columns`` is the number of cells of a CSV
    row; ``None`` for NDJSON."""
    file.seek(start.offset)
    records = _read_records(file, start, columns)
    block, size = Block(end=start), 0
    for number, end, data, reason in records:
        if reason:
            block.rejects.append(Reject(number, "", reason))
        elif data.strip(_BLANK):
            block.lines.append(number)
            block.records.append(data)
            size += len(data)
        block.end = end
        if len(block.records) + len(block.rejects) >= RECORDS_PER_BLOCK or size >= BYTES_PER_BLOCK:
            yield block
            block, size = Block(end=end), 0
    if block.records or block.rejects or block.end != start:
        yield block


def _read_records(file: BinaryIO, start: Place, columns: int | None) -> Iterator[tuple[int, Place, bytes, str]]:
    lines = _Lines(file, start)
    while (line := lines.take()) is not None:
        number, end, data = line
        if data is None:
            yield number, Place(end, number), b"", f"The line is longer than {MAX_RECORD_BYTES:,} bytes."
        elif columns is None or data.count(b'"') % 2 == 0:
            yield number, Place(end, number), data, ""
        else:
            yield _join_lines(lines, line, columns)


def _join_lines(lines: "_Lines", first: _Line, columns: int) -> tuple[int, Place, bytes, str]:
    """The row that begins on ``first`` with a quote still open."""
    taken = [first]
    data, is_open = first.data or b"", True
    while is_open and len(data) <= MAX_RECORD_BYTES:
        line = lines.take()
        if line is None:
            break
        taken.append(line)
        if line.data is None:
            break
        data += line.data
        is_open ^= line.data.count(b'"') % 2 == 1
    last = taken[-1]
    if not is_open and len(data) <= MAX_RECORD_BYTES and _has_cells(data, columns):
        return first.number, Place(last.end, last.number), data, ""
    lines.put_back(taken[1:])
    return first.number, Place(first.end, first.number), b"", "A quoted cell does not end where it should."


def _has_cells(data: bytes, columns: int) -> bool:
    try:
        rows = list(csv.reader([data.decode()], strict=True))
    except (UnicodeDecodeError, csv.Error):
        return False
    return len(rows) == 1 and len(rows[0]) == columns


class _Lines:
    """The lines of a file, of which some can be put back."""

    def __init__(self, file: BinaryIO, start: Place) -> None:
        self._readline: Callable[[int], bytes] = file.readline
        self._offset, self._number = start
        self._returned: deque[_Line] = deque()

    def take(self) -> _Line | None:
        if self._returned:
            return self._returned.popleft()
        data: bytes | None = self._readline(MAX_RECORD_BYTES + 1)
        if not data:
            return None
        self._number += 1
        self._offset += len(data)
        if len(data) > MAX_RECORD_BYTES:
            self._skip(data)
            data = None
        return _Line(self._number, self._offset, data)

    def put_back(self, lines: list[_Line]) -> None:
        self._returned.extendleft(reversed(lines))

    def _skip(self, data: bytes) -> None:
        while data and not data.endswith(b"\n"):
            data = self._readline(_SKIP_BYTES)
            self._offset += len(data)

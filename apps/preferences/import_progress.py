"""How far an import has come, in a file beside the imported one, and the list of lines that were not loaded.

Both only ever say what is already committed, in the order of the file. Interrupted at any point, an import continued
from them loads every line and lists every bad one exactly once; at worst it stores some lines a second time, which
changes nothing.
"""

import csv
import hashlib
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from apps.preferences.import_formats import InvalidFile
from apps.preferences.import_framing import Place, Reject

_HEAD_BYTES: Final = 64 * 1024


class Progress(msgspec.Struct):
    """What is done: everything up to ``offset`` (bytes) and ``line``. ``size`` and ``head`` (a hash of the file's
    beginning) tell whether it is still the same file; ``rejects_size`` is the length of the list so far."""

    size: int
    head: str
    offset: int = 0
    line: int = 0
    outcomes: dict[str, int] = {}
    rejected: int = 0
    rejects_size: int = 0

    @property
    def place(self) -> Place:
        return Place(self.offset, self.line)


def begin(file: Path) -> Progress:
    """The progress of an import of ``file`` that has not begun."""
    with file.open("rb") as stream:
        head = hashlib.sha256(stream.read(_HEAD_BYTES)).hexdigest()
    return Progress(size=file.stat().st_size, head=head)


def load(path: Path, file: Path) -> Progress:
    """The progress stored at ``path``. Raises ``InvalidFile`` if there is none, or if it is of another file."""
    try:
        progress = msgspec.json.decode(path.read_bytes(), type=Progress)
    except FileNotFoundError:
        raise InvalidFile(f"There is nothing to resume: {path.name} does not exist.") from None
    except (OSError, msgspec.MsgspecError):
        raise InvalidFile(f"{path.name} cannot be read; start again without --resume.") from None
    fresh = begin(file)
    if (progress.size, progress.head) != (fresh.size, fresh.head):
        raise InvalidFile(f"The file has changed since {path.name} was written; start again without --resume.")
    return progress


def save(path: Path, progress: Progress) -> None:
    """Replace what is stored at ``path``, all at once."""
    temporary = path.with_name(f"{path.name}.new")
    temporary.write_bytes(msgspec.json.encode(progress))
    os.replace(temporary, path)  # noqa: PTH105 - as one step


class RejectList:
    """The file that lists lines not loaded: ``line,field,reason``, one row for each fault, in order."""

    def __init__(self, path: Path, size: int) -> None:
        """Continues the list at ``size`` bytes, dropping what is behind; 0 begins it anew."""
        self.path = path
        if size == 0 or not path.exists():
            path.write_bytes(b"line,field,reason\r\n")
        else:
            os.truncate(path, size)

    def append(self, rejects: Iterable[Reject]) -> int:
        """Adds ``rejects``; the length of the list afterwards, in bytes."""
        text = io.StringIO()
        csv.writer(text).writerows(rejects)
        with self.path.open("ab") as file:
            file.write(text.getvalue().encode())
            return file.tell()

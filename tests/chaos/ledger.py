"""The client's ledger: what was answered 202, on disk before it counts; and what every single answer was."""

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import msgspec


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """A notification the platform took on. ``at`` is Unix seconds of the 202. ``stream`` and ``place`` are set for one
    that has an ordering key: ``place`` counts up in the order in which the stream's notifications were accepted."""

    key: str
    notification_id: str
    delivery_ids: tuple[str, ...]
    at: float
    requests: int
    stream: str = ""
    place: int = 0


class GivenUp(msgspec.Struct, frozen=True, kw_only=True):
    """A notification the client asked for in vain until its patience ended."""

    key: str
    reason: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One request: when it was sent, how long the answer took, its status (0: none came), items it carried."""

    at: float
    latency_s: float
    status: int
    items: int = 1


Record = TypeVar("Record", bound=msgspec.Struct)


class LedgerWriter:
    """Appends records to a file, for several threads. With ``is_synced`` they are on disk when ``append`` returns."""

    def __init__(self, path: Path, *, is_synced: bool) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._is_synced = is_synced
        self._lock = threading.Lock()

    def append(self, records: Iterable[msgspec.Struct]) -> None:
        lines = b"".join(msgspec.json.encode(record) + b"\n" for record in records)
        with self._lock:
            os.write(self._fd, lines)
            if self._is_synced:
                os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


def read_records(path: Path, kind: type[Record]) -> list[Record]:
    """The records of a file; none if there is no such file. The torn last line of a killed writer is left out."""
    if not path.is_file():
        return []
    decoder = msgspec.json.Decoder(kind)
    return [decoder.decode(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]

"""What every provider accepted, one JSON line each, on disk. The independent witness of the fault suite.

A line is ``{n, at, provider, delivery_id, provider_message_id, address_sha256, bytes}``: ``n`` counts from 1 without
gaps, ``at`` is Unix ms, ``bytes`` the size of the request's body. No address, no content.
"""

import os
import sys
from hashlib import sha256
from pathlib import Path

import orjson

FLUSH_INTERVAL_S = 0.025


def hash_address(address: str) -> str:
    """Hex SHA-256 of the address as it came in: a join key for tests, not a protection against guessing."""
    return sha256(address.encode()).hexdigest()


class Ledger:
    """Append-only file behind a buffer; the server flushes it every ``FLUSH_INTERVAL_S`` and when it stops.

    Used by one thread. A torn last line, left by a kill in the middle of a write, is cut off on opening.
    """

    def __init__(self, path: Path, *, is_fsynced: bool = False) -> None:
        self._path = path
        self._is_fsynced = is_fsynced
        self._buffer: list[bytes] = []
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._has_complained = False
        self.last_n = self._recover()

    def append(
        self, *, at_ms: int, provider: str, delivery_id: str, message_id: str, address_sha256: str, size: int
    ) -> int:
        """Records one accepted message and returns its number."""
        self.last_n += 1
        self._buffer.append(
            orjson.dumps(
                {
                    "n": self.last_n,
                    "at": at_ms,
                    "provider": provider,
                    "delivery_id": delivery_id,
                    "provider_message_id": message_id,
                    "address_sha256": address_sha256,
                    "bytes": size,
                },
                option=orjson.OPT_APPEND_NEWLINE,
            )
        )
        return self.last_n

    def flush(self) -> None:
        """Writes what is buffered. A full disk keeps it buffered and is reported once on standard error."""
        if not self._buffer:
            return
        pending = b"".join(self._buffer)
        try:
            written = os.write(self._fd, pending)
            if self._is_fsynced:
                os.fdatasync(self._fd)
        except OSError as error:
            if not self._has_complained:
                sys.stderr.write(f"sandbox: cannot write {self._path}: {error.strerror}\n")
            self._has_complained = True
            return
        self._buffer = [pending[written:]] if written < len(pending) else []

    def read(self, *, after: int, limit: int) -> bytes:
        """Up to ``limit`` lines with ``n`` greater than ``after``, oldest first."""
        self.flush()
        with self._path.open("rb") as file:
            _seek_after(file.fileno(), after)
            lines: list[bytes] = []
            for line in file:
                if len(lines) == limit or not line.endswith(b"\n"):
                    break
                lines.append(line)
        return b"".join(lines)

    def clear(self) -> None:
        """Empties the file; numbering starts again at 1."""
        self._buffer = []
        os.ftruncate(self._fd, 0)
        self.last_n = 0

    def close(self) -> None:
        self.flush()
        os.close(self._fd)

    def _recover(self) -> int:
        end = os.fstat(self._fd).st_size
        tail_start = max(0, end - 65_536)
        tail = os.pread(self._fd, end - tail_start, tail_start)
        whole = tail.rfind(b"\n") + 1
        if whole < len(tail):
            os.ftruncate(self._fd, tail_start + whole)
        lines = tail[:whole].splitlines()
        return int(orjson.loads(lines[-1])["n"]) if lines else 0


def _seek_after(fd: int, after: int) -> None:
    """Positions ``fd`` at the first line whose ``n`` exceeds ``after``, by bisecting byte offsets: ``n`` only grows."""
    low, high = 0, os.fstat(fd).st_size
    while low < high:
        middle = (low + high) // 2
        start, number = _line_from(fd, middle)
        if number is None or number > after:
            high = middle
        else:
            low = start + 1
    start, _ = _line_from(fd, low)
    os.lseek(fd, start, os.SEEK_SET)


def _line_from(fd: int, offset: int) -> tuple[int, int | None]:
    """Start and ``n`` of the first line that starts at or after ``offset``; ``n`` is ``None`` at the end."""
    chunk = os.pread(fd, 8_192, max(0, offset - 1))
    start = 0 if offset == 0 else chunk.find(b"\n") + 1
    if offset and start == 0:
        return os.fstat(fd).st_size, None
    end = chunk.find(b"\n", start)
    position = max(0, offset - 1) + start
    return (position, int(orjson.loads(chunk[start:end])["n"])) if end > start else (position, None)

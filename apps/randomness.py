"""Random bytes for those who want a few of them often: one system call fetches as many as a hundred of them take. The
call lets other threads run, so under load each costs the caller more than its own time."""

import os
import threading
from uuid import UUID

_STOCK_BYTES = 1024


class _Stock(threading.local):
    """A thread's own."""

    def __init__(self) -> None:
        self.rest = memoryview(b"")


_stock = _Stock()


def random_bytes(count: int) -> bytes:
    """``count`` bytes of the operating system's generator, at most 1,024; nobody gets the same ones."""
    if len(_stock.rest) < count:
        _stock.rest = memoryview(os.urandom(_STOCK_BYTES))
    taken = bytes(_stock.rest[:count])
    _stock.rest = _stock.rest[count:]
    return taken


def random_uuid() -> UUID:
    """A UUID of version 4 (RFC 9562 §5.4)."""
    return UUID(bytes=random_bytes(16), version=4)


def _begin_anew() -> None:
    global _stock
    _stock = _Stock()


os.register_at_fork(after_in_child=_begin_anew)  # a child must not hand out what its parent does

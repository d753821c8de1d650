"""Cutting connections. The server has no call for it, so it is done on the sockets of this very process.

A provider that goes away in the middle of a call leaves its client without an answer; that cannot be played with any
HTTP status.
"""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def cut_connection(peer: str) -> bool:
    """Shuts down the connection from ``peer`` (``host:port``), and with it every HTTP/2 stream it carries."""
    host, _, port = peer.rpartition(":")
    wanted = (host.strip("[]"), int(port))
    return any(_cut(connection) for connection, remote in _connections() if remote[:2] == wanted)


def cut_connections_to(ports: set[int]) -> None:
    """Shuts down every accepted connection to one of our listening ``ports``."""
    for connection, _ in _connections():
        if connection.getsockname()[1] in ports:
            _cut(connection)


def _connections() -> Iterator[tuple[socket.socket, tuple[Any, ...]]]:
    """The connected TCP sockets of this process with their remote addresses. Each is a duplicate: while it is held, it
    cannot come to stand for another connection."""
    for entry in Path("/dev/fd").iterdir():
        try:
            duplicate = os.dup(int(entry.name))
        except OSError:
            continue
        try:
            connection = socket.socket(fileno=duplicate)
        except OSError:
            os.close(duplicate)
            continue
        with connection:
            try:
                remote = connection.getpeername()
            except OSError:
                continue
            if connection.family in {socket.AF_INET, socket.AF_INET6}:
                yield connection, remote


def _cut(connection: socket.socket) -> bool:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return False
    return True

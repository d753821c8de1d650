"""Which TCP ports on loopback the local stack listens on."""

import itertools
import random
import socket
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

from notify_project.local.errors import LocalError

LOOPBACK = "127.0.0.1"
LOWEST = 12_000  # above those that well-known servers listen on
TRIES = 20
OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
# Never the same one twice in a row, and hardly that of another process that looks for one now.
_steps = itertools.count(random.randrange(1 << 16))  # noqa: S311 (no secret)
_DEFAULTS = {"web": 8000, "flower": 5555, "sandbox": 8443, "sandbox_http": 8025, "sandbox_smtp": 8587}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The ports people see. Each has a variable of the same name: ``WEB_PORT``, ``FLOWER_PORT``, …"""

    web: int
    flower: int
    sandbox: int
    sandbox_http: int
    sandbox_smtp: int

    @classmethod
    def free(cls) -> Self:
        """Any free ports."""
        return cls(**{field.name: free_port() for field in fields(cls)})

    @classmethod
    def kept(cls, former: Mapping[str, str]) -> Self:
        """The ports that ``former`` names (``WEB_PORT``, …) as far as they are free, else any free ones."""
        return cls(**{field.name: free_port(_former_port(former, field.name)) for field in fields(cls)})

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """The usual ports, or what ``WEB_PORT`` and its kin say; free ones for ``NOTIFY_PORTS=auto``."""
        if environ.get("NOTIFY_PORTS") == "auto":
            return cls.free()
        return cls(**{name: _read_port(environ, name, default) for name, default in _DEFAULTS.items()})

    def check_free(self) -> None:
        """``LocalError`` naming the first port that something else listens on."""
        for field in fields(self):
            port = getattr(self, field.name)
            if not is_port_free(port):
                raise LocalError(
                    f"Port {port} is taken: stop what listens there, or choose another, e.g. "
                    f"`{_variable(field.name)}={free_port()} make run` (NOTIFY_PORTS=auto chooses all)"
                )


def _variable(name: str) -> str:
    return f"{name.upper()}_PORT"


def _former_port(former: Mapping[str, str], name: str) -> int | None:
    try:
        return _read_port(former, name, 0)
    except LocalError:
        return None


def _read_port(environ: Mapping[str, str], name: str, default: int) -> int:
    value = environ.get(_variable(name), "").strip() or str(default)
    if not (value.isascii() and value.isdigit() and 0 < int(value) < 65536):
        raise LocalError(f"{_variable(name)} must be a port number from 1 to 65535, not {value!r}")
    return int(value)


def free_port(preferred: int | None = None) -> int:
    """A TCP port that is free on loopback now: ``preferred`` if that is free, else any."""
    if preferred is not None and is_port_free(preferred):
        return preferred
    # Not one that the system gives to outgoing connections: it could do so before the server listens.
    below = _first_outgoing_port()
    for _ in range(TRIES if below > LOWEST else 0):
        port = LOWEST + next(_steps) % (below - LOWEST)
        if is_port_free(port):
            return port
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        any_port: int = probe.getsockname()[1]
        return any_port


def _first_outgoing_port() -> int:
    """Where Linux's range of ports for outgoing connections begins (ip(7), ``ip_local_port_range``)."""
    try:
        return int(OUTGOING.read_text().split()[0])
    except OSError:
        return 0


def is_port_free(port: int) -> bool:
    """Whether a server could listen on ``port`` on loopback now."""
    with socket.socket() as probe:
        # As servers do; without it a port in TIME_WAIT of the last run would count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def stored_port(path: Path) -> int:
    """The port kept in ``path`` while it is free, else another free one, kept from now on."""
    kept = int(path.read_text()) if path.is_file() else None
    port = free_port(kept)
    if port != kept:
        path.write_text(str(port))
    return port

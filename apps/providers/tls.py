"""TLS connections to the providers, made within a time."""

import socket
import ssl
import threading
import time
from contextlib import suppress
from functools import lru_cache
from typing import Any


class ConnectError(Exception):
    """No connection. The text says why and holds no address: it ends up in logs."""


@lru_cache(maxsize=8)
def client_context(ca_file: str, *protocols: str) -> ssl.SSLContext:
    """For connections on which one of ``protocols`` (ALPN) is spoken. Certificates are always verified."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(protocols)
    return context


def connect(host: str, port: int, context: ssl.SSLContext, timeout_s: float) -> ssl.SSLSocket:
    """A socket after the handshake, non-blocking. Takes ``timeout_s`` at most; raises ``ConnectError``."""
    deadline = time.monotonic() + timeout_s
    addresses = _resolve(host, port, timeout_s)
    for left in range(len(addresses), 0, -1):
        family, kind, protocol, _, address = addresses[-left]
        raw = socket.socket(family, kind, protocol)
        try:
            # An address that is silent leaves the others a share of the time.
            raw.settimeout(max(0.001, (deadline - time.monotonic()) / left))
            raw.connect(address)
        except OSError as error:
            raw.close()
            if left == 1:
                reason = "timed out" if isinstance(error, TimeoutError) else "connection refused or unreachable"
                raise ConnectError(reason) from None
            continue
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            raw.settimeout(max(0.001, deadline - time.monotonic()))
            secure = context.wrap_socket(raw, server_hostname=host)
        except OSError as error:
            raw.close()
            raise ConnectError(_handshake_reason(error)) from None
        secure.setblocking(False)
        return secure
    raise ConnectError("host name not found")


def _handshake_reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return "certificate not trusted"
    return "timed out" if isinstance(error, TimeoutError) else "TLS handshake failed"


def _resolve(host: str, port: int, timeout_s: float) -> list[Any]:
    """What ``getaddrinfo`` says. It knows no time-out, so it is asked by a thread that may be left behind; but for what
    is an address already."""
    with suppress(OSError, UnicodeError):
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    found: list[Any] = []

    def ask() -> None:
        with suppress(OSError, UnicodeError):
            found.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))

    asking = threading.Thread(target=ask, name="resolve", daemon=True)
    asking.start()
    asking.join(timeout_s)
    if asking.is_alive():
        raise ConnectError("host name not found in time")
    if not found:
        raise ConnectError("host name not found")
    return found

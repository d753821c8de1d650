"""A browser's push subscription, and which push services we call for one.

The endpoint is a URL that a stranger's browser made up. Calling whatever it names would let anybody send requests from
inside our network (server-side request forgery), so only known push services are called, by name.
"""

import ipaddress
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from apps.providers import es256
from apps.providers.adapters.aes128gcm import POINT_BYTES, SECRET_BYTES

HTTPS_PORT = 443
MAX_ENDPOINT_LENGTH = 2_047
# As strict as endpoints are, so that no other reader of the URL can find another host in it than we do: no user, no
# fragment, no backslash, nothing but ASCII.
_ENDPOINT = re.compile(
    r"https://(?P<host>[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?)(?::(?P<port>[0-9]{1,5}))?"
    r"(?:[/?][A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?"
)
_HOST = re.compile(r"(?P<host>[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?)(?::(?P<port>[0-9]{1,5}))?")


class MalformedSubscription(ValueError):
    """Not a subscription as ``PushSubscription.toJSON()`` gives it. The text repeats nothing of it."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """``origin`` is the push service's (RFC 6454), ``receiver`` the browser's public key as a point of 65 bytes,
    ``secret`` its authentication secret of 16."""

    endpoint: str = field(repr=False)
    host: str
    port: int
    receiver: bytes = field(repr=False)
    secret: bytes = field(repr=False)

    @property
    def origin(self) -> str:
        return f"https://{self.host}" if self.port == HTTPS_PORT else f"https://{self.host}:{self.port}"


def read_subscription(text: str) -> Subscription:
    """The subscription in ``text``: ``{"endpoint", "keys": {"p256dh", "auth"}}``, other members ignored. Raises
    ``MalformedSubscription``; whether the key is a point of the curve shows when it is used."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("keys"), dict):
        raise MalformedSubscription("not a subscription's JSON with endpoint and keys")
    endpoint = content.get("endpoint")
    match = _ENDPOINT.fullmatch(endpoint) if isinstance(endpoint, str) else None
    if match is None or len(match[0]) > MAX_ENDPOINT_LENGTH:
        raise MalformedSubscription("the endpoint is not an https URL")
    port = int(match["port"] or HTTPS_PORT)
    receiver = _read_bytes(content["keys"].get("p256dh"), POINT_BYTES)
    secret = _read_bytes(content["keys"].get("auth"), SECRET_BYTES)
    if receiver is None or secret is None or not 0 < port < 65_536:
        raise MalformedSubscription("p256dh must be 65 bytes and auth 16, as base64url")
    return Subscription(match[0], match["host"], port, receiver, secret)


def _read_bytes(value: object, length: int) -> bytes | None:
    if not isinstance(value, str) or not value.isascii() or len(value) > 2 * length:
        return None
    try:
        raw = es256.decode_base64url(value)
    except ValueError:
        return None
    return raw if len(raw) == length else None


class AllowedServices:
    """The push services that may be called: each entry is a host, which stands for its subdomains as well, or an IP
    address, which stands for itself; ``:port`` follows where it is not 443."""

    def __init__(self, entries: Sequence[str]) -> None:
        """Raises ``ValueError`` naming the entry that is none."""
        self._entries: list[tuple[str, int]] = []
        for entry in entries:
            match = _HOST.fullmatch(entry.strip().lower().removeprefix("."))
            if match is None or not 0 < int(match["port"] or HTTPS_PORT) < 65_536:
                raise ValueError(f"{entry!r} is not a host such as push.example.com or push.example.com:8443")
            self._entries.append((match["host"], int(match["port"] or HTTPS_PORT)))

    def allow(self, subscription: Subscription) -> bool:
        """Whether the subscription's endpoint belongs to one of them."""
        host, port = subscription.host, subscription.port
        return any(
            port == allowed_port and (host == allowed or (host.endswith(f".{allowed}") and not _is_address(allowed)))
            for allowed, allowed_port in self._entries
        )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True

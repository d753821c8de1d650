"""Whose word about the caller counts: the proxies that ``TRUSTED_PROXIES`` names, and nobody else's."""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

Network = IPv4Network | IPv6Network


def believe_proxies(meta: dict[str, Any], networks: Sequence[Network]) -> None:
    """Put the caller's address into ``REMOTE_ADDR``: the last of ``X-Forwarded-For`` that is no trusted proxy's.

    ``X-Forwarded-Proto`` from anybody but a trusted proxy is dropped."""
    if not _is_within(meta.get("REMOTE_ADDR", ""), networks):
        meta.pop("HTTP_X_FORWARDED_PROTO", None)
        return
    # Each proxy appends whom it heard from; what stands before the first untrusted one is that one's claim.
    for address in reversed(meta.get("HTTP_X_FORWARDED_FOR", "").split(",")):
        word = address.strip()
        if not _is_address(word):
            return
        meta["REMOTE_ADDR"] = word
        if not _is_within(word, networks):
            return


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_within(text: str, networks: Sequence[Network]) -> bool:
    if not networks or not _is_address(text):
        return False
    address = ip_address(text)
    address = getattr(address, "ipv4_mapped", None) or address
    return any(address in network for network in networks)

"""The proof a device gives that it received a push: an HMAC over the delivery's id, sent along in the push itself."""

import binascii
import hashlib
import hmac
from functools import lru_cache

ACK_BYTES = 16
BLOCK_BYTES = 64  # of SHA-256
_INNER_PAD = bytes(byte ^ 0x36 for byte in range(256))
_OUTER_PAD = bytes(byte ^ 0x5C for byte in range(256))
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def compute_ack(key: str, delivery_id: str) -> str:
    """HMAC-SHA-256 of ``delivery_id`` under ``key``, its first 16 bytes as unpadded base64url: 22 characters."""
    inner, outer = _keyed(key)
    inner, outer = inner.copy(), outer.copy()
    inner.update(delivery_id.encode())
    outer.update(inner.digest())
    encoded = binascii.b2a_base64(outer.digest()[:ACK_BYTES], newline=False)
    return encoded.translate(_URL_SAFE, b"=").decode()


@lru_cache(maxsize=4)
def _keyed(key: str) -> "tuple[hashlib._Hash, hashlib._Hash]":
    """Both hashes of RFC 2104, with the key in: a push costs two copies, a third of what ``hmac`` takes."""
    block = key.encode()
    if len(block) > BLOCK_BYTES:
        block = hashlib.sha256(block).digest()
    block = block.ljust(BLOCK_BYTES, b"\0")
    return hashlib.sha256(block.translate(_INNER_PAD)), hashlib.sha256(block.translate(_OUTER_PAD))


def is_ack(key: str, delivery_id: str, ack: str) -> bool:
    """Whether ``ack`` is that proof; ``False`` without a key."""
    return bool(key) and hmac.compare_digest(compute_ack(key, delivery_id).encode(), ack.encode(errors="replace"))

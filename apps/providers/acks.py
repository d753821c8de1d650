"""The proof a device gives that it received a push: an HMAC over the delivery's id, sent along in the push itself."""

import binascii
import hmac

from apps.keyed_hash import hmac_sha256

ACK_BYTES = 16
_URL_SAFE = bytes.maketrans(b"+/", b"-_")


def compute_ack(key: str, delivery_id: str) -> str:
    """HMAC-SHA-256 of ``delivery_id`` under ``key``, its first 16 bytes as unpadded base64url: 22 characters."""
    digest = hmac_sha256(key.encode(), delivery_id.encode())
    encoded = binascii.b2a_base64(digest[:ACK_BYTES], newline=False)
    return encoded.translate(_URL_SAFE, b"=").decode()


def is_ack(key: str, delivery_id: str, ack: str) -> bool:
    """Whether ``ack`` is that proof; ``False`` without a key."""
    return bool(key) and hmac.compare_digest(compute_ack(key, delivery_id).encode(), ack.encode(errors="replace"))

"""The proof a device gives that it received a push: an HMAC over the delivery's id, sent along in the push itself."""

import base64
import hashlib
import hmac

ACK_BYTES = 16


def compute_ack(key: str, delivery_id: str) -> str:
    """HMAC-SHA-256 of ``delivery_id`` under ``key``, its first 16 bytes as unpadded base64url: 22 characters."""
    digest = hmac.digest(key.encode(), delivery_id.encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest[:ACK_BYTES]).rstrip(b"=").decode()


def is_ack(key: str, delivery_id: str, ack: str) -> bool:
    """Whether ``ack`` is that proof; ``False`` without a key."""
    return bool(key) and hmac.compare_digest(compute_ack(key, delivery_id).encode(), ack.encode(errors="replace"))

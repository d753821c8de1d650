"""A collapse key in the words of the services that limit its form. Equal keys stay equal, others differ."""

import base64
import hashlib
import re

# https://developer.apple.com/documentation/usernotifications/sending-notification-requests-to-apns
APNS_COLLAPSE_ID_BYTES = 64
_TOPIC = re.compile(r"[A-Za-z0-9_-]{1,32}")  # RFC 8030, 5.4


def apns_collapse_id(key: str) -> str:
    """At most 64 bytes: ``key``, or its hash if it is longer."""
    return key if len(key) <= APNS_COLLAPSE_ID_BYTES else hashlib.sha256(key.encode()).hexdigest()


def webpush_topic(key: str) -> str:
    """At most 32 characters of the base64url alphabet: ``key``, or its hash if it is anything else."""
    if _TOPIC.fullmatch(key):
        return key
    return base64.urlsafe_b64encode(hashlib.sha256(key.encode()).digest()[:24]).decode()

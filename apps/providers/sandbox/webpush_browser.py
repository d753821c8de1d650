"""The browsers of the sandbox. A browser's keys follow from its id and a secret, so that subscriptions outlive a
restart without being kept."""

import hmac
import secrets
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from apps.providers.sandbox.credentials import P256_ORDER, encode_base64url

_SALT_BYTES = 16
_TAG_BYTES = 16
_MAC_BYTES = 9


class UndecryptableError(Exception):
    """A message that the browser cannot read."""


@dataclass(frozen=True, slots=True)
class Browser:
    """One subscription's private side."""

    private_key: ec.EllipticCurvePrivateKey = field(repr=False)
    public_point: bytes
    auth: bytes = field(repr=False)

    def describe_keys(self) -> dict[str, str]:
        """``keys`` of ``PushSubscription.toJSON()``."""
        return {"p256dh": encode_base64url(self.public_point), "auth": encode_base64url(self.auth)}


def make_id(secret: bytes, prefix: str) -> str:
    """An id of a browser that ``open_browser`` knows as ours."""
    name = f"{prefix}{secrets.token_urlsafe(12)}"
    return f"{name}.{_mac(secret, name)}"


@lru_cache(maxsize=10_000)
def open_browser(secret: bytes, browser_id: str) -> Browser | None:
    """The browser called ``browser_id``, ``None`` if it is not one of ours."""
    name, _, mac = browser_id.rpartition(".")
    if not hmac.compare_digest(mac.encode(), _mac(secret, name).encode()):
        return None
    number = int.from_bytes(_derive(secret, f"key|{name}"), "big") % (P256_ORDER - 1) + 1
    key = ec.derive_private_key(number, ec.SECP256R1())
    point = key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    return Browser(key, point, _derive(secret, f"auth|{name}")[:16])


def decrypt(browser: Browser, body: bytes) -> bytes:
    """The plaintext of a message (RFC 8291, RFC 8188); raises ``UndecryptableError``."""
    salt, record_size, id_length = body[:_SALT_BYTES], int.from_bytes(body[16:20], "big"), body[20] if body[20:] else 0
    sender, record = body[21 : 21 + id_length], body[21 + id_length :]
    if len(record) <= _TAG_BYTES or len(record) > record_size:  # a push message is one record
        raise UndecryptableError
    try:
        sender_key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), sender)
        shared = browser.private_key.exchange(ec.ECDH(), sender_key)
        info = b"WebPush: info\x00" + browser.public_point + sender
        keying = _hkdf(shared, salt=browser.auth, info=info, length=32)
        key = _hkdf(keying, salt=salt, info=b"Content-Encoding: aes128gcm\x00", length=16)
        nonce = _hkdf(keying, salt=salt, info=b"Content-Encoding: nonce\x00", length=12)
        padded = AESGCM(key).decrypt(nonce, record, None).rstrip(b"\x00")
    except (ValueError, InvalidTag):
        raise UndecryptableError from None
    if padded[-1:] != b"\x02":  # the last record's delimiter
        raise UndecryptableError
    return padded[:-1]


def _mac(secret: bytes, name: str) -> str:
    return encode_base64url(_derive(secret, f"id|{name}")[:_MAC_BYTES])


def _derive(secret: bytes, label: str) -> bytes:
    return hmac.digest(secret, label.encode(), sha256)


def _hkdf(keying: bytes, *, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=salt, info=info).derive(keying)

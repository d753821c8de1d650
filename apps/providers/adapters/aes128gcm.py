"""Message encryption for Web Push (RFC 8291) in the aes128gcm content coding (RFC 8188): one record, no padding."""

import os

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from apps.providers import es256

MAX_BODY_BYTES = 4_096  # what every push service takes (RFC 8291, 4; RFC 8030, 7.2)
POINT_BYTES = 65
SECRET_BYTES = 16
SALT_BYTES = 16
_LAST_RECORD = b"\x02"
_TAG_BYTES = 16
_HEADER_BYTES = SALT_BYTES + 4 + 1 + POINT_BYTES
MAX_PLAINTEXT_BYTES = MAX_BODY_BYTES - _HEADER_BYTES - len(_LAST_RECORD) - _TAG_BYTES  # 3,993


def encrypt(
    plaintext: bytes,
    *,
    receiver: bytes,
    secret: bytes,
    salt: bytes | None = None,
    sender_key: ec.EllipticCurvePrivateKey | None = None,
) -> bytes:
    """``plaintext`` for the browser whose public key is the point ``receiver`` and whose authentication secret is
    ``secret`` (16 bytes). ``salt`` and ``sender_key`` are for one message only and made here, but for tests.

    Raises ``ValueError`` when ``receiver`` is no point of P-256."""
    public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), receiver)
    salt = os.urandom(SALT_BYTES) if salt is None else salt
    sender_key = ec.generate_private_key(ec.SECP256R1()) if sender_key is None else sender_key
    sender = es256.public_point(sender_key)
    shared = sender_key.exchange(ec.ECDH(), public)
    keying = _derive(shared, secret, b"WebPush: info\x00" + receiver + sender, 32)
    content_key = _derive(keying, salt, b"Content-Encoding: aes128gcm\x00", 16)
    nonce = _derive(keying, salt, b"Content-Encoding: nonce\x00", 12)
    record = AESGCM(content_key).encrypt(nonce, plaintext + _LAST_RECORD, None)
    return salt + MAX_BODY_BYTES.to_bytes(4, "big") + bytes([POINT_BYTES]) + sender + record


def _derive(keying: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=salt, info=info).derive(keying)

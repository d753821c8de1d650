"""JSON Web Tokens signed with ES256 (RFC 7518, 3.4): the same claims make the same token.

Signatures are deterministic (RFC 6979), so processes that agree on the claims agree on the token without a word: no
cache is needed for all of them to show a provider one and the same.
"""

import base64
import json
from collections.abc import Mapping

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

COORDINATE_BYTES = 32
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256 (NIST SP 800-186, 3.2.1.3)


def load_private_key(text: str) -> ec.EllipticCurvePrivateKey:
    """The P-256 key in ``text``: PEM (an Apple ``.p8`` file is one), or 32 bytes as base64url, which is how tools
    write a VAPID key. Raises ``ValueError`` with what is wrong, never with a part of the key."""
    if "-----BEGIN" in text:
        try:
            key = serialization.load_pem_private_key(text.strip().encode(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise ValueError("is no private key in PEM form without a password") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ValueError("is not a P-256 key")
        return key
    try:
        raw = decode_base64url(text.strip())
    except ValueError:
        raw = b""
    number = int.from_bytes(raw, "big")
    if len(raw) != COORDINATE_BYTES or not 0 < number < _ORDER:
        raise ValueError("is neither PEM nor 32 bytes as base64url")
    return ec.derive_private_key(number, ec.SECP256R1())


def public_point(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The public key as an uncompressed point: 65 bytes (SEC 1, 2.3.3)."""
    return key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)


def sign(key: ec.EllipticCurvePrivateKey, claims: Mapping[str, object], *, key_id: str = "") -> str:
    """A compact JWT (RFC 7519) of ``claims``; ``key_id`` becomes its ``kid``."""
    header = {"alg": "ES256", "kid": key_id, "typ": "JWT"} if key_id else {"alg": "ES256", "typ": "JWT"}
    signed = f"{_encode_json(header)}.{_encode_json(claims)}"
    der = key.sign(signed.encode(), ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    signature = b"".join(part.to_bytes(COORDINATE_BYTES, "big") for part in decode_dss_signature(der))
    return f"{signed}.{encode_base64url(signature)}"


def encode_base64url(raw: bytes) -> str:
    """Without padding (RFC 7515, 2)."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode_base64url(text: str) -> bytes:
    """With or without padding, in the URL-safe or the ordinary alphabet; raises ``ValueError`` for anything else."""
    plain = text.rstrip("=").replace("+", "-").replace("/", "_")
    return base64.b64decode(plain + "=" * (-len(plain) % 4), altchars=b"-_", validate=True)


def _encode_json(value: Mapping[str, object]) -> str:
    return encode_base64url(json.dumps(value, separators=(",", ":")).encode())

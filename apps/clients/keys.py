"""Making and checking key material: pure functions over the pepper. No secret made here is ever stored or logged."""

import base64
import hmac
import re
import secrets
import string
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from django.db.models import TextChoices

from apps.keyed_hash import hmac_sha256

PREFIX_MARK = "nk_"
_PREFIX_RANDOM = 12
_SECRET_BYTES = 32
_ALPHABET = string.ascii_letters + string.digits
_API_KEY = re.compile(r"(nk_[A-Za-z0-9]{12})\.[A-Za-z0-9_-]{43}", re.ASCII)
MIN_RSA_BITS = 2048

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


class Algorithm(TextChoices):
    """Signature algorithms of a JWT. A key has exactly one; the token's own header never chooses."""

    RS256 = "RS256", "RS256 (RSA, SHA-256)"
    ES256 = "ES256", "ES256 (ECDSA, P-256)"
    EDDSA = "EdDSA", "EdDSA (Ed25519)"
    HS256 = "HS256", "HS256 (shared secret)"


@dataclass(frozen=True, slots=True, repr=False)
class NewApiKey:
    """A fresh key: ``text`` (``prefix.secret``) is for the client, once; ``prefix`` and ``digest`` are for us."""

    text: str
    prefix: str
    digest: bytes


def make_api_key(pepper: str) -> NewApiKey:
    """A random API key with 256 bits of secret."""
    prefix = PREFIX_MARK + "".join(secrets.choice(_ALPHABET) for _ in range(_PREFIX_RANDOM))
    text = f"{prefix}.{secrets.token_urlsafe(_SECRET_BYTES)}"
    return NewApiKey(text, prefix, digest_api_key(text, pepper))


def read_prefix(text: str) -> str | None:
    """The prefix of something shaped like an API key, else None."""
    match = _API_KEY.fullmatch(text)
    return match[1] if match else None


def digest_api_key(text: str, pepper: str) -> bytes:
    """HMAC-SHA-256 of the whole key under the pepper: a copy of the database alone cannot be tried against."""
    return hmac_sha256(pepper.encode(), b"api-key|" + text.encode())


def is_api_key(text: str, digest: bytes, pepper: str) -> bool:
    """Whether ``text`` is the key that ``digest`` was made of, in constant time."""
    return hmac.compare_digest(digest_api_key(text, pepper), digest)


def make_kid() -> str:
    """A fresh key id. Ids are never used again: an HS256 secret hangs on its id."""
    return secrets.token_urlsafe(9)


def derive_hs256_secret(kid: str, pepper: str) -> str:
    """The HS256 secret of key ``kid``: 43 base64url characters, which are themselves the HMAC key (as ASCII).

    Derived by HKDF (RFC 5869) and never stored: the database holds nothing a token could be signed with.
    """
    raw = HKDF(SHA256(), length=32, salt=None, info=b"jwt-hs256|" + kid.encode()).derive(pepper.encode())
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def load_public_key(pem: str, algorithm: str) -> PublicKey:
    """The public key in ``pem``, which must suit ``algorithm``; raises ``ValueError`` with what to mend."""
    if "PRIVATE KEY" in pem:
        raise ValueError("This is a private key: keep it and give the public key (-----BEGIN PUBLIC KEY-----).")
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("Not a public key in PEM form (-----BEGIN PUBLIC KEY-----).") from None
    return check_public_key(key, algorithm)


def check_public_key(key: object, algorithm: str) -> PublicKey:
    """``key`` if it is one that ``algorithm`` verifies with; raises ``ValueError``. Sizes: RFC 7518, 3.3-3.4."""
    if algorithm == Algorithm.RS256 and isinstance(key, rsa.RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            raise ValueError(f"An RSA key needs at least {MIN_RSA_BITS} bits; this one has {key.key_size}.")
        return key
    if algorithm == Algorithm.ES256 and isinstance(key, ec.EllipticCurvePublicKey):
        if not isinstance(key.curve, ec.SECP256R1):
            raise ValueError(f"ES256 needs a key on the curve P-256; this one is on {key.curve.name}.")
        return key
    if algorithm == Algorithm.EDDSA and isinstance(key, ed25519.Ed25519PublicKey):
        return key
    raise ValueError(f"The key does not suit {algorithm}.")

"""AES-256-GCM for every personal field, and the blind index that finds an address without decrypting.

A blob is ``version (1 byte) | key id (1 byte) | nonce (12) | ciphertext | tag (16)``. Its additional data is
``table|column|row key``, so a blob moved to another row or column does not decrypt. The row key comes last
because a caller's id may hold a ``|``.

Nonces are random: NIST SP 800-38D 8.3 allows 2**32 encryptions under one key before the chance of a repeat
passes 2**-32. Give PII_KEYS a new active key in time; old keys stay readable.
"""

import base64
import binascii
from functools import lru_cache
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from apps.keyed_hash import hmac_sha256
from apps.preferences import addresses
from apps.randomness import random_bytes

VERSION: Final = 1
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
HEADER_BYTES: Final = 2 + NONCE_BYTES
OVERHEAD_BYTES: Final = HEADER_BYTES + TAG_BYTES
BLIND_INDEX_BYTES: Final = 32
BLIND_INDEX_KEY_MIN_LENGTH: Final = 16


class CipherError(Exception):
    """A blob that cannot be decrypted. The text names the fault, never the content."""


class Keyring:
    """The keys of ``PII_KEYS``: one encrypts, all decrypt."""

    __slots__ = ("_active", "_header", "_keys", "active")

    def __init__(self, keys: dict[int, bytes], active: int) -> None:
        self.active = active
        self._keys = {key_id: AESGCM(key) for key_id, key in keys.items()}
        self._active = self._keys[active]
        self._header = bytes((VERSION, active))

    @property
    def ids(self) -> list[int]:
        return sorted(self._keys)

    def encrypt(self, plaintext: bytes, aad: str) -> bytes:
        nonce = random_bytes(NONCE_BYTES)
        return self._header + nonce + self._active.encrypt(nonce, plaintext, aad.encode())

    def decrypt(self, blob: bytes, aad: str) -> bytes:
        if len(blob) < OVERHEAD_BYTES:
            raise CipherError("The blob is too short to be one of ours.")
        if blob[0] != VERSION:
            raise CipherError(f"The blob has format {blob[0]}; only {VERSION} is known.")
        key = self._keys.get(blob[1])
        if key is None:
            raise CipherError(f"The blob needs key {blob[1]}, which PII_KEYS does not hold.")
        try:
            return key.decrypt(blob[2:HEADER_BYTES], blob[HEADER_BYTES:], aad.encode())
        except InvalidTag:
            raise CipherError(f"The blob does not belong here, or was changed (key {blob[1]}).") from None


def parse_keyring(keys: dict[str, str], active: str) -> Keyring:
    """The keyring of ``PII_KEYS`` (key id 1-255 to base64 of 32 bytes) and ``PII_ACTIVE_KEY``.
    Raises ``ImproperlyConfigured`` naming the entry, never the key."""
    parsed: dict[int, bytes] = {}
    for key_id, encoded in keys.items():
        if not (key_id.isascii() and key_id.isdigit() and 1 <= int(key_id) <= 255):
            raise ImproperlyConfigured(f"PII_KEYS: the key id {key_id!r} is not a number from 1 to 255.")
        try:
            key = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise ImproperlyConfigured(f"PII_KEYS: key {key_id} is not base64.") from None
        if len(key) != KEY_BYTES:
            raise ImproperlyConfigured(f"PII_KEYS: key {key_id} has {len(key)} bytes, it must have {KEY_BYTES}.")
        parsed[int(key_id)] = key
    if not (active.isascii() and active.isdigit() and int(active) in parsed):
        raise ImproperlyConfigured(f"PII_ACTIVE_KEY: key {active!r} is not in PII_KEYS.")
    return Keyring(parsed, int(active))


def parse_blind_index_key(text: str) -> bytes:
    """The bytes of ``BLIND_INDEX_KEY``. Raises ``ImproperlyConfigured`` if it is too short to be a secret."""
    if len(text) < BLIND_INDEX_KEY_MIN_LENGTH:
        raise ImproperlyConfigured(f"BLIND_INDEX_KEY has fewer than {BLIND_INDEX_KEY_MIN_LENGTH} characters.")
    return text.encode()


@lru_cache(maxsize=1)
def _keyring() -> Keyring:
    return parse_keyring(settings.PII_KEYS, settings.PII_ACTIVE_KEY)


@lru_cache(maxsize=1)
def _blind_index_key() -> bytes:
    return parse_blind_index_key(settings.BLIND_INDEX_KEY)


def _forget_keys(*, setting: str, **kwargs: Any) -> None:
    if setting in {"PII_KEYS", "PII_ACTIVE_KEY"}:
        _keyring.cache_clear()
    elif setting == "BLIND_INDEX_KEY":
        _blind_index_key.cache_clear()


setting_changed.connect(_forget_keys, dispatch_uid="apps.preferences.cipher")


def encrypt(plaintext: bytes, aad: str) -> bytes:
    """``plaintext`` under the active key, bound to ``aad`` (``table|column|row key``)."""
    return _keyring().encrypt(plaintext, aad)


def decrypt(blob: bytes, aad: str) -> bytes:
    """The plaintext of ``blob``. Raises ``CipherError`` if the key is missing, the blob was changed, or it was
    encrypted for another table, column or row."""
    return _keyring().decrypt(blob, aad)


def blind_index(kind: str, value: str) -> bytes:
    """32 bytes: HMAC-SHA-256 over ``kind`` (``email``, ``phone``, ``token``) and the normalised address.
    Equal for equal addresses (see ``addresses.lookup_key``), different across kinds. Raises ``InvalidAddress``."""
    return _digest(kind, addresses.lookup_key(kind, value))


def blind_index_of_normalised(kind: str, address: str) -> bytes:
    """``blind_index`` of an address that ``addresses`` has normalised already: no check, no error, less work."""
    return _digest(kind, addresses.key_of_normalised(kind, address))


def _digest(kind: str, key: str) -> bytes:
    return hmac_sha256(_blind_index_key(), f"{kind}\0{key}".encode())


def key_id_of(blob: bytes) -> int:
    """The id of the key ``blob`` was encrypted with."""
    return blob[1]


def active_key_id() -> int:
    """The id of the key that encrypts."""
    return _keyring().active


def known_key_ids() -> list[int]:
    """The ids of all keys of ``PII_KEYS``, in order."""
    return _keyring().ids


def recipient_aad(column: str, user_id: str) -> str:
    """The additional data of a recipient's ``column`` (``email_ct``, ``phone_ct``)."""
    return f"preferences_recipient|{column}|{user_id}"


def device_aad(user_id: str) -> str:
    """The additional data of a device token: bound to the owner, not to the device's row."""
    return f"preferences_device|token_ct|{user_id}"

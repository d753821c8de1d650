import base64
import os

import pytest
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from apps.preferences import cipher
from apps.preferences.checks import check_keys
from apps.preferences.cipher import CipherError

AAD = "preferences_recipient|email_ct|user-1"


def make_key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


@given(st.binary(max_size=5000), st.text(st.characters(codec="utf-8"), max_size=200))
def test_what_is_encrypted_decrypts(plaintext: bytes, aad: str) -> None:
    assert cipher.decrypt(cipher.encrypt(plaintext, aad), aad) == plaintext


def test_blob_is_version_key_id_nonce_ciphertext_tag() -> None:
    blob = cipher.encrypt(b"four", AAD)
    assert blob[:2] == b"\x01\x01"
    assert len(blob) == 1 + 1 + 12 + 4 + 16
    assert cipher.encrypt(b"four", AAD)[2:14] != blob[2:14]


@pytest.mark.parametrize(
    "aad",
    [
        "preferences_recipient|email_ct|user-2",
        "preferences_recipient|phone_ct|user-1",
        "preferences_device|email_ct|user-1",
    ],
)
def test_blob_moved_to_another_row_column_or_table_does_not_decrypt(aad: str) -> None:
    blob = cipher.encrypt(b"ann@example.com", AAD)
    with pytest.raises(CipherError):
        cipher.decrypt(blob, aad)


def test_every_changed_bit_is_noticed() -> None:
    blob = cipher.encrypt(b"ann@example.com", AAD)
    for position in range(len(blob) * 8):
        changed = bytearray(blob)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(CipherError):
            cipher.decrypt(bytes(changed), AAD)


@pytest.mark.parametrize("length", [0, 1, 2, 14, 29])
def test_short_blob_is_an_error_of_ours(length: int) -> None:
    with pytest.raises(CipherError):
        cipher.decrypt(cipher.encrypt(b"", AAD)[:length], AAD)


def test_error_holds_neither_plaintext_nor_cause() -> None:
    blob = cipher.encrypt(b"ann@example.com", AAD)
    with pytest.raises(CipherError) as caught:
        cipher.decrypt(blob, "other|aad|ann")
    assert "ann" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_new_active_key_encrypts_and_old_key_still_reads(settings: Settings) -> None:
    old = cipher.encrypt(b"x", AAD)
    settings.PII_KEYS = settings.PII_KEYS | {"7": make_key()}
    settings.PII_ACTIVE_KEY = "7"
    assert cipher.encrypt(b"x", AAD)[1] == 7
    assert cipher.decrypt(old, AAD) == b"x"


def test_removed_key_is_named_not_guessed(settings: Settings) -> None:
    old = cipher.encrypt(b"x", AAD)
    settings.PII_KEYS = {"2": make_key()}
    settings.PII_ACTIVE_KEY = "2"
    with pytest.raises(CipherError, match="key 1"):
        cipher.decrypt(old, AAD)


def test_blind_index_is_equal_for_equal_addresses_only() -> None:
    index = cipher.blind_index("email", "Ann@Example.com ")
    assert len(index) == 32
    assert index == cipher.blind_index("email", "ann@example.com")
    assert index != cipher.blind_index("email", "bob@example.com")
    assert cipher.blind_index("phone", "+1 500 555 0006") == cipher.blind_index("phone", "+15005550006")


def test_blind_index_of_the_same_text_differs_by_kind() -> None:
    assert cipher.blind_index("token", "+15005550006") != cipher.blind_index("phone", "+15005550006")
    assert cipher.blind_index("token", "ann@example.com") != cipher.blind_index("email", "ann@example.com")


def test_blind_index_depends_on_its_key(settings: Settings) -> None:
    before = cipher.blind_index("email", "ann@example.com")
    settings.BLIND_INDEX_KEY = "another-blind-index-key"
    assert cipher.blind_index("email", "ann@example.com") != before


@pytest.mark.parametrize(
    ("keys", "active"),
    [
        ({"0": make_key()}, "0"),
        ({"256": make_key()}, "256"),
        ({"x": make_key()}, "x"),
        ({"²": make_key()}, "²"),
        ({"1": "not base64!"}, "1"),
        ({"1": base64.b64encode(b"short").decode()}, "1"),
        ({"1": make_key()}, "2"),
        ({"1": make_key()}, ""),
        ({}, "1"),
    ],
)
def test_malformed_keyring_is_found_by_check(settings: Settings, keys: dict[str, str], active: str) -> None:
    settings.PII_KEYS, settings.PII_ACTIVE_KEY = keys, active
    (error,) = check_keys()
    assert error.id == "preferences.E001"
    assert all(key not in error.msg for key in keys.values())
    with pytest.raises(ImproperlyConfigured):
        cipher.encrypt(b"x", AAD)


def test_short_blind_index_key_is_found_by_check(settings: Settings) -> None:
    settings.BLIND_INDEX_KEY = "short"
    assert [error.id for error in check_keys()] == ["preferences.E002"]


def test_one_key_for_two_purposes_is_found_by_check(settings: Settings) -> None:
    settings.BLIND_INDEX_KEY = settings.PII_KEYS["1"]
    assert [error.id for error in check_keys()] == ["preferences.E003"]


def test_keys_are_checked_by_manage_py_check() -> None:
    assert check_keys in checks.registry.registry.registered_checks
    assert check_keys() == []

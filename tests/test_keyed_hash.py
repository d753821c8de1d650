"""HMAC with the key prepared, against the standard library's."""

import hmac

from hypothesis import example, given
from hypothesis import strategies as st

from apps.keyed_hash import hmac_sha256


@given(key=st.binary(max_size=200), message=st.binary(max_size=300))
@example(key=b"", message=b"")
@example(key=b"k" * 64, message=b"a block")
@example(key=b"k" * 65, message=b"more than a block")
def test_it_is_the_standard_librarys_hmac(key, message):
    assert hmac_sha256(key, message) == hmac.digest(key, message, "sha256")
    assert hmac_sha256(key, message) == hmac.digest(key, message, "sha256")  # the prepared key is as it was

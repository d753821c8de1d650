import base64
import hashlib
import hmac

import pytest

from apps.providers.acks import compute_ack, is_ack

DELIVERY_ID = "01890000-0000-7000-8000-000000000001"


@pytest.mark.parametrize("key", ["k", "k" * 44, "k" * 64, "k" * 65, "k" * 200])
def test_an_ack_is_the_hmac_that_anybody_computes(key):
    digest = hmac.digest(key.encode(), DELIVERY_ID.encode(), hashlib.sha256)
    assert compute_ack(key, DELIVERY_ID) == base64.urlsafe_b64encode(digest[:16]).decode().rstrip("=")


def test_an_ack_is_good_for_its_own_delivery_and_key():
    ack = compute_ack("key", DELIVERY_ID)
    assert is_ack("key", DELIVERY_ID, ack)
    assert not is_ack("key", DELIVERY_ID.replace("1", "2"), ack)
    assert not is_ack("other", DELIVERY_ID, ack)
    assert not is_ack("", DELIVERY_ID, ack)

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.preferences import addresses
from apps.preferences.addresses import InvalidAddress


@pytest.mark.parametrize(
    ("written", "normalised"),
    [
        ("ann@example.com", "ann@example.com"),
        ("  ann@example.com\n", "ann@example.com"),
        ("Ann.B+news@Example.COM", "Ann.B+news@example.com"),
        ("ann@bücher.example", "ann@xn--bcher-kva.example"),
        ("ann@BÜCHER.example", "ann@xn--bcher-kva.example"),
        ("u\u0308ber@example.com", "über@example.com"),
        ("x@a-b.co.example", "x@a-b.co.example"),
    ],
)
def test_email_is_normalised(written: str, normalised: str) -> None:
    assert addresses.normalise_email(written) == normalised


@pytest.mark.parametrize(
    "written",
    [
        "", "@", "ann", "ann@", "@example.com", "ann@example", "ann@localhost", "ann@@example.com", "a b@example.com",
        ".ann@example.com", "ann.@example.com", "a..b@example.com", '"ann"@example.com', "ann@[127.0.0.1]",
        "ann@127.0.0.1", "ann@-example.com", "ann@example.com.", "ann@exa mple.com",
        "ann@example.com\r\nBcc: x@example.com", "a\r\nb@example.com", "a\0b@example.com", "a\ud800b@example.com",
        "ann@\ud800.com", "a•••@example.com",
        "a" * 65 + "@example.com", "ü" * 33 + "@example.com", "a@" + "b" * 64 + ".com", "a@" + "b." * 130 + "com",
        "ann@example.com,bob@example.com", "Ann <ann@example.com>",
    ],
)  # fmt: skip
def test_unusable_email_is_refused(written: str) -> None:
    with pytest.raises(InvalidAddress):
        addresses.normalise_email(written)


@pytest.mark.parametrize("kind", ["email", "phone", "token"])
def test_refusal_does_not_repeat_the_address(kind: str) -> None:
    with pytest.raises(InvalidAddress) as caught:
        addresses.lookup_key(kind, "secret value of ann")
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("written", "normalised"),
    [
        ("+15005550006", "+15005550006"),
        (" +1 (500) 555-0006 ", "+15005550006"),
        ("+1.500.555.0001", "+15005550001"),
        ("+49 30 901820", "+4930901820"),
    ],
)
def test_phone_is_normalised_to_e164(written: str, normalised: str) -> None:
    assert addresses.normalise_phone(written) == normalised


@pytest.mark.parametrize(
    "written",
    [
        "", "+", "15005550006", "0015005550006", "+1500555", "+999123456789", "+1500555000600000000", "+1-800-FLOWERS",
        "+15005550006;ext=5", "+15005550006 x5", "tel:+15005550006", "+\u0661\u0665005550006", "+1•••06",
        "+15005550006\0", "+1500555" + "0" * 100,
    ],
)  # fmt: skip
def test_unusable_phone_is_refused(written: str) -> None:
    with pytest.raises(InvalidAddress):
        addresses.normalise_phone(written)


@pytest.mark.parametrize("written", ["", " ", "a b", "a\n", "a\0", "ä", "a" * 4097, "•••wxyz", "\ud800"])
def test_unusable_token_is_refused(written: str) -> None:
    with pytest.raises(InvalidAddress):
        addresses.normalise_token(written)


def test_token_is_taken_as_is() -> None:
    assert addresses.normalise_token("fGk3:APA91b-_x" * 10) == "fGk3:APA91b-_x" * 10


@given(st.text(max_size=80))
def test_whatever_the_text_it_is_normalised_for_good_or_refused(text: str) -> None:
    for normalise in (addresses.normalise_email, addresses.normalise_phone, addresses.normalise_token):
        try:
            normalised = normalise(text)
        except InvalidAddress:
            continue
        assert normalise(normalised) == normalised


def test_case_of_the_local_part_does_not_make_another_address() -> None:
    assert addresses.lookup_key("email", "ANN@example.com") == addresses.lookup_key("email", "ann@EXAMPLE.com")
    assert addresses.lookup_key("email", "ann+a@example.com") != addresses.lookup_key("email", "ann@example.com")


def test_unknown_kind_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="fax"):
        addresses.lookup_key("fax", "1")


def test_masks_show_too_little_to_use() -> None:
    assert addresses.mask_email("ann@example.com") == "a•••@example.com"
    assert addresses.mask_phone("+15005550006") == "+1•••06"
    assert addresses.mask_token("a" * 30 + "wxyz") == "•••wxyz"
    assert addresses.mask_token("short-token") == "•••"


def test_one_subscription_of_a_browser_is_one_token_however_it_is_written():
    plain = '{"endpoint": "https://push.example.com/abcd1234", "keys": {"p256dh": "P", "auth": "A"}}'
    other = '{"keys":{"auth":"A","p256dh":"P"},"expirationTime":null,"endpoint":"https://push.example.com/abcd1234"}'
    assert addresses.normalise_token(plain) == addresses.normalise_token(other)
    assert " " not in addresses.normalise_token(plain)
    assert addresses.mask_token(addresses.normalise_token(plain)) == "•••1234"


@pytest.mark.parametrize(
    "text", ["{", "{}", '{"endpoint": 1, "keys": {}}', '{"endpoint": "x", "keys": {"auth": 1}}', "{" * 4000]
)
def test_subscription_that_is_none_is_refused(text):
    with pytest.raises(addresses.InvalidAddress, match="subscription"):
        addresses.normalise_token(text)

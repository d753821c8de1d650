"""The short cuts must answer what the long way answers, for every address they answer at all."""

import random
from typing import Final

import phonenumbers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phonenumbers.phonenumberutil import COUNTRY_CODE_TO_REGION_CODE

from apps.preferences import addresses
from apps.preferences.ordinary_addresses import shorten_email, shorten_phone

LOCAL_CHARS: Final = "abzAZ09.!+-_@' é\t"
DOMAIN_CHARS: Final = "abXZ09.-_@ äß。\u00ad"


def the_long_way(normalise: str, value: str) -> str | None:
    try:
        return getattr(addresses, normalise)(value)
    except addresses.InvalidAddress:
        return None


def assert_same_email(value: str) -> None:
    short = shorten_email(value)
    assert short is None or short == the_long_way("_normalise_any_email", value)


@pytest.mark.parametrize(
    "value",
    [
        "ann@example.com", "Ann.B+tag@EXAMPLE.Com", "a@b.co", "a@1.2.example", "x@a-b.example",
        f"{'a' * 64}@example.com", f"a@{'b' * 63}.example",
    ],
)  # fmt: skip
def test_ordinary_emails_take_the_short_cut(value: str) -> None:
    assert shorten_email(value) == the_long_way("_normalise_any_email", value) is not None


@pytest.mark.parametrize(
    "value",
    [
        "", "ann", "ann@example", "ann@xn--bcher-kva.example", "ann@ab--c.example", "ann@1.2.3.4", "a@b.example.",
        "a@-b.example", "a@b-.example", "a..b@example.com", ".a@example.com", "é@example.com", "a@b.example\n",
        f"{'a' * 65}@example.com", f"a@{'b' * 64}.example", f"a@{'b.' * 130}example", "a@b_c.example", " a@b.example",
    ],
)  # fmt: skip
def test_other_emails_take_the_long_way(value: str) -> None:
    assert shorten_email(value) is None


@settings(max_examples=2_000, deadline=None)
@given(st.text(LOCAL_CHARS, max_size=70), st.text(DOMAIN_CHARS, max_size=70))
def test_short_and_long_way_agree_on_odd_emails(local: str, domain: str) -> None:
    assert_same_email(f"{local}@{domain}")


@settings(max_examples=1_000, deadline=None)
@given(st.from_regex(r"[a-zA-Z0-9.+]{1,66}@([a-zA-Z0-9-]{1,65}\.){1,4}[a-zA-Z0-9-]{1,8}", fullmatch=True))
def test_short_and_long_way_agree_on_nearly_ordinary_emails(value: str) -> None:
    assert_same_email(value)


@pytest.mark.parametrize("country_code", sorted(COUNTRY_CODE_TO_REGION_CODE))
def test_short_and_long_way_agree_on_every_country_and_length(country_code: int) -> None:
    dice = random.Random(country_code)
    prefixes = ["", *(f"{first}{second}" for first in range(10) for second in range(10))]
    for prefix in prefixes:
        for length in range(1, 16):
            national = prefix + "".join(dice.choices("0123456789", k=max(0, length - len(prefix))))
            value = f"+{country_code}{national}"
            short = shorten_phone(value)
            assert short is None or short == the_long_way("_normalise_any_phone", value), value


@pytest.mark.parametrize("region", sorted(phonenumbers.SUPPORTED_REGIONS))
def test_short_and_long_way_agree_on_example_numbers(region: str) -> None:
    for kind in (phonenumbers.PhoneNumberType.MOBILE, phonenumbers.PhoneNumberType.FIXED_LINE):
        number = phonenumbers.example_number_for_type(region, kind)
        if number is not None:
            value = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
            short = shorten_phone(value)
            assert short is None or short == the_long_way("_normalise_any_phone", value)


@settings(max_examples=2_000, deadline=None)
@given(st.from_regex(r"\+?[0-9٣ ().-]{0,17}", fullmatch=True))
def test_short_and_long_way_agree_on_odd_phones(value: str) -> None:
    short = shorten_phone(value)
    assert short is None or short == the_long_way("_normalise_any_phone", value)


@pytest.mark.parametrize("value", ["+15005550006", "+4915112345678", "+33612345678", "+819012345678"])
def test_ordinary_phones_take_the_short_cut(value: str) -> None:
    assert shorten_phone(value) == value


@pytest.mark.parametrize("value", ["", "+", "+1", "15005550006", "+1 5005550006", "+999123456789", "+4401234567890"])
def test_other_phones_take_the_long_way(value: str) -> None:
    assert shorten_phone(value) is None

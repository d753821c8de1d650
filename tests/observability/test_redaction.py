"""Nothing personal gets through, however it is wrapped; and what is needed to follow a trace does."""

import base64
import json
import string
import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notify_project.redaction import MASK, MAX_TEXT, clean_text, clean_value

UUID_TEXT = "0190a5e2-7c1e-7abc-8def-0123456789ab"
FCM_TOKEN = "dGVzdC1kZXZpY2U6:APA91b" + "aB3_-" * 28
APNS_TOKEN = "740f4707bebcf74f9b7c25d48e3358945f6aa01da5ddb387462c7eaf61bb78ad"

local_parts = st.text(string.ascii_letters + string.digits + "!#$%&'*+/=?^_`{|}~-.", min_size=1, max_size=64)
domains = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?\.(com|org|example|co\.uk)", fullmatch=True)
emails = st.builds(lambda local, domain: f"{local}@{domain}", local_parts, domains)
numbers = st.from_regex(r"\+[1-9][0-9]{6,14}", fullmatch=True)
tokens = st.text(string.ascii_letters + string.digits + "-_:", min_size=48, max_size=200).filter(
    lambda token: any(char.isdigit() for char in token)
)
secrets = st.one_of(emails, numbers, tokens)
# What stands around a secret in a text: separated from it, as in any language or notation.
before = st.sampled_from(["", "to ", "email=", '{"to": "', "Key (email)=(", "x\n", "<", "user ", "é ", "%s: ", "a, "])
after = st.sampled_from(["", " failed", '"}', ") already exists.", "\n", ">", ", next", ": no", ";"])


@settings(deadline=None)
@given(secrets, before, after)
def test_a_secret_in_a_text_is_masked(secret, prefix, suffix):
    assert secret not in clean_text(prefix + secret + suffix)


@settings(deadline=None)
@given(secrets, st.sampled_from(["note", "event", "error", "path", "exception", "detail", "recipient"]))
def test_a_secret_is_masked_under_any_field_and_however_deep(secret, name):
    for value in (secret, [secret], {"a": {"b": (secret,)}}, {secret: 1}, ValueError(secret), {secret}):
        assert secret not in json.dumps(clean_value(name, value), ensure_ascii=False)


@settings(deadline=None)
@given(
    st.one_of(secrets, st.text(min_size=6), st.integers(min_value=1_000_000), st.binary(min_size=1), st.lists(secrets))
)
@pytest.mark.parametrize("name", ["email", "phone", "token", "device_token", "Authorization", "X-Api-Key", "content"])
def test_a_private_field_is_masked_whatever_its_value(name, value):
    assert clean_value(name, value) == MASK


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abcdefghijklmnop.qrs",
        "authorization=basic dXNlcjpwYXNzd29yZDEyMw==",
        "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl",
        "redis://:hunter2secret@127.0.0.1:6379/0",
        "To=%2B15005550006&Body=hello",
        "to=someone%40example.com",
        "+1 (500) 555-0006",
        "+1-500-555-0006",
        '"john doe"@example.com',
        "someone@[192.168.0.1]",
        FCM_TOKEN,
        APNS_TOKEN,
    ],
)
def test_known_shapes_are_masked(text):
    cleaned = clean_text(text)
    assert MASK in cleaned
    for secret in (
        "abcdefghij",
        "dXNlcjpw",
        "eyJzdWIi",
        "hunter2",
        "5005550006",
        "555",
        "someone",
        "john",
        "APA91",
        "740f",
    ):
        assert secret not in cleaned


def test_a_number_without_its_plus_is_masked_in_sentences_of_others():
    assert "15005550006" not in clean_value("error", "invalid number 15005550006")
    assert "15005550006" not in clean_value("detail", ValueError("not a number: 15005550006"))


def test_the_detail_lines_of_database_errors_are_masked():
    error = 'duplicate key value violates unique constraint "x"\nDETAIL:  Key (name)=(Jane Doe) already exists.'
    cleaned = clean_value("error", error)
    assert "Jane" not in cleaned
    assert "unique constraint" in cleaned


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("delivery_id", UUID_TEXT),
        ("delivery_ids", [UUID_TEXT] * 500),
        ("trace_id", "20240101123456"),
        ("trace_ids", ["a" * 64] * 500),
        ("user_id", "1234567890"),
        ("path", f"/v1/notifications/{UUID_TEXT}"),
        ("at", "2026-11-20T10:11:12.123456+02:00"),
        ("provider_message_id", "SM" + "0af3" * 8),
        ("file", "/usr/lib/python3/dist-packages/django/core/handlers/exception.py"),
        ("email", 12),
        ("push", True),
        ("statuses", {"sent": 3}),
        ("ms", 1.5),
        ("nothing", None),
    ],
)
def test_what_is_needed_survives(name, value):
    assert clean_value(name, value) == value


def test_values_json_knows_stay_and_others_become_their_type():
    moment, identity = datetime(2026, 1, 1, tzinfo=UTC), uuid.uuid4()
    assert clean_value("at", moment) == moment
    assert clean_value("id", identity) == identity
    assert clean_value("blob", b"\x00\x01") == "<2 bytes>"
    assert clean_value("thing", object()) == "<object>"


def test_long_texts_keep_their_end():
    cleaned = clean_text("x " * MAX_TEXT + "the error")
    assert cleaned.endswith("the error")
    assert len(cleaned) < MAX_TEXT + 10


def test_something_that_contains_itself_ends():
    loop: list[object] = []
    loop.append(loop)
    assert clean_value("loop", loop)


@settings(deadline=None)
@given(st.recursive(st.one_of(st.none(), st.text(), st.floats(), st.binary()), lambda kids: st.lists(kids, max_size=4)))
def test_no_value_breaks_it(value):
    clean_value("anything", value)


def test_a_hostile_text_costs_no_more_than_its_length():
    for text in ("a" * MAX_TEXT, "a@" * (MAX_TEXT // 2), "+1" * (MAX_TEXT // 2), "eyJ" + "a." * MAX_TEXT):
        clean_text(text, is_free_text=True)  # quadratic patterns would hang here


def test_base64_of_a_push_token_is_masked():
    assert MASK in clean_text(base64.urlsafe_b64encode(FCM_TOKEN.encode()).decode())

import pytest

from apps.delivery.api.requests import NotificationBody, decode_body
from apps.problems import Problem

GOOD = {"user_id": "u", "type": "otp", "priority": "high", "content": {"title": "t", "body": "b"}}


def test_the_smallest_body_decodes():
    body = decode_body(GOOD, NotificationBody)
    assert (body.user_id, body.content.body, body.channels, body.dry_run) == ("u", "b", None, False)


@pytest.mark.parametrize(
    ("change", "pointer", "code"),
    [
        ({"user_id": 5}, "/user_id", "invalid"),
        ({"user_id": ""}, "/user_id", "invalid"),
        ({"user_id": "x" * 129}, "/user_id", "invalid"),
        ({"user_id": None}, "/user_id", "invalid"),
        ({"type": "has space"}, "/type", "invalid"),
        ({"type": "newline\n"}, "/type", "invalid"),
        ({"priority": "urgent"}, "/priority", "invalid"),
        ({"channels": ["fax"]}, "/channels/0", "invalid"),
        ({"channels": []}, "/channels", "invalid"),
        ({"channels": "sms"}, "/channels", "invalid"),
        ({"content": []}, "/content", "invalid"),
        ({"content": {"title": "t"}}, "/content/body", "required"),
        ({"content": {"body": ""}}, "/content/body", "invalid"),
        ({"content": {"body": "b", "bdoy": "x"}}, "/content/bdoy", "unknown_field"),
        ({"data": {"k": 1}}, "/data", "invalid"),
        ({"data": {"": "x"}}, "/data", "invalid"),
        ({"send_at": "2026-11-22"}, "/send_at", "invalid"),
        ({"send_at": "2026-11-22T10:00:00"}, "/send_at", "invalid"),
        ({"expires_at": 12}, "/expires_at", "invalid"),
        ({"dry_run": "yes"}, "/dry_run", "invalid"),
        ({"trace_id": "ü"}, "/trace_id", "invalid"),
        ({"colour": "red"}, "/colour", "unknown_field"),
        ({"a/b~c": 1}, "/a~1b~0c", "unknown_field"),
    ],
)
def test_wrong_field_is_pointed_at(change, pointer, code):
    with pytest.raises(Problem) as caught:
        decode_body({**GOOD, **change}, NotificationBody)
    assert caught.value.status_code == 422
    (error,) = caught.value.errors
    assert (error.pointer, error.code) == (pointer, code)
    assert error.detail


@pytest.mark.parametrize("field", ["user_id", "type", "priority", "content"])
def test_missing_field_is_named(field):
    with pytest.raises(Problem) as caught:
        decode_body({name: value for name, value in GOOD.items() if name != field}, NotificationBody)
    assert caught.value.errors[0].pointer == f"/{field}"
    assert caught.value.errors[0].code == "required"


@pytest.mark.parametrize("body", [None, [], "x", 1, True])
def test_body_that_is_no_object_is_refused(body):
    with pytest.raises(Problem):
        decode_body(body, NotificationBody)

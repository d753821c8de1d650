"""Notifications by template: the context is checked when they are accepted, and kept sealed."""

import json
from typing import Any

import pytest

from apps.delivery.ids import notification_id_of
from apps.delivery.models import Delivery, Notification
from apps.delivery.templating import services
from apps.preferences.services import upsert_recipient
from tests.clients.factories import make_client
from tests.delivery.template_bodies import make_template

pytestmark = pytest.mark.django_db
CONTEXT = {"name": "Ann", "total": 5, "link": "https://example.com/"}


@pytest.fixture(autouse=True)
def _person(db: None) -> None:
    upsert_recipient(user_id="ann", phone="+15005550001", email="ann@example.com", locale="de-AT")


def send(api: Any, key: str = "k", **fields: Any) -> Any:
    body = {"user_id": "ann", "type": "order", "priority": "high", "template": "order", "context": CONTEXT, **fields}
    body = {name: value for name, value in body.items() if value is not None}
    return api.post("/v1/notifications", body, format="json", headers={"X-Idempotency-Key": key})


def errors(answer: Any) -> list[tuple[str, str]]:
    assert answer.status_code == 422, answer.content
    return [(error["pointer"], error["code"]) for error in answer.json()["errors"]]


def test_goes_to_the_channels_there_are_words_for(api, client_row):
    make_template(client_row)
    answer = send(api)
    assert answer.status_code == 202
    assert [row["channel"] for row in answer.json()["deliveries"]] == ["sms", "email"]
    assert answer.json()["deliveries"][0]["segments"] == 1
    sealed = bytes(Notification.objects.get().content_ct)
    assert b"Ann" not in sealed
    assert Delivery.objects.filter(id__gt=Notification.objects.get().id).count() == 2
    assert notification_id_of(Delivery.objects.first().id) == Notification.objects.get().id


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"template": "nothing"}, [("/template", "unknown_template")]),
        ({"template": "order@7"}, [("/template", "unknown_version")]),
        ({"template": "Order"}, [("/template", "invalid")]),
        ({"template": "order@0"}, [("/template", "invalid")]),
        ({"context": {**CONTEXT, "name": 5}}, [("/context/name", "invalid")]),
        ({"context": {**CONTEXT, "colour": 5}}, [("/context/colour", "unknown_variable")]),
        ({"context": {}}, [("/context/link", "required"), ("/context/name", "required")]),
        ({"context": None}, [("/context/link", "required"), ("/context/name", "required")]),
        ({"context": {**CONTEXT, "link": "javascript:alert(1)"}}, [("/context/link", "invalid")]),
        ({"context": {**CONTEXT, "items": [{"label": "a"}, {}]}}, [("/context/items/1/label", "template_error")]),
        ({"context": {**CONTEXT, "name": "x" * 41}}, [("/context/name", "too_long")]),
    ],
)
def test_fault_is_named_and_nothing_written(api, client_row, fields, expected):
    make_template(client_row)
    assert errors(send(api, **fields)) == expected
    assert not Notification.objects.exists()


def test_either_content_or_a_template(api, client_row):
    make_template(client_row)
    assert send(api, content={"body": "x"}).status_code == 422
    assert send(api, template=None, context=None).status_code == 422
    assert send(api, template=None, content={"body": "x"}).status_code == 422  # a context without a template


def test_channel_without_words_is_named(api, client_row):
    text = {"channel": "sms", "locale": "en", "body": "Hello"}
    make_template(client_row, version={"texts": [text]})
    assert errors(send(api, context={}, channels=["sms", "email"])) == [("/channels/1", "no_words")]
    assert [row["channel"] for row in send(api, context={}).json()["deliveries"]] == ["sms"]


def test_words_too_large_for_their_channel_are_refused_when_accepted(api, client_row):
    variables = {"text": {"type": "string"}}
    text = {"channel": "sms", "locale": "en", "body": "{{ text }}"}
    make_template(client_row, version={"variables": variables, "texts": [text]})
    assert errors(send(api, context={"text": "x" * 1_601})) == [("/context", "too_large")]
    assert send(api, context={"text": "x" * 1_600}).json()["deliveries"][0]["segments"] == 11


def test_archived_or_inactive_template_takes_nothing_new_but_replays(api, client_row):
    template = make_template(client_row)
    first = send(api)
    services.activate(template, None)
    assert errors(send(api, key="k2")) == [("/template", "no_active_version")]
    assert send(api, key="k3", template="order@1").status_code == 202
    services.set_archived(template, True)
    assert errors(send(api, key="k4", template="order@1")) == [("/template", "archived_template")]
    again = send(api)
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (202, "true")
    assert json.loads(again.content) == json.loads(first.content)


def test_own_template_hides_the_shared_one_and_anothers_is_not_there(api, client_row):
    variables: dict[str, Any] = {}
    shared = {"variables": variables, "texts": [{"channel": "sms", "locale": "en", "body": "shared"}]}
    make_template(None, version=shared)
    make_template(make_client(), "theirs", version=shared)
    assert errors(send(api, template="theirs", context={})) == [("/template", "unknown_template")]
    assert [row["channel"] for row in send(api, context={}).json()["deliveries"]] == ["sms"]
    make_template(client_row)
    assert errors(send(api, key="k2", context={}))[0] == ("/context/link", "required")

from typing import Any
from urllib.parse import quote

import pytest
from rest_framework.response import Response
from rest_framework.test import APIClient

from apps.channels import Channel
from apps.preferences import catalogue, selectors, services
from apps.preferences.devices import MAX_ACTIVE_DEVICES
from apps.preferences.models import Category, Device, Recipient
from tests.clients.factories import make_api_key, make_client
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db

PROFILE = {
    "email": "ann@example.com",
    "phone": "+15005550006",
    "locale": "en-US",
    "time_zone": "Europe/Berlin",
    "attributes": {"plan": "gold"},
}


@pytest.fixture
def api() -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Api-Key {make_api_key(make_client())}")
    return client


def send(api: APIClient, method: str, path: str, body: Any = None) -> Response:
    return getattr(api, method)(path, body, format="json")


def pointers(response: Response) -> list[str]:
    assert response.status_code == 422, response.content
    assert response["Content-Type"] == "application/problem+json"
    return sorted(error["pointer"] for error in response.json()["errors"])


# --- profile ----------------------------------------------------------------------------------------------------------


def test_put_creates_then_replaces_the_whole_profile(api: APIClient) -> None:
    created = send(api, "put", "/v1/users/user-1", PROFILE)
    assert created.status_code == 201
    body = created.json()
    assert body == {
        **PROFILE,
        "user_id": "user-1",
        "email": "a•••@example.com",
        "phone": "+1•••06",
        "created_at": body["created_at"],
        "updated_at": body["updated_at"],
    }
    replaced = send(api, "put", "/v1/users/user-1", {"email": "bob@example.com"})
    assert replaced.status_code == 200
    assert replaced.json()["email"] == "b•••@example.com"
    assert [replaced.json()[name] for name in ("phone", "locale", "time_zone", "attributes")] == [None, "", "", {}]


def test_put_is_idempotent(api: APIClient) -> None:
    first, second = (send(api, "put", "/v1/users/user-1", PROFILE) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    assert send(api, "get", "/v1/users/user-1").json() == first.json()


def test_nothing_need_be_known_of_a_user(api: APIClient) -> None:
    assert send(api, "put", "/v1/users/user-1", {}).status_code == 201
    blank = {"email": None, "phone": None, "locale": "", "time_zone": "", "attributes": {}}
    assert send(api, "put", "/v1/users/user-1", blank).status_code == 200


def test_erased_user_is_gone(api: APIClient) -> None:
    RecipientFactory(user_id="user-1")
    assert send(api, "delete", "/v1/users/user-1").status_code == 204
    for method, path in [("get", ""), ("delete", ""), ("get", "/preferences"), ("get", "/devices")]:
        assert send(api, method, f"/v1/users/user-1{path}").status_code == 404
    assert send(api, "put", "/v1/users/user-1", {}).status_code == 201


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"email": 5}, "/email"),
        ({"email": True}, "/email"),
        ({"email": ["ann@example.com"]}, "/email"),
        ({"email": ""}, "/email"),
        ({"email": "nobody"}, "/email"),
        ({"email": "a•••@example.com"}, "/email"),
        ({"email": "a" * 400 + "@example.com"}, "/email"),
        ({"email": "a\0b@example.com"}, "/email"),
        ({"phone": 15005550006}, "/phone"),
        ({"phone": "5005550006"}, "/phone"),
        ({"phone": "+1•••06"}, "/phone"),
        ({"phone": {"number": "+15005550006"}}, "/phone"),
        ({"locale": None}, "/locale"),
        ({"locale": "en_US"}, "/locale"),
        ({"locale": 7}, "/locale"),
        ({"time_zone": None}, "/time_zone"),
        ({"time_zone": "Mars/Olympus"}, "/time_zone"),
        ({"time_zone": "x" * 1000}, "/time_zone"),
        ({"time_zone": 2}, "/time_zone"),
        ({"attributes": None}, "/attributes"),
        ({"attributes": []}, "/attributes"),
        ({"attributes": "{}"}, "/attributes"),
        ({"attributes": {"a": "x" * 5000}}, "/attributes"),
        ({"attributes": {"a": 1e20}}, "/attributes"),
        ({"attributes": {"a": [{"b": -(10**30)}]}}, "/attributes"),
        ({"attributes": {"a": {"b": {"c": {"d": {"e": {}}}}}}}, "/attributes"),
        ({"e-mail": "ann@example.com"}, "/e-mail"),
        ({"a/b~c": 1}, "/a~1b~0c"),
        ({"user_id": "user-1"}, "/user_id"),
    ],
)
def test_bad_profile_field_is_pointed_at_and_nothing_is_stored(api: APIClient, body: Any, pointer: str) -> None:
    assert pointers(send(api, "put", "/v1/users/user-1", body)) == [pointer]
    assert not Recipient.objects.exists()


@pytest.mark.parametrize("user_id", ["ann@example.com", "+15005550006"])
def test_contact_point_is_no_user_id(api: APIClient, user_id: str) -> None:
    response = send(api, "put", f"/v1/users/{user_id}", {})
    assert (response.status_code, response.json()["type"]) == (422, "/problems/invalid-user-id")
    assert not Recipient.objects.exists()


def test_number_stored_long_ago_can_be_read(api: APIClient) -> None:
    RecipientFactory(user_id="user-1")
    Recipient.objects.update(attributes={"a": 10**30})
    response = send(api, "get", "/v1/users/user-1")
    assert (response.status_code, response.json()["attributes"]) == (200, {"a": 10**30})


def test_every_wrong_field_is_named_at_once(api: APIClient) -> None:
    response = send(api, "put", "/v1/users/user-1", {"email": 1, "phone": 2, "x": 3, "y": 4})
    assert pointers(response) == ["/email", "/phone", "/x", "/y"]


def test_error_does_not_repeat_the_address(api: APIClient) -> None:
    response = send(api, "put", "/v1/users/user-1", {"email": "annabel@@example", "phone": "+150055512345678901"})
    assert len(pointers(response)) == 2
    assert b"annabel" not in response.content
    assert b"5005551" not in response.content


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"{", b"[]", b'"x"', b"null", b"\xff\xfe", b'{"email": "\\ud800@example.com"}',
        b'{"attributes": {"a": "\\udfff"}}', b'{"attributes": {"a": NaN}}', b'{"attributes": {"a": 1e999}}',
        b'{"attributes": {"\\u0000": 1}}', b'{"a":' * 500 + b"1" + b"}" * 500,
        b'{"email": "a@example.com", "email": 5}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["", "/preferences", "/devices"])
def test_malformed_body_is_never_our_error(api: APIClient, path: str, raw: bytes) -> None:
    RecipientFactory(user_id="other", phone=None, devices=[])
    method = "post" if path == "/devices" else "put"
    response = getattr(api, method)(f"/v1/users/user-1{path}", raw, content_type="application/json")
    if raw == b"" and path == "":
        assert response.status_code == 201  # no body: nothing is known of the user
    else:
        assert 400 <= response.status_code < 500
        assert Recipient.objects.count() == 1


@pytest.mark.parametrize("user_id", ["a b", "ünï", "コード", "a%2Fb", "a?b#c&d", "x" * 128, "💌", "a;b=c", "+1"])
def test_any_printable_user_id_works_percent_encoded(api: APIClient, user_id: str) -> None:
    path = f"/v1/users/{quote(user_id, safe='')}"
    assert send(api, "put", path, PROFILE).json()["user_id"] == user_id
    assert send(api, "get", path).status_code == 200
    assert send(api, "put", f"{path}/preferences", {"opted_out": True}).status_code == 200


@pytest.mark.parametrize(
    "encoded", ["%00", "a%00b", "%0A", "a%2Fb", "%20a", "a%20", "%FF", "%ED%A0%80", "%E2%80%AE", "x" * 129]
)
@pytest.mark.parametrize("method", ["get", "put", "delete"])
def test_impossible_user_id_is_a_problem_of_the_caller(api: APIClient, method: str, encoded: str) -> None:
    for path in ("", "/preferences", "/devices", "/devices/1"):
        response = send(api, method, f"/v1/users/{encoded}{path}", {} if method == "put" else None)
        assert response.status_code in {400, 404, 405, 422}
        assert response["Content-Type"] == "application/problem+json"
    assert not Recipient.objects.exists()


# --- preferences ------------------------------------------------------------------------------------------------------


NOTHING_SAID = {"push": None, "sms": None, "email": None}
ON = {"push": True, "sms": True, "email": True}
PATH = "/v1/users/user-1/preferences"


def test_preferences_given_replace_and_the_others_stay(api: APIClient) -> None:
    RecipientFactory(user_id="user-1")
    fresh = {
        "opted_out": False,
        "time_zone": "Europe/Berlin",
        "channels": NOTHING_SAID,
        "categories": {},
        "quiet_hours": [],
        "effective": dict.fromkeys(["", "critical", "marketing", "transactional"], ON),
    }
    assert send(api, "get", PATH).json() == fresh
    answer = send(api, "put", PATH, {"channels": {"sms": False}})
    assert (answer.status_code, answer.json()) == (
        200,
        fresh
        | {
            "channels": NOTHING_SAID | {"sms": False},
            "effective": dict.fromkeys(fresh["effective"], ON | {"sms": False}),
        },
    )
    assert send(api, "put", PATH, {"opted_out": True}).json()["channels"]["sms"] is False
    assert send(api, "put", PATH, {}).json() == send(api, "get", PATH).json()
    assert selectors.load_snapshots({"user-1": 0})["user-1"].is_opted_out


WINDOWS = [
    {"days": ["sat", "sun"], "start": "00:00", "end": "24:00"},
    {"days": ["mon", "tue", "wed", "thu", "fri"], "start": "22:00", "end": "07:30"},
]


def test_everything_said_is_shown_as_it_was_said(api: APIClient) -> None:
    RecipientFactory(user_id="user-1")
    body = {
        "opted_out": True,
        "time_zone": "Asia/Tokyo",
        "channels": {"push": True, "sms": False, "email": None},
        "categories": {"marketing": {"email": False}, "": {"push": False, "sms": True}},
        "quiet_hours": WINDOWS[::-1],
    }
    answer = send(api, "put", PATH, body).json()
    assert {name: answer[name] for name in body} == body
    assert not any(on for channels in answer["effective"].values() for on in channels.values())
    answer = send(api, "put", PATH, {"opted_out": False}).json()
    assert answer["effective"][""] == {"push": False, "sms": True, "email": True}
    assert answer["effective"]["marketing"] == {"push": True, "sms": False, "email": False}
    assert answer["effective"]["critical"] == {"push": True, "sms": False, "email": True}


def test_answer_sent_back_changes_nothing(api: APIClient) -> None:
    recipient = RecipientFactory(user_id="user-1")
    send(api, "put", PATH, {"categories": {"marketing": {"sms": True}}, "quiet_hours": WINDOWS})
    version = selectors.select_versions(["user-1"])["user-1"][1]
    assert version > recipient.version
    shown = send(api, "get", PATH)
    again = send(api, "put", PATH, shown.json())
    assert (again.status_code, again.json(), again["ETag"]) == (200, shown.json(), shown["ETag"])
    assert selectors.select_versions(["user-1"])["user-1"][1] == version


def test_null_takes_a_word_back(api: APIClient) -> None:
    RecipientFactory(user_id="user-1")
    fresh = send(api, "get", PATH)
    body = {"channels": {"sms": False}, "categories": {"marketing": {"email": False}}, "quiet_hours": WINDOWS}
    assert send(api, "put", PATH, body).json() != fresh.json()
    body = {"channels": {"sms": None}, "categories": {"marketing": {"email": None}}, "quiet_hours": None}
    back = send(api, "put", PATH, body)
    assert (back.json(), back["ETag"]) == (fresh.json(), fresh["ETag"])


def test_time_zone_is_the_profile_s(api: APIClient) -> None:
    send(api, "put", "/v1/users/user-1", PROFILE)
    assert send(api, "get", PATH).json()["time_zone"] == "Europe/Berlin"
    assert send(api, "put", PATH, {"time_zone": ""}).status_code == 200
    assert send(api, "get", "/v1/users/user-1").json()["time_zone"] == ""


def put_if(api: APIClient, tag: str, body: Any) -> Response:
    return api.put(PATH, body, format="json", headers={"If-Match": tag})


def test_change_of_what_has_changed_in_the_meantime_is_refused(api: APIClient) -> None:
    RecipientFactory(user_id="user-1")
    first = send(api, "get", PATH)["ETag"]
    assert first.startswith('"')
    second = put_if(api, first, {"opted_out": True})
    assert second.status_code == 200
    assert second["ETag"] not in {first, ""}
    late = put_if(api, first, {"opted_out": False})
    assert (late.status_code, late.json()["type"]) == (412, "/problems/preferences-changed")
    assert send(api, "get", PATH)["ETag"] == second["ETag"]
    for tag, status in {
        f'"x", {second["ETag"]}': 200,
        "*": 200,
        f"W/{second['ETag']}": 412,
        '"x"': 412,
        '""': 412,
        "x": 400,
        f"{second['ETag']}x": 400,
        '"': 400,
    }.items():
        assert put_if(api, tag, {"opted_out": True}).status_code == status, tag


def test_devices_and_profile_do_not_change_the_tag_of_preferences(api: APIClient) -> None:
    RecipientFactory(user_id="user-1", locale="")
    tag = send(api, "get", PATH)["ETag"]
    send(api, "post", "/v1/users/user-1/devices", {"token": "one-more", "platform": "ios"})
    send(api, "put", "/v1/users/user-1", {"locale": "de", "time_zone": "Europe/Berlin"})
    assert put_if(api, tag, {}).status_code == 200


def test_categories_are_listed_with_their_rules(api: APIClient) -> None:
    Category.objects.filter(key="marketing").update(cap_limit=3, cap_period_s=86_400, email_default=False)
    Category.objects.create(key="old-news", name="Old news", is_active=False)
    catalogue.forget_categories()
    listed = {category["key"]: category for category in send(api, "get", "/v1/categories").json()["categories"]}
    assert list(listed) == ["", "critical", "marketing", "transactional"]
    assert listed["marketing"] == {
        "key": "marketing",
        "name": "Marketing",
        "description": "Offers and news.",
        "kind": "marketing",
        "defaults": {"push": True, "sms": True, "email": False},
        "quiet_hours": "defer",
        "cap": {"limit": 3, "period_s": 86_400, "beyond": "defer"},
    }
    assert listed["critical"]["quiet_hours"] == "send"


def test_word_about_a_retired_category_can_still_be_changed(api: APIClient) -> None:
    RecipientFactory(user_id="user-1")
    Category.objects.create(key="old-news", name="Old news", is_active=False)
    answer = send(api, "put", PATH, {"categories": {"old-news": {"email": False}}})
    assert answer.json()["categories"] == {"old-news": {"email": False}}
    assert "old-news" not in answer.json()["effective"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"opted_out": "yes"}, "/opted_out"),
        ({"opted_out": 1}, "/opted_out"),
        ({"opted_out": None}, "/opted_out"),
        ({"opted_in": True}, "/opted_in"),
        ({"channels": []}, "/channels"),
        ({"channels": None}, "/channels"),
        ({"channels": {"fax": True}}, "/channels/fax"),
        ({"channels": {"sms": "false"}}, "/channels/sms"),
        ({"channels": {"sms": 0}}, "/channels/sms"),
        ({"time_zone": "Mars/Olympus"}, "/time_zone"),
        ({"time_zone": None}, "/time_zone"),
        ({"categories": None}, "/categories"),
        ({"categories": []}, "/categories"),
        ({"categories": {"gossip": {"sms": True}}}, "/categories/gossip"),
        ({"categories": {"a/b": {}}}, "/categories/a~1b"),
        ({"categories": {"marketing": None}}, "/categories/marketing"),
        ({"categories": {"marketing": True}}, "/categories/marketing"),
        ({"categories": {"marketing": {"fax": True}}}, "/categories/marketing/fax"),
        ({"categories": {"marketing": {"sms": "no"}}}, "/categories/marketing/sms"),
        ({"categories": {f"c-{n}": {} for n in range(101)}}, "/categories"),
        ({"quiet_hours": {}}, "/quiet_hours"),
        ({"quiet_hours": "22:00-07:00"}, "/quiet_hours"),
        ({"quiet_hours": [None]}, "/quiet_hours/0"),
        ({"quiet_hours": [{"start": "22:00"}]}, "/quiet_hours/0/end"),
        ({"quiet_hours": [{"start": "22:00", "end": "7:00"}]}, "/quiet_hours/0/end"),
        ({"quiet_hours": [{"start": "24:00", "end": "07:00"}]}, "/quiet_hours/0"),
        ({"quiet_hours": [{"start": "22:00", "end": 7}]}, "/quiet_hours/0/end"),
        ({"quiet_hours": [{"start": "22:00", "end": "22:00"}]}, "/quiet_hours/0"),
        ({"quiet_hours": [{"start": "22:60", "end": "07:00"}]}, "/quiet_hours/0/start"),
        ({"quiet_hours": [{"start": "٢٢:00", "end": "07:00"}]}, "/quiet_hours/0/start"),
        ({"quiet_hours": [{"start": "22:00", "end": "07:00", "zone": "UTC"}]}, "/quiet_hours/0/zone"),
        ({"quiet_hours": [{"days": [], "start": "22:00", "end": "07:00"}]}, "/quiet_hours/0/days"),
        ({"quiet_hours": [{"days": None, "start": "22:00", "end": "07:00"}]}, "/quiet_hours/0/days"),
        ({"quiet_hours": [{"days": ["Monday"], "start": "22:00", "end": "07:00"}]}, "/quiet_hours/0/days/0"),
        ({"quiet_hours": [{"days": [1], "start": "22:00", "end": "07:00"}]}, "/quiet_hours/0/days/0"),
        ({"quiet_hours": [{"start": "00:00", "end": "24:00"}]}, "/quiet_hours/0"),
        ({"quiet_hours": [{"start": "12:00", "end": "01:00"}, {"start": "01:00", "end": "12:00"}]}, "/quiet_hours"),
        ({"quiet_hours": [{"start": "22:00", "end": f"07:{n:02}"} for n in range(15)]}, "/quiet_hours"),
        ({"quiet_hours": [{"start": 1}] * 20_000}, "/quiet_hours"),
        ({"quiet_hours": [{"days": ["x"] * 50_000, "start": "22:00", "end": "07:00"}]}, "/quiet_hours/0/days"),
        ({"opted_out": True, "channels": {"SMS": True}}, "/channels/SMS"),
    ],
)
def test_bad_preference_is_pointed_at_and_nothing_is_stored(api: APIClient, body: Any, pointer: str) -> None:
    recipient = RecipientFactory(user_id="user-1")
    assert pointers(send(api, "put", "/v1/users/user-1/preferences", body)) == [pointer]
    assert selectors.select_versions(["user-1"]) == {"user-1": (recipient.pk, recipient.version)}


@pytest.mark.parametrize("method", ["get", "put"])
def test_preferences_of_nobody_are_not_found(api: APIClient, method: str) -> None:
    response = send(api, method, "/v1/users/nobody/preferences", {} if method == "put" else None)
    assert response.status_code == 404
    assert response.json()["type"].endswith("unknown-user")


# --- devices ----------------------------------------------------------------------------------------------------------


def test_device_is_registered_refreshed_listed_and_removed(api: APIClient) -> None:
    RecipientFactory(user_id="user-1", devices=[])
    path = "/v1/users/user-1/devices"
    token = {"token": "a-rather-long-device-token"}
    created = send(api, "post", path, token | {"platform": "ios", "app_id": "com.example.app"})
    assert created.status_code == 201
    assert created.json()["token"] == "•••oken"
    again = send(api, "post", path, token | {"platform": "ios", "app_id": "com.example.app"})
    assert again.status_code == 200
    listed = send(api, "get", path).json()["devices"]
    assert [device["id"] for device in listed] == [created.json()["id"]]
    assert send(api, "delete", path, token).status_code == 204
    assert send(api, "delete", path, token).status_code == 404
    assert send(api, "get", path).json() == {"devices": []}


def test_device_is_removed_by_id(api: APIClient) -> None:
    RecipientFactory(user_id="user-1")
    device_id = Device.objects.get().pk
    assert send(api, "delete", f"/v1/users/user-1/devices/{device_id}").status_code == 204
    for number in (device_id, 0, 10**18, 10**30):
        assert send(api, "delete", f"/v1/users/user-1/devices/{number}").status_code == 404


def test_token_moves_to_whom_it_is_registered_for_last(api: APIClient) -> None:
    RecipientFactory(user_id="old", devices=["token-1"])
    RecipientFactory(user_id="new", devices=[])
    assert send(api, "post", "/v1/users/new/devices", {"token": "token-1", "platform": "web"}).status_code == 201
    assert send(api, "get", "/v1/users/old/devices").json() == {"devices": []}
    assert len(send(api, "get", "/v1/users/new/devices").json()["devices"]) == 1


def test_active_devices_are_capped(api: APIClient) -> None:
    RecipientFactory(user_id="user-1", devices=[f"token-{n}" for n in range(MAX_ACTIVE_DEVICES)])
    assert send(api, "post", "/v1/users/user-1/devices", {"token": "one-more", "platform": "ios"}).status_code == 201
    assert len(send(api, "get", "/v1/users/user-1/devices").json()["devices"]) == MAX_ACTIVE_DEVICES


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, ["/platform", "/token"]),
        ({"token": "t", "platform": "fridge"}, ["/platform"]),
        ({"token": "t", "platform": 1}, ["/platform"]),
        ({"token": "t", "platform": None}, ["/platform"]),
        ({"token": "", "platform": "ios"}, ["/token"]),
        ({"token": 5, "platform": "ios"}, ["/token"]),
        ({"token": "a b", "platform": "ios"}, ["/token"]),
        ({"token": "t" * 4097, "platform": "ios"}, ["/token"]),
        ({"token": "t", "platform": "ios", "app_id": "x" * 129}, ["/app_id"]),
        ({"token": "t", "platform": "ios", "app_id": "x\ny"}, ["/app_id"]),
        ({"token": "t", "platform": "ios", "name": "my phone"}, ["/name"]),
    ],
)
def test_bad_device_is_pointed_at_and_nothing_is_stored(api: APIClient, body: Any, expected: list[str]) -> None:
    RecipientFactory(user_id="user-1", devices=[])
    assert pointers(send(api, "post", "/v1/users/user-1/devices", body)) == expected
    assert not Device.objects.exists()


def test_device_of_nobody_is_not_found(api: APIClient) -> None:
    body = {"token": "t", "platform": "ios"}
    assert send(api, "post", "/v1/users/nobody/devices", body).status_code == 404
    assert send(api, "delete", "/v1/users/nobody/devices", {"token": "t"}).status_code == 404
    assert pointers(send(api, "delete", "/v1/users/nobody/devices")) == ["/token"]


# --- who may ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("get", "", "preferences:read"),
        ("put", "", "preferences:write"),
        ("delete", "", "preferences:write"),
        ("get", "/preferences", "preferences:read"),
        ("put", "/preferences", "preferences:write"),
        ("get", "/devices", "preferences:read"),
        ("post", "/devices", "preferences:write"),
        ("delete", "/devices", "preferences:write"),
        ("delete", "/devices/1", "preferences:write"),
    ],
)
def test_each_call_needs_its_scope(method: str, path: str, scope: str) -> None:
    RecipientFactory(user_id="user-1")
    stranger = APIClient()
    assert send(stranger, method, f"/v1/users/user-1{path}").status_code == 401
    for granted, is_let_in in (({"preferences:read", "preferences:write"} - {scope}, False), ({scope}, True)):
        client = APIClient()
        client.credentials(HTTP_AUTHORIZATION=f"Api-Key {make_api_key(make_client(scopes=sorted(granted)))}")
        body = {} if method in {"put", "post"} else None
        response = send(client, method, f"/v1/users/user-1{path}", body)
        assert (response.status_code != 403) is is_let_in


def test_opt_out_answered_200_is_known_to_the_next_decision(api: APIClient) -> None:
    RecipientFactory(user_id="user-1")
    selectors.load_snapshots({"user-1": selectors.select_versions(["user-1"])["user-1"][1]})
    assert send(api, "put", "/v1/users/user-1/preferences", {"channels": {"email": False}}).status_code == 200
    version = selectors.select_versions(["user-1"])["user-1"][1]
    assert Channel.EMAIL in selectors.load_snapshots({"user-1": version})["user-1"].disabled_channels


def test_masks_survive_a_lost_key(api: APIClient, settings: Any) -> None:
    RecipientFactory(user_id="user-1")
    settings.PII_KEYS = {"2": "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="}
    settings.PII_ACTIVE_KEY = "2"
    assert send(api, "get", "/v1/users/user-1").json()["email"] == "•••"
    assert services.upsert_recipient(user_id="user-1", email="ann@example.com")[1] is False

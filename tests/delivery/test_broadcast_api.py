"""Broadcasts over HTTP, on the real database and broker; only the providers are played."""

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode
from uuid import uuid4

import orjson
import pytest
import schemathesis
from django.db import connection, connections
from django.db.utils import OperationalError
from drf_spectacular.generators import SchemaGenerator
from hypothesis import HealthCheck, given, settings
from rest_framework.test import APIClient
from schemathesis import GenerationMode

from apps.channels import Channel
from apps.delivery.api.broadcast_answers import STATES
from apps.delivery.broadcasts import preview
from apps.delivery.broadcasts.models import Broadcast, Chunk, ChunkState, State
from apps.delivery.models import AudienceUpload, Delivery, IdempotencyKey
from apps.delivery.statuses import Status
from apps.delivery.templating.models import Template
from apps.delivery.templating.services import set_archived
from apps.preferences.models import Recipient
from apps.preferences.services import erase_recipient, update_preferences
from apps.providers.messages import ProviderResponse
from tests.clients.factories import make_api_key, make_client
from tests.delivery.broadcasts import run_messages
from tests.delivery.template_bodies import make_template
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db
URL = "/v1/broadcasts"
GONE = ProviderResponse(
    404,
    {"content-type": "application/json"},
    b'{"error": {"code": 404, "status": "NOT_FOUND", "details": '
    b'[{"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": "UNREGISTERED"}]}}',
)
REFUSED = ProviderResponse(
    400,
    {"content-type": "application/json"},
    b'{"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "bad title"}}',
)


def body_for(**changes: Any) -> dict[str, Any]:
    return {
        "name": "Election night",
        "type": "news",
        "channels": ["push"],
        "content": {"title": "Results are in", "body": "Tap to see them."},
        "audience": {"everybody": True},
        **changes,
    }


def post(api, body, key=None, url=URL):
    return api.post(url, body, format="json", headers={"X-Idempotency-Key": key or str(uuid4())})


def order(api, **changes: Any) -> dict[str, Any]:
    response = post(api, body_for(**changes))
    assert response.status_code == 202, response.content
    return response.json()


def steer(api, broadcast, verb, body=None):
    return api.post(f"{URL}/{broadcast['id']}/{verb}", body, format="json")


def assert_problem(response, status, pointer=None, code=None):
    assert response.status_code == status, response.content
    assert response["content-type"] == "application/problem+json"
    document = response.json()
    assert document["detail"]
    if pointer is not None:
        assert [error["pointer"] for error in document["errors"]] == [pointer]
    if code is not None:
        assert document["type"] == f"/problems/{code}"


def other_api(**changes: Any) -> APIClient:
    return APIClient(headers={"Authorization": f"Api-Key {make_api_key(make_client(**changes))}"})


# --- Ordering ---------------------------------------------------------------------------------------------------------


def test_reaches_everybody_and_tells_how_far_it_is(api, wire):
    people = [RecipientFactory() for _ in range(3)]
    RecipientFactory(is_opted_out=True)
    broadcast = order(api, trace_id="trace-1", rate_per_s=100, expires_at="2999-01-01T00:00:00Z")
    assert (broadcast["state"], broadcast["trace_id"], broadcast["rate_per_s"]) == ("scheduled", "trace-1", 100)
    assert broadcast["progress"]["deliveries"] == {}
    run_messages()
    answer = api.get(f"{URL}/{broadcast['id']}").json()
    assert answer["state"] == "completed"
    assert answer["finished_at"]
    progress = answer["progress"]
    assert (progress["recipients"], progress["done"], progress["planned"]) == (4, 4, True)
    assert progress["deliveries"] == {"sent": 3, "suppressed": 1}
    assert len(wire.addresses) == 3
    deliveries = api.get(f"{URL}/{broadcast['id']}/deliveries").json()["results"]
    assert {(one["user_id"], one["status"]) for one in deliveries if one["status"] == "sent"} == {
        (person.user_id, "sent") for person in people
    }
    (refused,) = (one for one in deliveries if one["status"] == "suppressed")
    assert refused["reason"] == "global_opt_out"
    assert refused["explanation"]


def test_goes_to_each_channel_asked_for_once(api, wire):
    RecipientFactory(devices=["one", "two"])
    broadcast = order(api, channels=["email", "push", "email"])
    assert broadcast["channels"] == ["push", "email"]
    run_messages()
    answer = api.get(f"{URL}/{broadcast['id']}").json()
    assert answer["progress"]["recipients"] == 2
    assert answer["progress"]["deliveries"] == {"sent": 3}


def test_content_is_kept_secret(api):
    broadcast = order(api, content={"title": "secret title", "body": "secret body"})
    with connection.cursor() as cursor:
        cursor.execute("SELECT b::text, encode(content_ct, 'escape') FROM broadcast b")
        (row,) = cursor.fetchall()
    assert "secret" not in "".join(row)
    assert "secret" not in str(api.get(f"{URL}/{broadcast['id']}").json())


def test_chooses_people_by_filter_list_and_upload(api, wire):
    for number, plan in enumerate(["pro", "team", "free"]):
        RecipientFactory(user_id=f"user-{number}", attributes={"plan": plan})
    upload = api.generic("POST", "/v1/audiences", "user-2\nuser-0\nuser-2\nnobody\n", content_type="text/csv").json()
    audiences = {
        "filter": {"filter": {"attribute": "plan", "in": ["pro", "team"]}},
        "list": {"user_ids": ["user-1", "nobody", "user-1"]},
        "upload": {"upload_id": upload["id"]},
    }
    ids = {name: order(api, audience=audience)["id"] for name, audience in audiences.items()}
    run_messages()
    reached = {
        name: sorted(one["user_id"] for one in api.get(f"{URL}/{broadcast_id}/deliveries").json()["results"])
        for name, broadcast_id in ids.items()
    }
    assert reached == {"filter": ["user-0", "user-1"], "list": ["user-1"], "upload": ["user-0", "user-2"]}
    assert AudienceUpload.objects.get().is_complete
    assert api.get(f"{URL}/{ids['list']}").json()["audience"] == {"user_ids": 3}
    assert api.get(f"{URL}/{ids['filter']}").json()["audience"] == audiences["filter"]


def test_waits_for_its_time(api, wire):
    RecipientFactory()
    at = datetime.now(UTC) + timedelta(hours=1)
    broadcast = order(api, send_at=at.isoformat())
    run_messages()
    answer = api.get(f"{URL}/{broadcast['id']}").json()
    assert answer["state"] == "scheduled"
    assert datetime.fromisoformat(answer["send_at"]) == at
    assert wire.addresses == []


def test_a_time_that_has_passed_is_now(api):
    assert order(api, send_at="2020-01-01T00:00:00Z")["send_at"] is None


# --- Idempotency ------------------------------------------------------------------------------------------------------


def test_same_key_and_body_makes_one_broadcast(api):
    first, second = post(api, body_for(), "key"), post(api, body_for(), "key")
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.content == second.content
    assert (first.get("Idempotency-Replayed"), second["Idempotency-Replayed"]) == (None, "true")
    assert Broadcast.objects.count() == 1


def test_same_key_with_another_body_is_refused(api):
    post(api, body_for(), "key")
    assert_problem(post(api, body_for(name="Other"), "key"), 422, code="idempotency-key-reused")
    assert Broadcast.objects.count() == 1


def test_keys_of_two_clients_do_not_meet(api):
    assert post(api, body_for(), "key").json()["id"] != post(other_api(), body_for(), "key").json()["id"]


def test_a_notification_and_a_broadcast_do_not_share_a_key(api):
    person = RecipientFactory()
    notification = {"user_id": person.user_id, "type": "x", "priority": "high", "content": {"body": "b"}}
    assert post(api, notification, "key", "/v1/notifications").status_code == 202
    assert_problem(post(api, body_for(), "key"), 422, code="idempotency-key-reused")


@pytest.mark.parametrize(
    ("key", "code"), [(None, "missing"), ("ü", "invalid"), ("a b", "invalid"), ("x" * 256, "invalid")]
)
def test_needs_a_sound_key(api, key, code):
    headers = {} if key is None else {"X-Idempotency-Key": key}
    assert_problem(api.post(URL, body_for(), format="json", headers=headers), 400, code=f"idempotency-key-{code}")


def test_a_refused_order_leaves_nothing_behind(api):
    upload = api.generic("POST", "/v1/audiences", "user-1\n", content_type="text/csv").json()
    body = body_for(audience={"upload_id": upload["id"]}, category="nonsense")
    assert_problem(post(api, body, "key"), 422, "/category")
    assert Broadcast.objects.count() == IdempotencyKey.objects.count() == 0
    assert not AudienceUpload.objects.get().is_complete
    assert post(api, body_for(), "key").status_code == 202


@pytest.mark.django_db(transaction=True)
def test_same_key_while_the_first_is_being_written_is_a_conflict(client_row):
    api = APIClient(headers={"Authorization": f"Api-Key {make_api_key(client_row)}"})
    holder = connections.create_connection("default")
    try:
        holder.set_autocommit(False)
        with holder.cursor() as cursor:
            cursor.execute(
                "INSERT INTO idempotency_key (client_id, key, created_at, fingerprint, response) "
                "VALUES (%s, 'key', now(), '', '')",
                [client_row.pk],
            )
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '50ms'")
        response = post(api, body_for(), "key")
        assert_problem(response, 409, code="idempotency-key-in-progress")
        assert response["Retry-After"] == "1"
        holder.rollback()
        assert post(api, body_for(), "key").status_code == 202
    finally:
        holder.close()
        with connection.cursor() as cursor:
            cursor.execute("RESET lock_timeout")


# --- What it refuses --------------------------------------------------------------------------------------------------

SOON, LATE = "2999-01-01T00:00:00Z", (datetime.now(UTC) + timedelta(days=31)).isoformat()


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"name": ""}, "/name"),
        ({"name": 1}, "/name"),
        ({"type": "has space"}, "/type"),
        ({"channels": []}, "/channels"),
        ({"channels": ["fax"]}, "/channels/0"),
        ({"channels": None}, "/channels"),
        ({"content": {"title": "t"}}, "/content/body"),
        ({"content": {"body": "x" * 5_000}}, "/content/body"),
        ({"content": {"body": "b"}, "channels": ["push"], "data": {"a": "x" * 4_000}}, "/data"),
        ({"data": {"notify_x": "1"}}, "/data/notify_x"),
        ({"audience": {}}, "/audience"),
        ({"audience": None}, "/audience"),
        ({"audience": {"filter": {"all": [{"platform": "x"}]}}}, "/audience/filter/all/0/platform"),
        ({"audience": {"filter": {"category": "nonsense"}}}, "/audience/filter/category"),
        ({"audience": {"upload_id": str(uuid4())}}, "/audience/upload_id"),
        ({"category": "nonsense"}, "/category"),
        ({"send_at": LATE}, "/send_at"),
        ({"send_at": "tomorrow"}, "/send_at"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
        ({"rate_per_s": 0}, "/rate_per_s"),
        ({"rate_per_s": 1.5}, "/rate_per_s"),
        ({"send_window": {"start": "09:00", "end": "20:00"}}, "/send_window/time_zone"),
        ({"send_window": {"start": "9:00", "end": "20:00", "time_zone": "UTC"}}, "/send_window/start"),
        ({"send_window": {"start": "09:00", "end": "24:00", "time_zone": "UTC"}}, "/send_window/end"),
        ({"send_window": {"start": "09:00", "end": "20:00", "time_zone": "Mars/Base"}}, "/send_window/time_zone"),
        ({"canary": {}}, "/canary/share"),
        ({"canary": {"share": 0.6}}, "/canary/share"),
        ({"canary": {"share": 0.1, "max_error_rate": 2}}, "/canary/max_error_rate"),
        ({"trace_id": "ü"}, "/trace_id"),
        ({"dry_run": 1}, "/dry_run"),
        ({"user_id": "u"}, "/user_id"),
    ],
)
@pytest.mark.parametrize("is_dry_run", [False, True])
def test_points_at_the_wrong_field(api, change, pointer, is_dry_run):
    body = body_for(**change) if "dry_run" in change else body_for(**change, dry_run=is_dry_run)
    assert_problem(post(api, body), 422, pointer)
    assert Broadcast.objects.count() == IdempotencyKey.objects.count() == 0


@pytest.mark.parametrize("field", ["name", "type", "channels", "content", "audience"])
def test_names_the_missing_field(api, field):
    body = body_for()
    del body[field]
    assert_problem(post(api, body), 422, f"/{field}")


def test_an_audience_is_its_clients_own(api):
    upload = other_api().generic("POST", "/v1/audiences", "user-1\n", content_type="text/csv").json()
    assert_problem(post(api, body_for(audience={"upload_id": upload["id"]})), 422, "/audience/upload_id")


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("post", "", "broadcasts:write"),
        ("get", "", "broadcasts:read"),
        ("post", "/preview", "broadcasts:write"),
        ("get", "/{id}", "broadcasts:read"),
        ("get", "/{id}/deliveries", "broadcasts:read"),
        ("post", "/{id}/pause", "broadcasts:write"),
        ("post", "/{id}/resume", "broadcasts:write"),
        ("post", "/{id}/cancel", "broadcasts:write"),
        ("post", "/{id}/retry-failed", "broadcasts:write"),
    ],
)
def test_every_call_needs_its_scope_and_its_owner(api, method, path, scope):
    broadcast = order(api)
    url = URL + path.format(id=broadcast["id"])
    assert_problem(getattr(APIClient(), method)(url), 401)
    without = {"broadcasts:write", "broadcasts:read", "notifications:write", "ops:write"} - {scope}
    response = getattr(other_api(scopes=sorted(without)), method)(url)
    assert_problem(response, 403, code="insufficient-scope")
    assert scope in response.json()["detail"]
    if "{id}" in path:
        assert_problem(getattr(other_api(), method)(url), 404)
        assert_problem(getattr(api, method)(URL + path.format(id=uuid4())), 404)
    assert Broadcast.objects.get().state == State.SCHEDULED


# --- Templates --------------------------------------------------------------------------------------------------------


@pytest.fixture
def template(client_row) -> Template:
    texts = [
        {"channel": "push", "locale": "en", "title": "Hi {{ name }}", "body": "Read"},
        {"channel": "push", "locale": "de", "title": "Hallo {{ name }}", "body": "Lies"},
    ]
    return make_template(client_row, "welcome", {"variables": {"name": {"type": "string"}}, "texts": texts})


def with_template(**changes: Any) -> dict[str, Any]:
    body = body_for(template="welcome", context={"name": "all"}, **changes)
    del body["content"]
    return body


def test_a_template_speaks_everybodys_language(api, wire, template):
    for locale in ("en-GB", "de-AT", "fr"):
        RecipientFactory(locale=locale)
    response = post(api, with_template(data={"page": "1"}), "key")
    assert response.status_code == 202, response.content
    run_messages()
    bodies = sorted(orjson.loads(request.body)["message"]["notification"]["title"] for _, request in wire.requests)
    assert bodies == ["Hallo all", "Hi all", "Hi all"]
    set_archived(template, True)
    assert post(api, with_template(data={"page": "1"}), "key").content == response.content
    assert_problem(post(api, with_template()), 422, "/template")


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"template": "nonsense"}, "/template"),
        ({"template": "welcome@9"}, "/template"),
        ({"template": "?"}, "/template"),
        ({"context": {}}, "/context/name"),
        ({"context": {"name": 1}}, "/context/name"),
        ({"context": {"name": "x" * 5_000}}, "/context/name"),
        ({"channels": ["push", "sms"]}, "/channels/1"),
        ({"content": {"body": "b"}}, "/content"),
        ({"data": {"notify_x": "1"}}, "/data/notify_x"),
    ],
)
def test_points_at_what_does_not_fit_the_template(api, template, change, pointer):
    assert_problem(post(api, {**with_template(), **change}), 422, pointer)
    assert Broadcast.objects.count() == 0


def test_a_context_goes_with_a_template_only(api):
    assert_problem(post(api, body_for(context={"name": "x"})), 422, "/context")


# --- Listing ----------------------------------------------------------------------------------------------------------


def test_lists_ones_own_newest_first_by_pages_and_state(api):
    ids = [order(api, name=f"News {number}")["id"] for number in range(5)]
    order(other_api(), name="Not mine")
    steer(api, {"id": ids[1]}, "pause")
    first = api.get(URL, {"limit": 3}).json()
    second = api.get(URL, {"limit": 3, "cursor": first["next"]}).json()
    assert [one["id"] for one in first["results"] + second["results"]] == ids[::-1]
    assert second["next"] is None
    assert [one["id"] for one in api.get(URL, {"state": "paused"}).json()["results"]] == [ids[1]]
    assert api.get(URL, {"state": "completed"}).json() == {"results": [], "next": None}


@pytest.mark.parametrize(
    ("query", "pointer"),
    [({"state": "odd"}, "/state"), ({"limit": "0"}, "/limit"), ({"cursor": "x"}, "/cursor"), ({"foo": "1"}, "/foo")],
)
def test_refuses_odd_filters(api, query, pointer):
    assert_problem(api.get(URL, query), 422, pointer)


def test_lists_deliveries_by_pages_status_and_person(api, wire):
    wire.answer = lambda provider, request: REFUSED if b"token-of-user-1" in request.body else wire_ok(provider)
    people = [RecipientFactory(user_id=f"user-{number}") for number in range(5)]
    update_preferences(user_id="user-2", channels={Channel.PUSH: False})
    broadcast = order(api)
    url = f"{URL}/{broadcast['id']}/deliveries"
    assert api.get(url).json() == {"results": [], "next": None}
    run_messages()
    first = api.get(url, {"limit": 2}).json()
    second = api.get(url, {"limit": 2, "cursor": first["next"]}).json()
    third = api.get(url, {"limit": 2, "cursor": second["next"]}).json()
    found = [one for page in (first, second, third) for one in page["results"]]
    assert sorted(one["user_id"] for one in found) == [person.user_id for person in people]
    assert third["next"] is None
    (failed,) = api.get(url, {"status": "failed"}).json()["results"]
    assert (failed["user_id"], failed["provider"], failed["reason"]) == ("user-1", "fcm", "provider_refused")
    (suppressed,) = api.get(url, {"user_id": "user-2"}).json()["results"]
    assert (suppressed["status"], suppressed["reason"]) == ("suppressed", "channel_opt_out")
    assert api.get(url, {"user_id": "user-2", "status": "sent"}).json()["results"] == []
    assert api.get(url, {"user_id": "nobody"}).json()["results"] == []
    assert_problem(api.get(url, {"status": "odd"}), 422, "/status")


def wire_ok(provider: str) -> ProviderResponse:
    return ProviderResponse(200, {"content-type": "application/json"}, b'{"name": "projects/p/messages/1"}')


@pytest.mark.parametrize("channel", Channel)
def test_finds_a_persons_deliveries_on_every_channel(api, wire, channel):
    RecipientFactory(user_id="me", devices=["one", "two"])
    RecipientFactory(user_id="you")
    broadcast = order(api, channels=[channel.label])
    run_messages()
    found = api.get(f"{URL}/{broadcast['id']}/deliveries", {"user_id": "me"}).json()["results"]
    assert [one["user_id"] for one in found] == ["me"] * (2 if channel is Channel.PUSH else 1)


# --- Steering ---------------------------------------------------------------------------------------------------------


def test_pauses_resumes_and_cancels(api, wire):
    RecipientFactory()
    broadcast = order(api)
    assert steer(api, broadcast, "pause").json()["state"] == "paused"
    assert steer(api, broadcast, "pause").status_code == 200
    run_messages()
    assert wire.addresses == []
    assert steer(api, broadcast, "resume").json()["state"] == "scheduled"
    run_messages()
    assert len(wire.addresses) == 1
    assert_problem(steer(api, broadcast, "cancel"), 409, code="broadcast-state")
    assert "completed" in steer(api, broadcast, "pause").json()["detail"]


@pytest.mark.parametrize(("state", "has_eta"), [("running", True), ("paused", False), ("halted", False)])
def test_says_when_it_will_be_done_only_while_it_goes_on(api, wire, state, has_eta):
    person = RecipientFactory()
    RecipientFactory()
    broadcast = order(api)
    Broadcast.objects.update(chunk_size=1)
    run_messages()
    Chunk.objects.filter(no=2).update(state=ChunkState.WAITING, done_at=None, recipient_ids=[person.id])
    Broadcast.objects.update(state=STATES[state], finished_at=None, state_since=datetime.now(UTC))
    progress = api.get(f"{URL}/{broadcast['id']}").json()["progress"]
    assert (progress["done"], progress["rate_per_s"] > 0) == (1, True)
    assert (progress["eta"] is not None) is has_eta


def test_a_cancelled_one_sends_nothing(api, wire):
    RecipientFactory()
    broadcast = order(api)
    assert steer(api, broadcast, "cancel").json()["state"] == "cancelled"
    run_messages()
    assert wire.addresses == []
    assert_problem(steer(api, broadcast, "resume"), 409, code="broadcast-state")


def test_tries_what_failed_again_but_no_dead_address(api, wire):
    for name in ("good", "refused", "gone"):
        RecipientFactory(user_id=name, devices=[f"token-{name}"])
    wire.answer = lambda provider, request: (
        REFUSED if b"token-refused" in request.body else GONE if b"token-gone" in request.body else wire_ok(provider)
    )
    broadcast = order(api)
    run_messages()
    assert api.get(f"{URL}/{broadcast['id']}").json()["progress"]["deliveries"] == {"sent": 1, "failed": 2}
    assert_problem(steer(api, broadcast, "retry-failed", {"statuses": ["sent"]}), 422, "/statuses/0")
    assert steer(api, broadcast, "retry-failed", {"statuses": ["dead"]}).json()["retried"] == 0
    assert steer(api, broadcast, "retry-failed").json() == {"id": broadcast["id"], "retried": 1}
    (again,) = Delivery.objects.filter(status=Status.QUEUED)
    assert again.recipient.user_id == "refused"


# --- Preview ----------------------------------------------------------------------------------------------------------


def look(api, **body: Any):
    response = api.post(f"{URL}/preview", {"audience": {"everybody": True}, **body}, format="json")
    assert response.status_code == 200, response.content
    return response.json()["channels"]


def test_previews_few_people_exactly(api):
    for _ in range(4):
        RecipientFactory()
    RecipientFactory(phone=None)
    RecipientFactory(is_opted_out=True)
    RecipientFactory(user_id="erased")
    erase_recipient(user_id="erased")
    channels = look(api)
    assert list(channels) == ["push", "sms", "email"]
    assert [one["matching"] for one in channels.values()] == [{"count": 6, "is_estimate": False}] * 3
    assert [one["reachable"]["count"] for one in channels.values()] == [5, 4, 5]
    assert channels["sms"]["sample"] == 6
    assert {(one["action"], one["reason"], one["people"]) for one in channels["sms"]["decisions"]} == {
        ("send", "allowed", 4),
        ("suppress", "no_address", 1),
        ("suppress", "global_opt_out", 1),
    }
    assert Broadcast.objects.count() == Delivery.objects.count() == 0


def test_previews_as_of_the_time_of_sending(api):
    person = RecipientFactory(time_zone="UTC")
    quiet = {
        "quiet_hours": [{"days": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"], "start": "22:00", "end": "07:00"}]
    }
    api.put(f"/v1/users/{person.user_id}/preferences", quiet, format="json")
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).date().isoformat()
    night = {"send_at": f"{tomorrow}T23:00:00Z", "channels": ["push"]}
    assert look(api, **night)["push"]["decisions"] == [{"action": "defer", "reason": "quiet_hours", "people": 1}]
    assert look(api, **night)["push"]["reachable"]["count"] == 1
    night["expires_at"] = f"{tomorrow}T23:30:00Z"
    assert look(api, **night)["push"]["decisions"] == [{"action": "expire", "reason": "quiet_hours", "people": 1}]
    assert look(api, **night)["push"]["reachable"]["count"] == 0
    noon = {"send_at": f"{tomorrow}T12:00:00Z", "channels": ["push"]}
    assert look(api, **noon)["push"]["decisions"] == [{"action": "send", "reason": "allowed", "people": 1}]


def test_an_audience_of_nobody_is_previewed(api):
    channels = look(api, audience={"filter": {"attribute": "plan", "is": "none"}}, channels=["sms"])
    assert channels == {
        "sms": {
            "matching": {"count": 0, "is_estimate": False},
            "reachable": {"count": 0, "is_estimate": False},
            "sample": 0,
            "decisions": [],
        }
    }


def test_a_dry_run_previews_the_order(api):
    RecipientFactory()
    upload = api.generic("POST", "/v1/audiences", "nobody\n", content_type="text/csv").json()
    response = post(api, body_for(dry_run=True, channels=["sms"], audience={"upload_id": upload["id"]}))
    assert response.status_code == 200
    assert response.json()["dry_run"] is True
    assert response.json()["channels"]["sms"]["matching"] == {"count": 0, "is_estimate": False}
    assert Broadcast.objects.count() == IdempotencyKey.objects.count() == 0
    assert not AudienceUpload.objects.get().is_complete


def test_looks_at_a_part_of_many_people(api, monkeypatch):
    Recipient.objects.bulk_create(
        Recipient(user_id=f"many-{number}", is_opted_out=number % 4 == 0) for number in range(800)
    )
    RecipientFactory()
    monkeypatch.setattr(preview, "SAMPLE", 200)
    # In a random order; and by blocks of the table, each taken or not by chance, half of them on average.
    for sorted_max, fewest in ((10_000, 200), (300, 20)):
        monkeypatch.setattr(preview, "_SORTED_MAX", sorted_max)
        push = look(api, channels=["push"])["push"]
        assert push["matching"] == {"count": 801, "is_estimate": False}
        assert fewest <= push["sample"] <= 200
        assert push["reachable"]["is_estimate"]
        assert push["reachable"]["count"] <= 5 * 200 / push["sample"]
        opted_out = sum(one["people"] for one in push["decisions"] if one["reason"] == "global_opt_out")
        assert 0.1 < opted_out / push["sample"] < 0.4


def test_estimates_what_takes_too_long_to_count(api, monkeypatch):
    Recipient.objects.bulk_create(Recipient(user_id=f"many-{number}") for number in range(800))
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE preferences_recipient")
    asked = []

    def too_slow(sql, params, until):
        asked.append(sql)
        return preview_ask("SELECT pg_sleep(5)", [], until)

    preview_ask = preview._ask
    monkeypatch.setattr(preview, "BUDGET_S", 0.2)
    monkeypatch.setattr(preview, "_ask", too_slow)  # stands for a table that is too large for a test
    push = look(api, channels=["push"])["push"]
    assert push["matching"] == {"count": 800, "is_estimate": True}
    assert (push["reachable"], push["sample"], push["decisions"]) == (None, 0, [])
    assert len(asked) == 2
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('statement_timeout')")
        assert cursor.fetchone() == ("0",)


def test_estimates_from_a_part_of_the_table(api, monkeypatch):
    Recipient.objects.bulk_create(
        Recipient(user_id=f"many-{number}", attributes={"age": number % 100}) for number in range(800)
    )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE preferences_recipient")
    monkeypatch.setattr(preview, "_COUNT_SHARE", 0.0)
    monkeypatch.setattr(preview, "BUDGET_S", 5.0)
    audience = {"filter": {"attribute": "age", "below": 25}}
    push = look(api, channels=["push"], audience=audience)["push"]
    assert push["matching"] == {"count": 200, "is_estimate": True}
    assert push["sample"] == 200
    assert push["reachable"] == {"count": 0, "is_estimate": True}
    few = {"filter": {"attribute": "age", "is": 7}}
    assert look(api, channels=["push"], audience=few)["push"]["sample"] == 8


def test_estimates_an_upload_by_its_lines(api, monkeypatch):
    RecipientFactory(user_id="user-1")
    upload = api.generic("POST", "/v1/audiences", "user-1\nuser-1\n", content_type="text/csv").json()
    monkeypatch.setattr(preview, "_COUNT_SHARE", 0.0)
    push = look(api, channels=["push"], audience={"upload_id": upload["id"]})["push"]
    assert push["matching"] == {"count": 2, "is_estimate": True}
    assert (push["sample"], push["decisions"][0]["action"]) == (1, "send")


def test_a_database_that_is_away_is_no_estimate(api, monkeypatch):
    monkeypatch.setattr(preview, "transaction", Broken())
    assert_problem(api.post(f"{URL}/preview", {"audience": {"everybody": True}}, format="json"), 503)


class Broken:
    """Stands for a connection that is gone."""

    def atomic(self):
        raise OperationalError("the connection is closed")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/audience"),
        ({"audience": {"everybody": True}, "channels": []}, "/channels"),
        ({"audience": {"everybody": True}, "category": "nonsense"}, "/category"),
        ({"audience": {"everybody": True}, "send_at": LATE}, "/send_at"),
        ({"audience": {"everybody": True}, "expires_at": "2020-01-01T00:00:00Z"}, "/expires_at"),
        ({"audience": {"upload_id": str(uuid4())}}, "/audience/upload_id"),
        ({"audience": {"everybody": True}, "name": "x"}, "/name"),
    ],
)
def test_preview_points_at_the_wrong_field(api, body, pointer):
    assert_problem(api.post(f"{URL}/preview", body, format="json"), 422, pointer)


# --- Anything else ----------------------------------------------------------------------------------------------------

PATHS = (
    ("POST", "/v1/broadcasts"),
    ("GET", "/v1/broadcasts"),
    ("POST", "/v1/broadcasts/preview"),
    ("POST", "/v1/broadcasts/{broadcast_id}/retry-failed"),
    ("GET", "/v1/broadcasts/{broadcast_id}/deliveries"),
    ("POST", "/v1/audiences"),
    ("POST", "/v1/audiences/{audience_id}/lines"),
)


@pytest.fixture(scope="module")
def schema() -> Any:
    return schemathesis.openapi.from_dict(SchemaGenerator().get_schema(request=None, public=True))


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), PATHS)
def test_no_request_makes_the_server_fail(api, client_row, schema, method, path, mode):
    RecipientFactory(user_id="user-1")
    known = {"broadcast_id": order(api)["id"]}
    cases = schema[path][method].as_strategy(generation_mode=mode)

    @settings(max_examples=30, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=cases)
    def check(case: Any) -> None:
        url = case.path
        for name, value in (case.path_parameters or {}).items():
            url = url.replace(f"{{{name}}}", quote(str(known.get(name, value)), safe=""))
        if case.query:
            url = f"{url}?{urlencode(case.query, doseq=True, errors='replace')}"
        try:
            body = orjson.dumps(case.body) if case.body is not None else b""
        except TypeError:  # what JSON cannot say, or is not there
            body = b"" if repr(case.body) == "<NOT_SET>" else repr(case.body).encode(errors="replace")
        kind = case.media_type or "application/json"
        headers = {"X-Idempotency-Key": str(uuid4())}
        response = api.generic(method, url, body, content_type=kind, headers=headers)
        assert response.status_code < 500, response.content
        if response.status_code >= 400:
            assert response["Content-Type"] == "application/problem+json"

    check()

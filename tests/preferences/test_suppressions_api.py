"""``/v1/suppressions``: the ledger through the API."""

from datetime import UTC, datetime
from typing import Any

import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rest_framework.response import Response
from rest_framework.test import APIClient

from apps.channels import Channel
from apps.preferences import cipher, ledger, policy, selectors, services
from apps.preferences.categories import CategoryRules, Kind
from apps.preferences.models import Suppression
from tests.clients.factories import make_api_key, make_client
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db

URL = "/v1/suppressions"
ANN = {"channel": "email", "address": "Ann@example.com", "reason": "complained", "evidence": "ticket 4711"}


def api_of(*scopes: str) -> APIClient:
    client = APIClient()
    made = make_client(name="team-a", scopes=scopes or ("preferences:read", "preferences:write"))
    client.credentials(HTTP_AUTHORIZATION=f"Api-Key {make_api_key(made)}")
    return client


@pytest.fixture
def api() -> APIClient:
    return api_of()


def send(api: APIClient, method: str, path: str, body: Any = None) -> Response:
    return getattr(api, method)(f"{URL}{path}", body, format="json")


def is_suppressed(user_id: str, channel: Channel) -> bool:
    version = selectors.select_versions([user_id])[user_id][1]
    return channel in selectors.load_snapshots({user_id: version})[user_id].suppressed_channels


# --- suppressing ------------------------------------------------------------------------------------------------------


def test_address_is_suppressed_for_whoever_has_it_and_the_entry_says_who_and_why(api: APIClient) -> None:
    RecipientFactory(user_id="user-1", email="ann@EXAMPLE.com")
    response = send(api, "post", "", ANN)
    assert response.status_code == 201
    body = response.json()
    assert body == {
        "id": body["id"], "channel": "email", "reason": "complained", "source": "api", "evidence": "ticket 4711",
        "added_by": "client team-a", "created_at": body["created_at"], "lifted_at": None, "lifted_by": "",
        "lift_reason": "",
    }  # fmt: skip
    assert is_suppressed("user-1", Channel.EMAIL)


def test_suppressing_again_changes_nothing(api: APIClient) -> None:
    first = send(api, "post", "", ANN)
    again = send(api, "post", "", {**ANN, "reason": "another"})
    assert again.status_code == 200
    assert again.json() == first.json()


def test_address_that_nobody_has_is_suppressed_before_anybody_gets_it(api: APIClient) -> None:
    send(api, "post", "", ANN)
    RecipientFactory(user_id="user-1", email="ann@example.com")
    assert is_suppressed("user-1", Channel.EMAIL)


def test_users_address_is_suppressed_by_name(api: APIClient) -> None:
    RecipientFactory(user_id="user-1", phone="+15005550006")
    RecipientFactory(user_id="user-2", phone="+15005550006")
    assert send(api, "post", "", {"channel": "sms", "user_id": "user-1", "reason": "blocked"}).status_code == 201
    assert is_suppressed("user-2", Channel.SMS)


def test_push_token_is_suppressed_by_itself(api: APIClient) -> None:
    RecipientFactory(user_id="user-1", devices=["token-1", "token-2"])
    send(api, "post", "", {"channel": "push", "address": "token-1", "reason": "stolen phone"})
    version = selectors.select_versions(["user-1"])["user-1"][1]
    snapshot = selectors.load_snapshots({"user-1": version})["user-1"]
    assert [selectors.reveal_address(snapshot, Channel.PUSH, device.id) for device in snapshot.devices] == ["token-2"]


@pytest.mark.parametrize("kind", [Kind.TRANSACTIONAL, Kind.CRITICAL])
def test_no_kind_of_message_passes_a_suppression(api: APIClient, kind: Kind) -> None:
    RecipientFactory(user_id="user-1")
    send(api, "post", "", {"channel": "email", "user_id": "user-1", "reason": "bounced"})
    snapshot = selectors.load_snapshots({"user-1": selectors.select_versions(["user-1"])["user-1"][1]})["user-1"]
    decision = policy.decide(
        snapshot, Channel.EMAIL, CategoryRules(1, "x", kind), datetime(2026, 1, 31, 12, tzinfo=UTC)
    )
    assert decision.reason is policy.Reason.ADDRESS_SUPPRESSED


# --- lifting ----------------------------------------------------------------------------------------------------------


def test_lifting_is_explicit_and_stays_in_the_ledger(api: APIClient) -> None:
    RecipientFactory(user_id="user-1", email="ann@example.com")
    number = send(api, "post", "", ANN).json()["id"]
    response = send(api, "delete", f"/{number}", {"reason": "mailbox works again"})
    assert response.status_code == 200
    body = response.json()
    assert body["lifted_at"]
    assert (body["lifted_by"], body["lift_reason"]) == ("client team-a", "mailbox works again")
    assert not is_suppressed("user-1", Channel.EMAIL)
    again = send(api, "delete", f"/{number}", {"reason": "another"})
    assert (again.status_code, again.json()) == (200, body)
    assert send(api, "get", f"/{number}").json() == body


def test_address_lifted_and_suppressed_anew_has_two_entries(api: APIClient) -> None:
    number = send(api, "post", "", ANN).json()["id"]
    send(api, "delete", f"/{number}", {"reason": "mistake"})
    assert send(api, "post", "", ANN).status_code == 201
    found = send(api, "post", ":search", {"channel": "email", "address": "ANN@example.com"}).json()
    assert [row["lifted_at"] is None for row in found["results"]] == [True, False]


@pytest.mark.parametrize("target", [{"address": "+1 500 555-0006"}, {"user_id": "user-1"}])
def test_lifting_by_address_or_user(api: APIClient, target: dict[str, str]) -> None:
    RecipientFactory(user_id="user-1", phone="+15005550006")
    send(api, "post", "", {"channel": "sms", "user_id": "user-1", "reason": "blocked"})
    body = {"channel": "sms", "reason": "asked for it", **target}
    assert send(api, "post", ":lift", body).json()["lift_reason"] == "asked for it"
    assert not is_suppressed("user-1", Channel.SMS)
    assert send(api, "post", ":lift", body).status_code == 404


def test_lift_without_a_reason_is_refused(api: APIClient) -> None:
    number = send(api, "post", "", ANN).json()["id"]
    for body in (None, {}, {"reason": ""}, {"reason": None}, {"reason": "a\nb"}, {"reason": "x" * 513}):
        assert send(api, "delete", f"/{number}", body).status_code == 422
    assert Suppression.objects.get().lifted_at is None


# --- reading ----------------------------------------------------------------------------------------------------------


def fill(count: int) -> list[int]:
    for number in range(count):
        index = cipher.blind_index("email", f"user-{number}@example.com")
        services.suppress_blind_index(channel=Channel.EMAIL, address_bi=index, source="sendgrid", reason="bounced")
    return list(Suppression.objects.order_by("-pk").values_list("pk", flat=True))


def test_list_comes_in_pages_newest_first(api: APIClient) -> None:
    numbers = fill(7)
    seen: list[int] = []
    cursor: str | None = ""
    while cursor is not None:
        page = send(api, "get", f"?limit=3{cursor and '&cursor=' + cursor}").json()
        seen += [row["id"] for row in page["results"]]
        cursor = page["next"]
    assert seen == numbers


def test_list_is_filtered(api: APIClient) -> None:
    RecipientFactory(user_id="user-1", email="user-0@example.com", phone="+15005550006", devices=["token-1"])
    fill(2)
    send(api, "post", "", {"channel": "sms", "user_id": "user-1", "reason": "blocked"})
    send(api, "post", "", {"channel": "push", "address": "token-1", "reason": "blocked"})
    send(api, "post", ":lift", {"channel": "sms", "user_id": "user-1", "reason": "mistake"})

    def channels(query: str) -> list[str]:
        return [row["channel"] for row in send(api, "get", query).json()["results"]]

    assert channels("") == ["push", "email", "email"]
    assert channels("?channel=email") == ["email", "email"]
    assert channels("?state=lifted") == ["sms"]
    assert channels("?user_id=user-1") == ["push", "email"]
    assert channels("?user_id=user-1&state=all&channel=sms") == ["sms"]


@pytest.mark.parametrize(
    "query",
    [
        "?channel=fax", "?channel=", "?state=some", "?limit=0", "?limit=101", "?limit=x", "?limit=-1", "?limit=",
        "?limit=٣", "?cursor=", "?cursor=x", "?cursor=0", "?cursor=99999999999999999999", "?user_id=",
        "?user_id=nobody", "?user_id=a%2Fb", "?address=ann@example.com", "?nonsense=1",
    ],
)  # fmt: skip
def test_garbage_in_the_query_is_422(api: APIClient, query: str) -> None:
    assert send(api, "get", query).status_code == 422


def test_unknown_entries_are_404(api: APIClient) -> None:
    for number in (1, 2**63, 10**40):
        assert send(api, "get", f"/{number}").status_code == 404
        assert send(api, "delete", f"/{number}", {"reason": "x"}).status_code == 404
    assert send(api, "get", "/x").status_code == 404


def test_search_of_an_address_nobody_suppressed_is_empty(api: APIClient) -> None:
    RecipientFactory(user_id="user-1", phone=None)
    assert send(api, "post", ":search", {"channel": "email", "address": "a@example.com"}).json()["results"] == []
    assert send(api, "post", ":search", {"channel": "sms", "user_id": "user-1"}).json()["results"] == []


# --- what is refused --------------------------------------------------------------------------------------------------

GARBAGE = [None, True, 0, 1.5, "", " ", "\t", "a" * 5_000, [], ["a"], {}, "•••"]


@pytest.mark.parametrize("value", GARBAGE, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("name", ["channel", "address", "reason", "evidence", "user_id"])
def test_garbage_in_a_field_is_422_and_stores_nothing(api: APIClient, name: str, value: Any) -> None:
    if (name, value) in [("evidence", ""), ("reason", "•••"), ("evidence", "•••")]:
        return  # these are texts like others
    body = {**ANN, name: value}
    if name == "user_id":
        body.pop("address")
    for path, unknown in (("", set()), (":lift", {"evidence"}), (":search", {"evidence", "reason"})):
        if name not in unknown:
            sent = {key: item for key, item in body.items() if key not in unknown}
            assert send(api, "post", path, sent).status_code == 422
    assert not Suppression.objects.exists()


@pytest.mark.parametrize(
    "body",
    [
        {}, {"channel": "email", "reason": "x"}, {**ANN, "user_id": "user-1"}, {**ANN, "x": 1}, {**ANN, "source": "x"},
        {"channel": "email", "user_id": "nobody", "reason": "x"},
        {"channel": "sms", "user_id": "user-1", "reason": "x"},
        {"channel": "push", "user_id": "user-1", "reason": "x"}, {**ANN, "evidence": "from ann@example.com"},
        {**ANN, "evidence": "called +1 500 555 0006"}, {**ANN, "reason": "ann@example.com"}, {**ANN, "channel": "sms"},
    ],
)  # fmt: skip
def test_wrong_bodies_are_422_and_store_nothing(api: APIClient, body: dict[str, Any]) -> None:
    RecipientFactory(user_id="user-1", phone=None)
    response = send(api, "post", "", body)
    assert response.status_code == 422
    assert b"ann@example.com" not in response.content.lower()
    assert not Suppression.objects.exists()


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("get", "", "preferences:write"), ("post", "", "preferences:read"), ("get", "/1", "preferences:write"),
        ("delete", "/1", "preferences:read"), ("post", ":search", "preferences:write"),
        ("post", ":lift", "preferences:read"),
    ],
)  # fmt: skip
def test_every_call_needs_its_scope(method: str, path: str, scope: str) -> None:
    assert send(api_of(scope), method, path, ANN).status_code == 403
    assert send(APIClient(), method, path, ANN).status_code == 401


def test_address_is_stored_nowhere(api: APIClient) -> None:
    send(api, "post", "", ANN)
    with connection.cursor() as cursor:
        cursor.execute("SELECT s::text FROM preferences_suppression s")
        assert "ann@" not in str(cursor.fetchall()).lower()


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text(max_size=600))
def test_notes_are_one_line_without_addresses_or_refused(text: str) -> None:
    try:
        assert ledger.check_note(text) == text
    except ValueError:
        return
    assert text.isprintable()
    assert len(text) <= 512

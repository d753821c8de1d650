from uuid import uuid4

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from rest_framework.test import APIClient

from apps.channels import Channel
from apps.delivery import dispatch, receipts
from apps.delivery.statuses import Reason, Status
from tests.clients.factories import make_api_key, make_client
from tests.delivery.conftest import ACCEPTED, REFUSED
from tests.delivery.factories import accept, reload
from tests.delivery.test_receipts import twilio
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db
URL = "/v1/dead-letters"
SCOPES = ["dead-letters:read", "dead-letters:write"]


@pytest.fixture
def client_row(db):
    return make_client(scopes=SCOPES)


@pytest.fixture
def dead(client_row, wire, settings):
    """Two deliveries that died at Twilio, one at SendGrid."""
    settings.DELIVERY_MAX_ATTEMPTS = 1
    wire.answer = lambda provider, request: REFUSED
    recipient = RecipientFactory()
    deliveries = [accept(client_row.id, recipient.user_id)[0] for _ in range(2)]
    deliveries += accept(client_row.id, recipient.user_id, channels=(Channel.EMAIL,))
    dispatch.deliver([one.id for one in deliveries])
    assert {reload(one).status for one in deliveries} == {Status.DEAD}
    wire.answer = lambda provider, request: ACCEPTED[provider]
    return deliveries


def ids_of(response):
    return [one["id"] for one in response.json()["results"]]


def test_dead_letters_are_listed_with_their_cause(api, dead):
    letters = api.get(URL).json()["results"]
    assert [one["id"] for one in letters] == [str(one.id) for one in reversed(dead)]
    assert {(one["reason"], one["error_code"]) for one in letters} == {("attempts_used_up", "503")}
    assert all(one["explanation"] for one in letters)


def test_filters_and_pages(api, dead):
    assert len(ids_of(api.get(URL, {"provider": "twilio"}))) == 2
    assert len(ids_of(api.get(URL, {"channel": "email", "error_code": "503"}))) == 1
    assert ids_of(api.get(URL, {"reason": "poison"})) == []
    assert ids_of(api.get(URL, {"until": "2020-01-01T00:00:00Z"})) == []
    first = api.get(URL, {"limit": 2})
    assert len(ids_of(first)) == 2
    second = api.get(URL, {"limit": 2, "cursor": first.json()["next"]})
    assert ids_of(first) + ids_of(second) == [str(one.id) for one in reversed(dead)]


@pytest.mark.parametrize("query", ["provider=pigeon", "channel=fax", "reason=x", "since=x", "limit=0", "colour=red"])
def test_bad_filter_is_pointed_at(api, query):
    response = api.get(f"{URL}?{query}")
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/" + query.split("=")[0]


def test_one_is_replayed_and_sent(api, dead):
    response = api.post(f"{URL}/replay", {"ids": [str(dead[0].id)]}, format="json")
    assert response.json() == {"replayed": 1}
    row = reload(dead[0])
    assert (row.status, row.reason, row.attempts) == (Status.QUEUED, Reason.REPLAYED, 0)
    dispatch.deliver([one.id for one in dead])
    assert [reload(one).status for one in dead] == [Status.SENT, Status.DEAD, Status.DEAD]


def test_all_matching_are_replayed_at_the_rate(api, dead):
    response = api.post(f"{URL}/replay", {"filter": {"provider": "twilio"}, "rate_per_s": 0.5}, format="json")
    assert response.json() == {"replayed": 2}
    first, second = (reload(one) for one in dead[:2])
    assert (second.next_attempt_at - first.next_attempt_at).total_seconds() == 2.0
    assert reload(dead[2]).status == Status.DEAD


def test_what_was_delivered_since_is_not_doubled(api, dead):
    twilio(dead[0], "delivered")
    receipts.apply_pending()
    assert api.post(f"{URL}/replay", {"filter": {}}, format="json").json() == {"replayed": 2}
    assert reload(dead[0]).status == Status.DELIVERED
    assert api.post(f"{URL}/replay", {"filter": {}}, format="json").json() == {"replayed": 0}


def test_another_client_sees_and_replays_nothing_but_an_operator_does(api, dead):
    other = APIClient(headers={"Authorization": f"Api-Key {make_api_key(make_client(scopes=SCOPES))}"})
    assert ids_of(other.get(URL)) == []
    assert other.post(f"{URL}/replay", {"ids": [str(dead[0].id)]}, format="json").json() == {"replayed": 0}
    operator = APIClient(
        headers={"Authorization": f"Api-Key {make_api_key(make_client(scopes=[*SCOPES, 'ops:read']))}"}
    )
    assert len(ids_of(operator.get(URL))) == 3


@pytest.mark.parametrize(
    "body",
    [{}, {"ids": []}, {"ids": ["x"]}, {"ids": [str(uuid4())], "filter": {}}, {"filter": {"provider": "x"}},
     {"filter": {}, "rate_per_s": 0}, {"filter": {}, "limit": 0}, {"filter": {"colour": 1}}, []],
)  # fmt: skip
def test_bad_replay_is_refused(api, dead, body):
    assert api.post(f"{URL}/replay", body, format="json").status_code in (400, 422)
    assert {reload(one).status for one in dead} == {Status.DEAD}


def test_command_replays_what_matches(dead, capsys):
    call_command("replay_dead_letters", provider="sendgrid", rate=10.0)
    assert "1 dead deliveries put back" in capsys.readouterr().out
    assert reload(dead[2]).status == Status.QUEUED
    with pytest.raises(CommandError, match="no provider"):
        call_command("replay_dead_letters", provider="pigeon")

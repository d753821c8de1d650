"""``GET /v1/providers`` and the gauges: how the providers are doing."""

from collections.abc import Iterator
from typing import Any

import pytest
from django_redis import get_redis_connection
from pytest_django.fixtures import Settings
from rest_framework.test import APIClient

from apps import metrics, redis_script
from apps.providers import breaker, orders, quotas, routing
from apps.providers.models import ForcedState
from apps.providers.recent_errors import KEPT_CODES, note_errors, select_recent_errors
from tests.clients.factories import make_api_key, make_client
from tests.providers.accounts import sendgrid_options, twilio_options

CLOSED_PORT_URL = "redis://127.0.0.1:1/0"
pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def accounts(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    adapters = "apps.providers.adapters"
    settings.PROVIDERS = {
        "twilio": {
            "id": 3,
            "adapter": f"{adapters}.twilio.TwilioAdapter",
            "quota": {"per_second": 100, "per_minute": 0},
            "options": twilio_options(),
        },
        "sendgrid": {"id": 5, "adapter": f"{adapters}.sendgrid.SendGridAdapter", "options": sendgrid_options()},
        "spare": {"id": 6, "adapter": f"{adapters}.sendgrid.SendGridAdapter", "options": {}},
    }
    settings.ROUTES = {"sms": ["twilio"], "email": ["sendgrid"]}
    get_redis_connection("default").flushdb()
    monkeypatch.setattr(redis_script, "availability", redis_script.Availability())
    monkeypatch.setattr(breaker, "_storages", {})
    orders.orders.forget()
    routing.forget_routes()
    yield
    orders.orders.forget()
    routing.forget_routes()


@pytest.fixture
def api() -> APIClient:
    return APIClient(headers={"Authorization": f"Api-Key {make_api_key(make_client(scopes=['ops:read']))}"})


def read(api: APIClient) -> dict[str, Any]:
    answer = api.get("/v1/providers")
    assert answer.status_code == 200, answer.content
    return {provider["alias"]: provider for provider in answer.json()["providers"]}


def test_every_account_is_listed_with_its_state(api: APIClient):
    found = read(api)
    assert list(found) == ["twilio", "sendgrid", "spare"]
    assert found["twilio"] == {
        "alias": "twilio",
        "channel": "sms",
        "is_configured": True,
        "is_routed": True,
        "breaker": {
            "state": "closed",
            "is_forced": False,
            "reason": "",
            "failure_rate": 0.0,
            "volume": 0,
            "retry_after_s": 0.0,
        },
        "quota": {"per_second": 100, "per_minute": 0, "used": 0.0},
        "recent_errors": [],
    }
    assert (found["spare"]["is_configured"], found["spare"]["is_routed"]) == (False, False)
    assert found["sendgrid"]["quota"]["used"] is None


def test_an_open_breaker_says_when_it_is_tried_again(api: APIClient):
    breaker.report("twilio", 10, 30)
    found = read(api)["twilio"]["breaker"]
    assert (found["state"], found["failure_rate"], found["volume"]) == ("open", 0.75, 40)
    assert 0 < found["retry_after_s"] <= 5


def test_a_forced_breaker_says_why(api: APIClient):
    orders.order_breaker(alias="twilio", state=ForcedState.OPEN, reason="invoice dispute", operator="ada")
    found = read(api)["twilio"]["breaker"]
    assert (found["state"], found["is_forced"], found["reason"]) == ("open", True, "invoice dispute")


def test_the_used_quota_is_shown(api: APIClient):
    quotas.take("twilio", 50)
    assert read(api)["twilio"]["quota"]["used"] == pytest.approx(0.5, abs=0.2)


def test_the_last_codes_are_shown_the_latest_first(api: APIClient):
    note_errors("twilio", ["21211"])
    note_errors("twilio", ["20429"])
    errors = read(api)["twilio"]["recent_errors"]
    assert {error["code"] for error in errors} == {"21211", "20429"}
    assert all(error["at"].endswith("Z") for error in errors)


def test_only_so_many_codes_are_kept():
    for number in range(KEPT_CODES + 5):
        note_errors("twilio", [str(number)])
    assert len(select_recent_errors("twilio")) == KEPT_CODES


def test_the_list_is_there_while_redis_is_away(api: APIClient, settings: Settings):
    settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": CLOSED_PORT_URL}}
    found = read(api)["twilio"]
    assert found["breaker"]["state"] == "closed"
    assert (found["quota"]["used"], found["recent_errors"]) == (None, [])


def test_the_scope_is_asked_for():
    api = APIClient(headers={"Authorization": f"Api-Key {make_api_key(make_client(scopes=['notifications:read']))}"})
    answer = api.get("/v1/providers")
    assert answer.status_code == 403
    assert "ops:read" in answer.json()["detail"]


def test_gauges_show_configured_accounts():
    breaker.report("twilio", 0, 20)
    gauges = {gauge.name: gauge.read() for gauge in metrics.registered_gauges()}
    assert gauges["notify_breaker_state"] == {("twilio",): 2.0, ("sendgrid",): 0.0}
    assert gauges["notify_breaker_failure_ratio"] == {("twilio",): 1.0, ("sendgrid",): 0.0}
    assert gauges["notify_quota_used_ratio"][("twilio",)] == 0.0

"""Routes and breakers in Django admin."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse
from pytest_django.fixtures import Settings

from apps.channels import Channel
from apps.providers import breaker, orders, routing
from apps.providers.models import BreakerOrder, Route
from apps.providers.recent_errors import note_errors
from tests.providers.accounts import sendgrid_options, twilio_options

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def accounts(settings: Settings) -> Iterator[None]:
    adapters = "apps.providers.adapters"
    settings.PROVIDERS = {
        "twilio": {"id": 3, "adapter": f"{adapters}.twilio.TwilioAdapter", "options": twilio_options()},
        "sendgrid": {"id": 5, "adapter": f"{adapters}.sendgrid.SendGridAdapter", "options": sendgrid_options()},
        "spare": {"id": 6, "adapter": f"{adapters}.twilio.TwilioAdapter", "options": {}},
    }
    settings.ROUTES = {"sms": ["twilio"], "email": ["sendgrid"]}
    orders.orders.forget()
    routing.forget_routes()
    yield
    orders.orders.forget()
    routing.forget_routes()


def fields(**changes: Any) -> dict[str, Any]:
    return {
        "channel": int(Channel.SMS),
        "platform": "",
        "country_prefix": "",
        "provider": "twilio",
        "position": 1,
        "weight": 1,
        "is_enabled": "on",
        **changes,
    }


class TestRoutes:
    def test_a_new_route_counts_at_once_and_is_logged(self, admin_client: Client):
        assert routing.plan(Channel.SMS, address="+4930000000")
        answer = admin_client.post(reverse("admin:providers_route_add"), fields(country_prefix="+49"))
        assert answer.status_code == 302
        assert routing.routed_aliases() == ("twilio", "sendgrid")
        assert not routing.plan(Channel.SMS, address="+15005550006")  # rows replace the settings
        assert LogEntry.objects.filter(content_type__model="route").count() == 1

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"provider": "sendgrid"}, "sendgrid carries email, not sms"),
            ({"provider": "spare"}, "no working credentials"),
            ({"provider": "nobody"}, "Select a valid choice"),
            ({"platform": "ios"}, "Only a push has a platform"),
            ({"country_prefix": "49"}, "Give a prefix such as +49"),
        ],
    )
    def test_a_route_that_cannot_work_is_refused_with_the_reason(
        self, admin_client: Client, changes: dict[str, Any], expected: str
    ):
        answer = admin_client.post(reverse("admin:providers_route_add"), fields(**changes))
        assert answer.status_code == 200
        assert expected in answer.content.decode()
        assert not Route.objects.exists()

    def test_the_list_says_what_goes_by_the_settings(self, admin_client: Client):
        Route.objects.create(channel=Channel.SMS, provider="twilio")
        page = admin_client.get(reverse("admin:providers_route_changelist")).content.decode()
        assert "having no route here: email: sendgrid" in page

    def test_order_and_weight_are_edited_in_the_list(self, admin_client: Client):
        row = Route.objects.create(channel=Channel.SMS, provider="twilio")
        form = {"form-TOTAL_FORMS": 1, "form-INITIAL_FORMS": 1, "form-0-id": row.pk, "_save": "Save"}
        form |= {"form-0-position": 3, "form-0-weight": 20}
        assert admin_client.post(reverse("admin:providers_route_changelist"), form).status_code == 302
        row.refresh_from_db()
        assert (row.position, row.weight, row.is_enabled) == (3, 20, False)
        assert [provider.alias for provider in routing.plan(Channel.SMS)] == ["twilio"]

    def test_a_deleted_route_gives_the_channel_back_to_the_settings(self, admin_client: Client):
        row = Route.objects.create(channel=Channel.SMS, provider="twilio", country_prefix="+49")
        routing.forget_routes()
        assert not routing.plan(Channel.SMS)
        admin_client.post(reverse("admin:providers_route_delete", args=[row.pk]), {"post": "yes"})
        assert routing.plan(Channel.SMS)


class TestBreakers:
    def test_the_page_shows_how_the_providers_are(self, admin_client: Client):
        note_errors("twilio", ["20503"])
        page = admin_client.get(reverse("admin:providers_breakerorder_changelist")).content.decode()
        assert "switched off: no credentials" in page
        assert "20503" in page
        assert "?provider=sendgrid" in page

    def test_an_order_is_obeyed_and_names_who_gave_it(self, admin_client: Client, admin_user: Any):
        url = reverse("admin:providers_breakerorder_add")
        answer = admin_client.post(url, {"provider": "twilio", "state": "open", "reason": "maintenance"})
        assert answer.status_code == 302
        order = BreakerOrder.objects.get()
        assert (order.provider, order.state, order.operator) == ("twilio", "open", admin_user.get_username())
        assert not breaker.admit("twilio").is_allowed
        page = admin_client.get(reverse("admin:providers_breakerorder_changelist")).content.decode()
        assert "forced: maintenance" in page

    def test_an_order_without_a_reason_is_refused(self, admin_client: Client):
        url = reverse("admin:providers_breakerorder_add")
        answer = admin_client.post(url, {"provider": "twilio", "state": "open", "reason": "  "})
        assert answer.status_code == 200
        assert not BreakerOrder.objects.exists()

    def test_an_order_is_never_changed_or_deleted(self, admin_client: Client):
        order = BreakerOrder.objects.create(provider="twilio", state="open", reason="maintenance", operator="ada")
        assert admin_client.post(reverse("admin:providers_breakerorder_delete", args=[order.pk])).status_code == 403
        url = reverse("admin:providers_breakerorder_change", args=[order.pk])
        assert admin_client.post(url, {"state": "closed"}).status_code == 403

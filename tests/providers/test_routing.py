"""apps/providers/routing.py: which providers carry what, by settings and by rows."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import OperationalError
from pytest_django.fixtures import Settings

from apps.channels import Channel
from apps.providers import routing
from apps.providers.models import Route
from apps.providers.reloading import Reloading
from apps.providers.routing import plan, route
from tests.providers.accounts import fcm_options, sendgrid_options, twilio_options

pytestmark = pytest.mark.django_db


def entry(number: int, adapter: str, options: dict[str, Any]) -> dict[str, Any]:
    return {"id": number, "adapter": f"apps.providers.adapters.{adapter}", "options": options}


@pytest.fixture(autouse=True)
def accounts(settings: Settings) -> Iterator[None]:
    push, sms, email = "fcm.FcmAdapter", "twilio.TwilioAdapter", "sendgrid.SendGridAdapter"
    settings.PROVIDERS = {
        "push-1": entry(1, push, fcm_options()),
        "push-2": entry(2, push, fcm_options()),
        "push-off": entry(3, push, {}),
        "sms-1": entry(4, sms, twilio_options()),
        "sms-2": entry(5, sms, twilio_options()),
        "sms-3": entry(6, sms, twilio_options()),
        "sms-off": entry(7, sms, {}),
        "email-1": entry(8, email, sendgrid_options()),
    }
    settings.ROUTES = {"push": ["push-1"], "sms": ["sms-off", "sms-1", "sms-2"], "email": ["email-1"]}
    routing.forget_routes()
    yield
    routing.forget_routes()


def add(provider: str, channel: Channel = Channel.SMS, **fields: Any) -> Route:
    row = Route.objects.create(provider=provider, channel=channel, **fields)
    routing.forget_routes()
    return row


def aliases(channel: Channel = Channel.SMS, **fields: str) -> list[str]:
    return [provider.alias for provider in plan(channel, **fields)]


class TestBySettings:
    def test_order_is_kept_and_what_is_switched_off_is_passed_over(self):
        assert aliases(Channel.SMS) == ["sms-1", "sms-2"]

    def test_a_channel_without_a_working_provider_has_no_plan(self, settings: Settings):
        settings.ROUTES = {"push": ["push-off"]}
        assert aliases(Channel.PUSH) == []
        assert aliases(Channel.SMS) == []

    def test_a_platform_goes_its_own_way(self, settings: Settings):
        settings.ROUTES = {"push": ["push-1"], "push:ios": ["push-2", "push-1"]}
        assert aliases(Channel.PUSH, platform="ios") == ["push-2"]
        assert aliases(Channel.PUSH, platform="android") == ["push-1"]
        assert aliases(Channel.PUSH) == ["push-1"]

    def test_a_platform_falls_back_to_what_is_configured(self, settings: Settings):
        settings.ROUTES = {"push": ["push-1"], "push:ios": ["push-off", "push-1"]}
        assert aliases(Channel.PUSH, platform="ios") == ["push-1"]

    def test_a_push_never_fails_over_to_a_provider_that_does_not_know_the_token(self, settings: Settings):
        settings.ROUTES = {"push": ["push-1", "push-2"]}
        assert aliases(Channel.PUSH) == ["push-1"]

    def test_the_longest_country_prefix_wins(self, settings: Settings):
        settings.ROUTES = {"sms": ["sms-1"], "sms:+1": ["sms-2"], "sms:+1500": ["sms-3"]}
        assert aliases(address="+15005550006") == ["sms-3"]
        assert aliases(address="+12005550006") == ["sms-2"]
        assert aliases(address="+4930000000") == ["sms-1"]

    def test_route_is_the_plan_of_no_one_in_particular(self):
        assert [provider.alias for provider in route(Channel.EMAIL)] == ["email-1"]


class TestByRows:
    def test_rows_of_a_channel_replace_its_settings_and_no_other(self):
        add("sms-3")
        assert aliases(Channel.SMS) == ["sms-3"]
        assert aliases(Channel.EMAIL) == ["email-1"]

    def test_positions_are_tried_in_order(self):
        add("sms-2", position=2)
        add("sms-3", position=1)
        add("sms-1", position=3)
        assert aliases() == ["sms-3", "sms-2", "sms-1"]

    def test_a_country_goes_its_own_way(self):
        add("sms-1")
        add("sms-2", country_prefix="+49")
        assert aliases(address="+4930000000") == ["sms-2"]
        assert aliases(address="+15005550006") == ["sms-1"]

    def test_a_disabled_row_does_not_count(self):
        add("sms-3", is_enabled=False)
        assert aliases() == ["sms-1", "sms-2"]

    def test_rows_for_no_account_of_the_channel_are_passed_over(self):
        add("nobody", position=1)
        add("email-1", position=2)
        add("sms-3", position=3)
        assert aliases() == ["sms-3"]

    def test_equal_positions_share_the_load_by_weight(self):
        add("sms-1", weight=3)
        add("sms-2", weight=1)
        first = Counter(aliases(key=f"delivery-{n}")[0] for n in range(4_000))
        assert first["sms-1"] / 4_000 == pytest.approx(0.75, abs=0.04)

    def test_the_same_key_has_the_same_order_and_all_providers_in_it(self):
        add("sms-1")
        add("sms-2")
        add("sms-3", position=2)
        assert aliases(key="delivery-1") == aliases(key="delivery-1")
        assert set(aliases(key="delivery-1")[:2]) == {"sms-1", "sms-2"}
        assert aliases(key="delivery-1")[2] == "sms-3"

    def test_a_changed_key_may_go_elsewhere(self):
        add("sms-1")
        add("sms-2")
        assert len({aliases(key=f"delivery-1:{attempt}")[0] for attempt in range(20)}) == 2

    def test_weight_zero_waits_for_the_others_to_fail(self):
        add("sms-1", weight=0)
        add("sms-2", weight=1)
        assert {tuple(aliases(key=str(n))) for n in range(50)} == {("sms-2", "sms-1")}

    def test_routed_aliases_are_those_that_can_be_reached(self):
        add("sms-3", country_prefix="+49")
        assert routing.routed_aliases() == ("push-1", "sms-3", "email-1")

    @pytest.mark.parametrize(
        ("fields", "named"),
        [
            ({"channel": Channel.EMAIL, "country_prefix": "+49"}, "country prefix"),
            ({"channel": Channel.SMS, "platform": "ios"}, "platform"),
            ({"channel": Channel.SMS, "country_prefix": "0049"}, "prefix"),
            ({"channel": Channel.SMS, "weight": 1001}, "1000"),
        ],
    )
    def test_a_route_that_cannot_be_is_refused(self, fields: dict[str, Any], named: str):
        with pytest.raises(ValidationError, match=named):
            Route(provider="sms-1", **fields).full_clean()


class TestReloading:
    def test_a_value_is_read_again_when_it_is_old(self):
        now, values = [0.0], iter(["first", "second"])
        kept = Reloading(lambda: next(values), initial="", ttl_s=3.0, name="test", clock=lambda: now[0])
        assert kept.get() == kept.get() == "first"
        now[0] = 3.0
        assert kept.get() == "second"

    def test_the_last_value_stays_while_the_database_is_away(self):
        now, is_away = [0.0], [False]

        def load() -> str:
            if is_away[0]:
                raise OperationalError
            return "read"

        kept = Reloading(load, initial="", ttl_s=3.0, name="test", clock=lambda: now[0])
        assert kept.get() == "read"
        now[0], is_away[0] = 3.0, True
        assert kept.get() == "read"

    def test_without_a_database_there_is_the_initial_value(self):
        def load() -> str:
            raise OperationalError

        assert Reloading(load, initial="initial", ttl_s=3.0, name="test").get() == "initial"

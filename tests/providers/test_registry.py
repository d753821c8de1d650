from pathlib import Path
from typing import Any

import pytest
from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from pytest_django.fixtures import Settings

from apps.channels import Channel
from apps.providers.authorities import ca_bundle
from apps.providers.checks import check_credentials, check_providers
from apps.providers.errors import ConfigurationError, ForgedReceipt
from apps.providers.messages import ReceiptKind, WebhookCall
from apps.providers.models import Route
from apps.providers.receipts import ack_token, verify_and_parse
from apps.providers.registry import get_provider, provider_aliases, provider_by_id, resolve_options
from apps.providers.routing import forget_routes
from tests.providers.accounts import (
    DELIVERY_ID,
    NOW,
    fcm_ack,
    fcm_options,
    sendgrid_options,
    service_account,
    twilio_options,
)

ADAPTERS = "apps.providers.adapters"


def entry(number: int, adapter: str, options: dict[str, Any]) -> dict[str, Any]:
    return {"id": number, "adapter": f"{ADAPTERS}.{adapter}", "options": options}


@pytest.fixture
def accounts(settings: Settings) -> dict[str, dict[str, Any]]:
    """Complete accounts, each the only one of its channel."""
    found = {
        "fcm": entry(1, "fcm.FcmAdapter", fcm_options()),
        "twilio": entry(3, "twilio.TwilioAdapter", twilio_options()),
        "sendgrid": entry(5, "sendgrid.SendGridAdapter", sendgrid_options()),
    }
    settings.PROVIDERS = found
    settings.ROUTES = {"push": ["fcm"], "sms": ["twilio"], "email": ["sendgrid"]}
    return found


def ids(messages: list[CheckMessage]) -> list[str]:
    return [str(message.id) for message in messages]


class TestRegistry:
    def test_an_account_is_made_once(self, accounts: dict[str, Any]):
        assert get_provider("fcm") is get_provider("fcm")
        assert get_provider("fcm").adapter is get_provider("fcm").adapter
        assert provider_by_id(3) is get_provider("twilio")
        assert provider_aliases() == ("fcm", "twilio", "sendgrid")

    def test_a_changed_entry_makes_another(self, accounts: dict[str, Any]):
        before = get_provider("fcm")
        accounts["fcm"] = entry(1, "fcm.FcmAdapter", fcm_options(address_field="fid"))
        assert get_provider("fcm") is not before

    @pytest.mark.parametrize("alias", ["nobody", ""])
    def test_an_unknown_alias_is_a_key_error(self, alias: str):
        with pytest.raises(KeyError):
            get_provider(alias)

    def test_an_unknown_number_is_a_key_error(self):
        with pytest.raises(KeyError):
            provider_by_id(99)

    def test_two_accounts_of_one_provider_live_side_by_side(self, accounts: dict[str, Any]):
        accounts["sendgrid-marketing"] = entry(6, "sendgrid.SendGridAdapter", sendgrid_options(api_key="SG.other"))
        assert get_provider("sendgrid-marketing").adapter.alias == "sendgrid-marketing"
        assert get_provider("sendgrid-marketing").channel is Channel.EMAIL

    def test_an_account_without_credentials_still_has_a_name(self):
        provider = get_provider("fcm")
        assert (provider.alias, provider.id, provider.channel) == ("fcm", 1, Channel.PUSH)
        with pytest.raises(ImproperlyConfigured, match="service_account"):
            _ = provider.adapter

    def test_an_option_may_live_in_a_file(self, tmp_path: Path):
        file = tmp_path / "account.json"
        file.write_text(service_account())
        options = resolve_options("fcm", {"service_account_file": str(file), "address_field": "fid"})
        assert options == {"service_account": service_account(), "address_field": "fid"}

    @pytest.mark.parametrize("is_file_first", [True, False])
    def test_an_option_may_be_given_either_way(self, tmp_path: Path, is_file_first: bool):
        (tmp_path / "key").write_text("from the file")
        for value, file, expected in (
            ("given", "", "given"),
            ("", str(tmp_path / "key"), "from the file"),
            ("", "", ""),
        ):
            pairs = [("key_file", file), ("key", value)]
            options = resolve_options("x", dict(pairs if is_file_first else reversed(pairs)))
            assert options == {"key": expected}

    def test_a_file_that_cannot_be_read_is_named(self, tmp_path: Path):
        with pytest.raises(ConfigurationError, match="service_account_file cannot be read"):
            resolve_options("fcm", {"service_account_file": str(tmp_path / "missing")})

    def test_an_account_knows_whether_it_can_work(self, accounts: dict[str, Any]):
        assert get_provider("twilio").is_configured
        accounts["empty"] = entry(7, "twilio.TwilioAdapter", {})
        assert not get_provider("empty").is_configured


class TestReceipts:
    def test_an_acknowledgement_proves_itself(self, accounts: dict[str, Any], settings: Settings):
        settings.PUSH_ACK_KEY = accounts["fcm"]["options"]["ack_key"]
        assert len(ack_token(DELIVERY_ID)) == 22
        [receipt] = verify_and_parse("fcm", fcm_ack(ack=ack_token(DELIVERY_ID)), NOW)
        assert receipt.kind is ReceiptKind.DELIVERED

    def test_a_forged_call_is_not_read(self, accounts: dict[str, Any]):
        with pytest.raises(ForgedReceipt):
            verify_and_parse("twilio", WebhookCall("https://notify.example.com/", {}, b"not even a form"), NOW)

    def test_an_unconfigured_provider_proves_nothing(self):
        with pytest.raises(ForgedReceipt):
            verify_and_parse("fcm", fcm_ack(), NOW)

    def test_an_unknown_provider_is_a_key_error(self):
        with pytest.raises(KeyError):
            verify_and_parse("nobody", fcm_ack(), NOW)


class TestChecks:
    def test_complete_accounts_pass(self, accounts: dict[str, Any]):
        assert check_providers(None) == []
        assert check_credentials(None) == []

    def test_every_channel_needs_an_account_that_works(self):
        found = check_credentials(None)
        assert ids(found) == ["notify.E007", "notify.E007", "notify.E007", "notify.W001"]
        assert "account_sid" in found[1].msg
        assert "auth_token" in found[1].msg

    def test_a_second_account_without_any_credentials_is_switched_off(
        self, accounts: dict[str, Any], settings: Settings
    ):
        accounts["second"] = {**entry(6, "twilio.TwilioAdapter", {}), "credentials": ("account_sid", "auth_token")}
        settings.ROUTES = {"sms": ["second", "twilio"]}
        assert check_credentials(None) == []

    def test_a_second_account_with_half_its_credentials_is_an_error(self, accounts: dict[str, Any], settings: Settings):
        options = {"account_sid": "AC1", "base_url": "https://api.example.com"}
        accounts["second"] = {**entry(6, "twilio.TwilioAdapter", options), "credentials": ("account_sid", "auth_token")}
        settings.ROUTES = {"sms": ["twilio", "second"]}
        [error] = check_credentials(None)
        assert error.id == "notify.E007"
        assert "auth_token is missing" in error.msg

    @pytest.mark.django_db
    def test_routes_made_in_the_admin_are_checked_when_the_database_is(self, accounts: dict[str, Any]):
        accounts["second"] = entry(6, "twilio.TwilioAdapter", {})
        Route.objects.create(channel=Channel.SMS, provider="second")
        forget_routes()
        assert ids(check_credentials(None, databases=["default"])) == ["notify.E007"]
        forget_routes()

    def test_an_account_in_no_route_needs_no_credentials(self, settings: Settings):
        settings.ROUTES = {}
        assert check_credentials(None) == []

    def test_a_provider_without_a_webhook_key_is_warned_of(self, accounts: dict[str, Any]):
        unsigned = entry(5, "sendgrid.SendGridAdapter", sendgrid_options(webhook_public_key=""))
        accounts["sendgrid"] = {**unsigned, "receipts_need": ("webhook_public_key",)}
        assert ids(check_credentials(None)) == ["notify.W001"]

    @pytest.mark.parametrize(
        ("changed", "expected"),
        [
            ({"id": 1}, "notify.E001"),
            (entry(0, "fcm.FcmAdapter", {}), "notify.E002"),
            (entry(40_000, "fcm.FcmAdapter", {}), "notify.E002"),
            (entry(3, "fcm.FcmAdapter", {}), "notify.E003"),
            (entry(9, "fcm.Nothing", {}), "notify.E004"),
            (entry(9, "nowhere.FcmAdapter", {}), "notify.E004"),
        ],
    )
    def test_a_malformed_entry_is_named(self, accounts: dict[str, Any], changed: dict[str, Any], expected: str):
        accounts["another"] = changed
        assert ids(check_providers(None)) == [expected]

    @pytest.mark.parametrize(
        ("routes", "expected"),
        [
            ({"fax": ["fcm"]}, ["notify.E005"]),
            ({"push": ["nobody"]}, ["notify.E005"]),
            ({"push": ["fcm", "twilio"]}, ["notify.E006"]),
            ({"push:watch": ["fcm"]}, ["notify.E005"]),
            ({"email:+49": ["sendgrid"]}, ["notify.E005"]),
            ({"push:ios": ["fcm"], "sms:+49": ["twilio"]}, []),
        ],
    )
    def test_a_route_leads_to_a_provider_of_its_channel(
        self, accounts: dict[str, Any], settings: Settings, routes: dict[str, list[str]], expected: list[str]
    ):
        settings.ROUTES = routes
        assert ids(check_providers(None)) == expected
        check_credentials(None)  # stays quiet about what the other check says

    def test_an_unusable_ca_file_is_found(self, accounts: dict[str, Any], settings: Settings, tmp_path: Path):
        settings.PROVIDER_CA_FILE = str(tmp_path / "missing.pem")
        assert ids(check_credentials(None)) == ["notify.E008"]

    @pytest.mark.parametrize(
        ("url", "expected"), [("http://notify.example.com", ["notify.W002"]), ("http://[::1]:8000", [])]
    )
    def test_receipts_must_not_travel_in_the_clear(
        self, accounts: dict[str, Any], settings: Settings, url: str, expected: list[str]
    ):
        settings.PUBLIC_URL = url
        assert ids(check_credentials(None)) == expected


class TestAuthorities:
    def test_a_file_without_certificates_is_refused(self, tmp_path: Path):
        file = tmp_path / "empty.pem"
        file.write_text("nothing")
        with pytest.raises(ImproperlyConfigured, match="no PEM certificate"):
            ca_bundle(str(file))

    def test_the_bundle_has_the_public_and_the_extra_authorities(self, authority: tuple[Path, Path]):
        bundle = Path(ca_bundle(str(authority[0]))).read_bytes()
        assert authority[0].read_bytes() in bundle
        assert Path(ca_bundle("")).read_bytes() in bundle

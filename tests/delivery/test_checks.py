import pytest

from apps.delivery.checks import check_lease
from apps.providers.gateway import longest_call_s, longest_request_s
from apps.providers.registry import get_provider


@pytest.fixture
def only_sms(settings, accounts):
    settings.PROVIDERS = {"twilio": settings.PROVIDERS["twilio"]}
    return get_provider("twilio")


def ids():
    return [message.id for message in check_lease()]


def test_lease_of_the_defaults_outlives_every_call(accounts):
    assert ids() == []


def test_lease_that_one_request_can_outlive_is_an_error(only_sms, settings):
    settings.DELIVERY_LEASE_S = longest_request_s(only_sms)
    assert ids() == ["delivery.E001"]


def test_lease_that_a_slow_batch_can_outlive_is_a_warning(only_sms, settings):
    settings.DELIVERY_LEASE_S = longest_call_s(only_sms) - 0.1
    assert ids() == ["delivery.W001"]
    settings.DELIVERY_LEASE_S = longest_call_s(only_sms)
    assert ids() == []


def test_providers_own_timeout_counts(only_sms, settings):
    settings.PROVIDERS = {"twilio": {**settings.PROVIDERS["twilio"], "timeout_s": 60.0}}
    assert ids() == ["delivery.E001"]


def test_time_for_a_token_counts(settings, accounts):
    assert longest_call_s(get_provider("fcm")) > longest_call_s(get_provider("twilio"))

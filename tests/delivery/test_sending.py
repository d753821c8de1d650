import json
from datetime import UTC, datetime, timedelta

import pytest

from apps.channels import Channel, Lane
from apps.delivery import dispatch
from apps.delivery.models import Attempt, Delivery
from apps.delivery.statuses import Reason, Status
from apps.preferences.models import Category, Recipient
from apps.providers import breaker, quotas
from apps.providers.messages import ProviderResponse
from tests.delivery.conftest import ACCEPTED, NO_ANSWER, REFUSED
from tests.delivery.factories import accept, reload
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db
TWILIO, VONAGE = 3, 4


@pytest.fixture
def two_routes(wire, settings):
    settings.ROUTES = {**settings.ROUTES, "sms": ["twilio", "vonage"]}
    return wire


def refuse(*names):
    return lambda provider, request: REFUSED if provider in names else ACCEPTED[provider]


def trip_breaker(alias):
    breaker.report(alias, successes=0, failures=100)
    assert not breaker.admit(alias).is_allowed


def test_next_provider_takes_over_in_the_same_task(client_row, two_routes):
    two_routes.answer = refuse("twilio")
    (delivery,) = accept(client_row.id, RecipientFactory().user_id)
    dispatch.deliver([delivery.id])
    row = reload(delivery)
    assert (row.status, row.provider, row.attempts, row.error_code) == (Status.SENT, VONAGE, 1, None)
    assert [provider for provider, _ in two_routes.requests] == ["twilio", "vonage"]
    assert [attempt.provider for attempt in Attempt.objects.filter(delivery_id=delivery.id)] == [TWILIO]


def test_every_provider_tried_in_vain_is_kept_with_one_attempt_used(client_row, two_routes):
    two_routes.answer = refuse("twilio", "vonage")
    (delivery,) = accept(client_row.id, RecipientFactory().user_id)
    dispatch.deliver([delivery.id])
    row = reload(delivery)
    assert (row.status, row.reason, row.attempts) == (Status.QUEUED, Reason.RETRY_AFTER_FAILURE, 1)
    assert {attempt.provider for attempt in Attempt.objects.filter(delivery_id=delivery.id)} == {TWILIO, VONAGE}


def test_no_second_provider_is_called_late_in_the_lease(client_row, two_routes, settings):
    settings.DELIVERY_LEASE_S = 0.0
    two_routes.answer = refuse("twilio")
    (delivery,) = accept(client_row.id, RecipientFactory().user_id)
    dispatch.deliver([delivery.id])
    assert [provider for provider, _ in two_routes.requests] == ["twilio"]
    assert (reload(delivery).status, reload(delivery).attempts) == (Status.QUEUED, 1)


def test_open_breaker_is_passed_over_without_a_call(client_row, two_routes):
    trip_breaker("twilio")
    (delivery,) = accept(client_row.id, RecipientFactory().user_id)
    dispatch.deliver([delivery.id])
    assert reload(delivery).provider == VONAGE
    assert [provider for provider, _ in two_routes.requests] == ["vonage"]
    assert Attempt.objects.count() == 0


def test_open_breakers_cost_no_attempt(client_row, two_routes):
    trip_breaker("twilio")
    trip_breaker("vonage")
    (delivery,) = accept(client_row.id, RecipientFactory().user_id)
    dispatch.deliver([delivery.id])
    row = reload(delivery)
    assert (row.status, row.reason, row.attempts) == (Status.QUEUED, Reason.PROVIDER_UNAVAILABLE, 0)
    assert two_routes.requests == []
    assert row.next_attempt_at is not None


def test_unknown_outcome_is_not_handed_on(client_row, two_routes):
    two_routes.answer = lambda provider, request: NO_ANSWER
    (delivery,) = accept(client_row.id, RecipientFactory().user_id)
    dispatch.deliver([delivery.id])
    assert reload(delivery).reason == Reason.RETRY_AFTER_UNKNOWN
    assert [provider for provider, _ in two_routes.requests] == ["twilio"]


def test_recipients_error_is_not_handed_on_and_trips_nothing(client_row, two_routes):
    body = b'{"code": 21211, "message": "invalid", "status": 400}'
    two_routes.answer = lambda provider, request: ProviderResponse(
        400, {"content-type": "application/json"}, body, 0.01
    )
    ids = [accept(client_row.id, RecipientFactory().user_id)[0].id for _ in range(30)]
    dispatch.deliver(ids)
    assert {provider for provider, _ in two_routes.requests} == {"twilio"}
    assert breaker.admit("twilio").is_allowed


def test_failures_open_the_breaker_and_spare_the_attempts(client_row, wire):
    wire.answer = refuse("twilio")
    deliveries = [accept(client_row.id, RecipientFactory().user_id)[0] for _ in range(25)]
    dispatch.deliver([one.id for one in deliveries])
    (late,) = accept(client_row.id, RecipientFactory().user_id)
    dispatch.deliver([late.id])
    assert (reload(late).reason, reload(late).attempts) == (Reason.PROVIDER_UNAVAILABLE, 0)
    assert len(wire.requests) == 25


def test_group_beyond_the_quota_waits_its_turn(client_row, wire, settings):
    settings.PROVIDERS = {**settings.PROVIDERS, "twilio": {**settings.PROVIDERS["twilio"], "quota": {"per_second": 3}}}
    recipient = RecipientFactory()
    deliveries = [accept(client_row.id, recipient.user_id, lane=Lane.BULK)[0] for _ in range(5)]
    dispatch.deliver([one.id for one in deliveries])
    assert len(wire.requests) == 3
    rows = [reload(one) for one in deliveries]
    assert sorted(row.status for row in rows) == [Status.QUEUED] * 2 + [Status.SENT] * 3
    waiting = [row for row in rows if row.status == Status.QUEUED]
    assert {(row.reason, row.attempts) for row in waiting} == {(Reason.PROVIDER_UNAVAILABLE, 0)}
    assert len({row.next_attempt_at for row in waiting}) == 2


def test_throttled_account_is_left_alone_as_long_as_it_asks(client_row, wire):
    throttled = ProviderResponse(429, {"content-type": "application/json", "retry-after": "30"}, b'{"code": 20429}')
    wire.answer = lambda provider, request: throttled
    (first,) = accept(client_row.id, RecipientFactory().user_id)
    dispatch.deliver([first.id])
    assert quotas.take("twilio", 1).granted == 0
    (second,) = accept(client_row.id, RecipientFactory().user_id)
    dispatch.deliver([second.id])
    assert len(wire.requests) == 1
    assert reload(second).attempts == 0


def test_device_goes_to_its_platforms_provider(client_row, wire, settings):
    settings.ROUTES = {**settings.ROUTES, "push:ios": []}
    recipient = RecipientFactory(devices=[("droid", "android"), ("phone", "ios")])
    deliveries = accept(client_row.id, recipient.user_id, channels=(Channel.PUSH,))
    dispatch.deliver([one.id for one in deliveries])
    assert wire.addresses == ["droid"]


def test_category_that_must_not_double_ends_as_unknown_at_once(client_row, wire):
    Category.objects.create(key="payment", name="Payment", kind="transactional", retries_unknown=False)
    wire.answer = lambda provider, request: NO_ANSWER
    (delivery,) = accept(client_row.id, RecipientFactory().user_id, category="payment")
    dispatch.deliver([delivery.id])
    assert (reload(delivery).status, reload(delivery).reason) == (Status.UNKNOWN, Reason.NO_ANSWER)


@pytest.mark.parametrize(("category", "has_link"), [("marketing", True), ("", True), ("transactional", False)])
def test_bulk_mail_carries_a_link_to_unsubscribe(client_row, wire, category, has_link):
    recipient = RecipientFactory()
    (delivery,) = accept(client_row.id, recipient.user_id, channels=(Channel.EMAIL,), lane=Lane.BULK, category=category)
    dispatch.deliver([delivery.id])
    ((_, request),) = wire.requests
    assert (request.messages[0].unsubscribe_url is not None) is has_link
    assert (b"List-Unsubscribe-Post" in request.body) is has_link


def test_no_call_is_begun_that_may_outlive_the_lease(client_row, wire, settings):
    """A batch for two countries with a provider each: the second call would come too late, and costs no attempt."""
    settings.ROUTES = {**settings.ROUTES, "sms": ["twilio"], "sms:+44": ["vonage"]}
    settings.DELIVERY_LEASE_S = 0.0
    phones = ("+15005550111", "+447700900123")
    ids = [accept(client_row.id, RecipientFactory(phone=phone).user_id)[0].id for phone in phones]
    dispatch.deliver(ids)
    assert len(wire.requests) == 1
    assert sorted(Delivery.objects.values_list("status", "reason", "attempts")) == [
        (Status.QUEUED, Reason.PROVIDER_UNAVAILABLE, 0),
        (Status.SENT, 0, 1),
    ]


def test_address_that_cannot_be_read_takes_no_other_along(client_row, wire):
    recipient, broken = RecipientFactory(), RecipientFactory()
    Recipient.objects.filter(id=broken.id).update(phone_ct=b"\x01\x01" + b"x" * 60)
    deliveries = [accept(client_row.id, one.user_id)[0] for one in (recipient, broken)]
    dispatch.deliver([delivery.id for delivery in deliveries])
    good, bad = map(reload, deliveries)
    assert good.status == Status.SENT
    assert (bad.status, bad.reason, bad.attempts) == (Status.QUEUED, Reason.RETRY_AFTER_FAILURE, 1)
    Delivery.objects.filter(id=bad.id).update(attempts=4, next_attempt_at=datetime.now(UTC) - timedelta(seconds=5))
    dispatch.deliver([bad.id])
    assert (reload(bad).status, reload(bad).reason) == (Status.DEAD, Reason.POISON)


def refuse_first_address(provider, request):
    """SendGrid's answer to a request with a bad address among others."""
    people = json.loads(request.body)["personalizations"]
    bad = [position for position, one in enumerate(people) if one["to"][0]["email"].startswith("refused@")]
    if not bad:
        return ACCEPTED[provider]
    error = {"message": "Does not contain a valid address.", "field": f"personalizations.{bad[0]}.to.0.email"}
    return ProviderResponse(400, {"content-type": "application/json"}, json.dumps({"errors": [error]}).encode())


def test_e_mails_that_say_the_same_leave_in_one_request_and_a_bad_address_costs_no_other(client_row, wire):
    wire.answer = refuse_first_address
    emails = ["refused@example.com", *(f"person.{number}@example.com" for number in range(24))]
    people = [RecipientFactory(email=email) for email in emails]
    ids = [accept(client_row.id, one.user_id, channels=(Channel.EMAIL,), lane=Lane.BULK)[0].id for one in people]
    dispatch.deliver(ids)
    assert [len(request.messages) for _, request in wire.requests] == [25, 12, 12]
    statuses = dict(Delivery.objects.values_list("recipient_id", "status"))
    assert statuses == {one.id: Status.SENT if one is not people[0] else Status.FAILED for one in people}
    last = json.loads(wire.requests[-1][1].body)["personalizations"]
    links = {one["headers"]["List-Unsubscribe"] for one in last}
    assert len(links) == len(last)
    assert {one["custom_args"]["delivery_id"] for one in last} <= {str(delivery_id) for delivery_id in ids}

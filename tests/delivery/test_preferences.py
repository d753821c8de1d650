"""The person's word on the way of a notification: at intake, when a deferral is over, just before the call."""

from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from apps.channels import Channel
from apps.delivery import dispatch
from apps.delivery.models import Delivery, Notification
from apps.delivery.statuses import Reason, Status
from apps.preferences import catalogue, services
from apps.preferences.models import Category
from apps.preferences.policy import Reason as PolicyReason
from apps.preferences.policy import explain
from apps.preferences.quiet_hours import EVERY_DAY, Window
from tests.delivery.conftest import REFUSED
from tests.delivery.factories import accept, reload
from tests.delivery.test_dispatch import make_due
from tests.delivery.test_notifications_api import assert_problem, body_for, post
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


def put_to_sleep(user_id, *, hours=3, since=1):
    """Quiet hours in UTC from ``since`` hours ago until ``hours`` from now; returns their end."""
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    start, end = now - since * HOUR, now + hours * HOUR
    window = Window(EVERY_DAY, start.hour * 60 + start.minute, end.hour * 60 + end.minute)
    services.update_preferences(user_id=user_id, time_zone="UTC", quiet_hours=[window])
    return end


def edit_category(key, **changes):
    Category.objects.update_or_create(key=key, defaults={"name": key, **changes})
    catalogue.forget_categories()


@pytest.fixture
def sleeper():
    return RecipientFactory()


# --- quiet hours ------------------------------------------------------------------------------------------------------


def test_quiet_hours_put_off_and_say_until_when(api, sleeper):
    end = put_to_sleep(sleeper.user_id)
    answer = post(api, body_for(sleeper, channels=["sms"], category="marketing")).json()
    (decided,) = answer["deliveries"]
    assert (decided["status"], decided["reason"]) == ("queued", "quiet_hours")
    assert end <= datetime.fromisoformat(decided["not_before"]) < end + timedelta(minutes=10)
    (shown,) = api.get(f"/v1/notifications/{answer['id']}").json()["deliveries"]
    assert (shown["status"], shown["reason"]) == ("queued", "quiet_hours")
    assert shown["explanation"] == explain(PolicyReason.QUIET_HOURS)
    assert shown["next_attempt_at"] == decided["not_before"]


def test_dry_run_decides_the_same(api, sleeper):
    put_to_sleep(sleeper.user_id)
    body = body_for(sleeper, category="marketing")
    decided = post(api, body | {"dry_run": True}).json()["deliveries"]
    assert Notification.objects.count() == 0
    in_earnest = post(api, body).json()["deliveries"]
    assert [one | {"id": None} for one in in_earnest] == decided


def test_critical_goes_out_in_quiet_hours(client_row, sleeper, wire):
    put_to_sleep(sleeper.user_id)
    (delivery,) = accept(client_row.id, sleeper.user_id, category="critical")
    dispatch.deliver([delivery.id])
    assert reload(delivery).status == Status.SENT


def test_release_decides_again(client_row, sleeper, wire):
    end = put_to_sleep(sleeper.user_id)
    (delivery,) = accept(client_row.id, sleeper.user_id)
    dispatch.deliver([delivery.id])
    make_due(delivery)
    dispatch.deliver([delivery.id])  # its time has come, but the quiet hours are what they are
    row = reload(delivery)
    assert (row.status, row.reason, row.attempts) == (Status.QUEUED, PolicyReason.QUIET_HOURS, 0)
    assert end <= row.next_attempt_at + timedelta(seconds=1)
    services.update_preferences(user_id=sleeper.user_id, quiet_hours=[])
    make_due(delivery)
    dispatch.deliver([delivery.id])
    assert reload(delivery).status == Status.SENT
    assert len(wire.requests) == 1


def test_opt_out_while_it_waits_is_obeyed(client_row, sleeper, wire):
    put_to_sleep(sleeper.user_id)
    (delivery,) = accept(client_row.id, sleeper.user_id, category="marketing")
    words = {"marketing": {Channel.SMS: False}}
    services.update_preferences(user_id=sleeper.user_id, quiet_hours=[], categories=words)
    make_due(delivery)
    dispatch.deliver([delivery.id])
    assert (reload(delivery).status, reload(delivery).reason) == (Status.SUPPRESSED, PolicyReason.CATEGORY_OPT_OUT)
    assert wire.requests == []


def test_message_that_expires_in_quiet_hours_says_so_at_once(client_row, sleeper, wire):
    end = put_to_sleep(sleeper.user_id)
    (delivery,) = accept(client_row.id, sleeper.user_id, expires_at=end - HOUR)
    assert (delivery.status, delivery.reason) == (Status.EXPIRED, Reason.EXPIRED)
    (delivery,) = accept(client_row.id, sleeper.user_id, expires_at=end + timedelta(seconds=1))
    assert (delivery.status, delivery.next_attempt_at) == (Status.QUEUED, end)


def test_message_that_would_expire_waiting_for_a_retry_s_quiet_hours_is_expired(client_row, sleeper, wire):
    wire.answer = lambda provider, request: REFUSED
    (delivery,) = accept(client_row.id, sleeper.user_id, expires_at=datetime.now(UTC) + HOUR)
    dispatch.deliver([delivery.id])
    put_to_sleep(sleeper.user_id)
    make_due(delivery)
    dispatch.deliver([delivery.id])
    assert (reload(delivery).status, reload(delivery).reason) == (Status.EXPIRED, Reason.EXPIRED)
    assert len(wire.requests) == 1


def test_scheduled_message_is_decided_for_its_time(client_row, sleeper):
    end = put_to_sleep(sleeper.user_id)
    within, after = end - HOUR, end + HOUR
    (early,) = accept(client_row.id, sleeper.user_id, send_at=within)
    assert early.reason == PolicyReason.QUIET_HOURS
    assert end <= early.next_attempt_at < end + timedelta(minutes=10)
    (late,) = accept(client_row.id, sleeper.user_id, send_at=after)
    assert (late.reason, late.next_attempt_at) == (Reason.SCHEDULED, after)


# --- categories -------------------------------------------------------------------------------------------------------


def test_unknown_and_retired_categories_are_refused(api, sleeper):
    edit_category("old-news", is_active=False)
    for key in ("gossip", "old-news"):
        assert_problem(post(api, body_for(sleeper, category=key)), 422, "/category")
    assert post(api, body_for(sleeper)).status_code == 202


def test_category_made_elsewhere_is_known_at_once(api, sleeper):
    catalogue.load_categories()
    Category.objects.create(key="brand-new", name="Brand new", sms_default=False)
    answer = post(api, body_for(sleeper, category="brand-new", channels=["sms"])).json()
    assert answer["deliveries"][0]["reason"] == "category_off_by_default"


def test_category_word_goes_before_the_channel_s(client_row, sleeper, wire):
    services.update_preferences(
        user_id=sleeper.user_id,
        channels={Channel.SMS: False},
        categories={"marketing": {Channel.SMS: True}, "transactional": {Channel.SMS: False}},
    )
    reasons = {}
    for key in ("", "marketing", "transactional", "critical"):
        (delivery,) = accept(client_row.id, sleeper.user_id, category=key)
        dispatch.deliver([delivery.id])
        reasons[key] = (reload(delivery).status, reload(delivery).reason)
    assert reasons == {
        "": (Status.SUPPRESSED, PolicyReason.CHANNEL_OPT_OUT),
        "marketing": (Status.SENT, 0),
        "transactional": (Status.SUPPRESSED, PolicyReason.CATEGORY_OPT_OUT),
        "critical": (Status.SUPPRESSED, PolicyReason.CHANNEL_OPT_OUT),
    }


# --- caps -------------------------------------------------------------------------------------------------------------


def test_message_beyond_the_cap_waits_for_its_place(client_row, sleeper, wire):
    edit_category("marketing", cap_limit=2, cap_period_s=3600)
    deliveries = [accept(client_row.id, sleeper.user_id, category="marketing")[0] for _ in range(4)]
    dispatch.deliver([delivery.id for delivery in deliveries])
    rows = [reload(delivery) for delivery in deliveries]
    assert [row.status for row in rows] == [Status.SENT, Status.SENT, Status.QUEUED, Status.QUEUED]
    assert {row.reason for row in rows[2:]} == {PolicyReason.FREQUENCY_CAP}
    for row in rows[2:]:
        assert timedelta(minutes=59) < row.next_attempt_at - datetime.now(UTC) <= HOUR
    assert len(wire.addresses) == 2
    (other,) = accept(client_row.id, sleeper.user_id, category="transactional")
    dispatch.deliver([other.id])
    assert reload(other).status == Status.SENT


def test_message_beyond_the_cap_is_dropped_where_the_category_says_so(client_row, sleeper, wire):
    edit_category("marketing", cap_limit=1, cap_period_s=3600, cap_rule="suppress")
    deliveries = [accept(client_row.id, sleeper.user_id, category="marketing")[0] for _ in range(2)]
    dispatch.deliver([delivery.id for delivery in deliveries])
    assert [reload(delivery).status for delivery in deliveries] == [Status.SENT, Status.SUPPRESSED]
    (third,) = accept(client_row.id, sleeper.user_id, category="marketing")
    assert (third.status, third.reason) == (Status.SUPPRESSED, PolicyReason.FREQUENCY_CAP)


def test_retry_and_second_device_count_once(client_row, wire):
    edit_category("marketing", cap_limit=1, cap_period_s=3600)
    sleeper = RecipientFactory(devices=["t-1", "t-2"])
    wire.answer = lambda provider, request: REFUSED
    push = accept(client_row.id, sleeper.user_id, category="marketing", channels=(Channel.PUSH,))
    for _ in range(3):
        for delivery in push:
            make_due(delivery)
        dispatch.deliver([delivery.id for delivery in push])
    assert [reload(delivery).attempts for delivery in push] == [3, 3]
    assert {reload(delivery).reason for delivery in push} == {Reason.RETRY_AFTER_FAILURE}


# --- every delivery has its reason ------------------------------------------------------------------------------------


def test_whatever_was_said_each_delivery_says_why(api):
    random = Random(4)
    for number in range(30):
        recipient = RecipientFactory(email=None if number % 7 == 0 else "someone@example.com")
        services.update_preferences(
            user_id=recipient.user_id,
            is_opted_out=number % 10 == 9,
            channels={channel: random.random() < 0.5 for channel in Channel if random.random() < 0.5},
            categories={"marketing": {channel: random.random() < 0.5 for channel in Channel if random.random() < 0.5}},
        )
        answer = post(api, body_for(recipient, category="marketing", channels=["push", "sms", "email"])).json()
        for one in answer["deliveries"]:
            assert (one["status"] == "queued") is (one["reason"] is None)
        shown = api.get(f"/v1/notifications/{answer['id']}").json()
        assert [one["reason"] for one in shown["deliveries"]] == [one["reason"] for one in answer["deliveries"]]
    assert Delivery.objects.filter(status=Status.SUPPRESSED).values("reason").distinct().count() >= 4

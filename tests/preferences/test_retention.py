"""What is kept, and for how long."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core.checks import run_checks

from apps.channels import Channel
from apps.preferences import cipher, retention, selectors, services
from apps.preferences.models import Device, Recipient, Suppression
from apps.preferences.retention import Cleared
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def run(now: datetime = NOW) -> Cleared:
    return retention.run(now)


def version_of(user_id: str) -> int:
    return selectors.select_versions([user_id])[user_id][1]


def test_device_not_seen_for_long_is_switched_off_and_later_forgotten(settings: Any) -> None:
    settings.DEVICE_MAX_AGE_DAYS, settings.DEVICE_FORGET_DAYS = 270, 30
    RecipientFactory(user_id="user-1", devices=["old", "young"])
    old, young = Device.objects.order_by("pk")
    Device.objects.filter(pk=old.pk).update(last_seen_at=NOW - 270 * DAY - DAY)
    Device.objects.filter(pk=young.pk).update(last_seen_at=NOW - 270 * DAY + DAY)
    version = version_of("user-1")
    assert run().stale_devices == 1
    assert version_of("user-1") > version
    old.refresh_from_db()
    assert (old.deactivated_at, old.deactivated_reason) == (NOW, "stale")
    assert [device.id for device in selectors.load_snapshots({"user-1": version_of("user-1")})["user-1"].devices] == [
        young.pk
    ]
    Device.objects.filter(pk=young.pk).update(last_seen_at=NOW + 20 * DAY)
    assert run(NOW + 29 * DAY).forgotten_devices == 0
    assert run(NOW + 31 * DAY).forgotten_devices == 1
    assert list(Device.objects.all()) == [young]


def test_stale_device_that_registers_again_lives(settings: Any) -> None:
    RecipientFactory(user_id="user-1", devices=["token-1"])
    Device.objects.update(last_seen_at=NOW - 1_000 * DAY)
    run()
    services.register_device(user_id="user-1", token="token-1", platform="ios")
    assert Device.objects.get().deactivated_at is None


def erase(user_id: str, when: datetime, **said: Any) -> None:
    RecipientFactory(user_id=user_id, **said)
    services.erase_recipient(user_id=user_id)
    Recipient.objects.filter(user_id=user_id).update(erased_at=when)


def test_tombstones_are_forgotten_but_not_a_no(settings: Any) -> None:
    settings.TOMBSTONE_DAYS = 90
    long_ago = NOW - 91 * DAY
    erase("old", long_ago)
    erase("young", NOW - 89 * DAY)
    erase("opted-out", long_ago, is_opted_out=True)
    erase("no-sms", long_ago, channels={Channel.SMS: False})
    erase("sms", long_ago, channels={Channel.SMS: True})
    RecipientFactory(user_id="no-marketing")
    services.update_preferences(user_id="no-marketing", categories={"marketing": {Channel.EMAIL: False}})
    services.erase_recipient(user_id="no-marketing")
    Recipient.objects.filter(user_id="no-marketing").update(erased_at=long_ago)
    RecipientFactory(user_id="living")
    assert run().forgotten_recipients == 2
    left = set(Recipient.objects.values_list("user_id", flat=True))
    assert left == {"young", "opted-out", "no-sms", "no-marketing", "living"}


def test_lifted_suppressions_are_forgotten_and_those_in_force_never(settings: Any) -> None:
    settings.SUPPRESSION_HISTORY_DAYS = 365
    for name in ("lifted", "active"):
        index = cipher.blind_index("email", f"{name}@example.com")
        services.suppress_blind_index(channel=Channel.EMAIL, address_bi=index, source="test", reason=name)
    Suppression.objects.update(created_at=NOW - 3_000 * DAY)
    services.lift_suppression(suppression_id=Suppression.objects.get(reason="lifted").pk)
    Suppression.objects.filter(reason="lifted").update(lifted_at=NOW - 366 * DAY)
    assert run().forgotten_suppressions == 1
    assert Suppression.objects.get().reason == "active"


def test_work_is_done_in_small_transactions_until_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "ROWS_PER_TRANSACTION", 2)
    RecipientFactory(user_id="user-1", devices=[f"token-{number}" for number in range(5)])
    Device.objects.update(last_seen_at=NOW - 1_000 * DAY)
    assert run().stale_devices == 5
    assert run() == Cleared(0, 0, 0, 0)


@pytest.mark.parametrize("name", ["DEVICE_FORGET_DAYS", "TOMBSTONE_DAYS", "SUPPRESSION_HISTORY_DAYS"])
def test_setting_that_makes_no_sense_is_found_at_start(settings: Any, name: str) -> None:
    setattr(settings, name, 0)
    assert "preferences.E007" in {message.id for message in run_checks()}


def test_tombstones_outlive_the_delivery_log(settings: Any) -> None:
    settings.TOMBSTONE_DAYS = settings.DELIVERY_RETENTION_DAYS
    assert "preferences.W002" in {message.id for message in run_checks()}

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from pytest_django.fixtures import Settings

from apps.channels import Channel
from apps.preferences import addresses, cipher, profile, selectors, services
from apps.preferences.devices import MAX_ACTIVE_DEVICES
from apps.preferences.models import Device, Recipient, Suppression
from apps.preferences.services import UNCHANGED, UnknownRecipient
from apps.preferences.snapshots import RecipientSnapshot
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db
EARLY = datetime(2026, 1, 1, tzinfo=UTC)
LATE = datetime(2026, 2, 1, tzinfo=UTC)


def version_of(user_id: str) -> int:
    return selectors.select_versions([user_id])[user_id][1]


def snapshot_of(user_id: str) -> RecipientSnapshot:
    return selectors.load_snapshots({user_id: version_of(user_id)})[user_id]


# --- upsert -----------------------------------------------------------------------------------------------------------


def test_upsert_creates_then_updates() -> None:
    recipient, is_new = services.upsert_recipient(user_id="u", email="Ann@Example.com", phone="+1 500 555 0006")
    assert is_new
    assert selectors.reveal_contact(recipient, Channel.EMAIL) == "Ann@example.com"
    assert selectors.reveal_contact(recipient, Channel.SMS) == "+15005550006"
    recipient, is_new = services.upsert_recipient(user_id="u", phone="+15005550007", locale="en-us")
    assert not is_new
    assert (recipient.email_ct, recipient.email_bi, recipient.email_set_at) == (None, None, None)
    assert selectors.reveal_contact(recipient, Channel.SMS) == "+15005550007"
    assert recipient.locale == "en-US"


def test_same_upsert_again_changes_nothing() -> None:
    fields = {"email": "ann@example.com", "phone": "+15005550006", "locale": "en", "attributes": {"a": 1}}
    first, _ = services.upsert_recipient(user_id="u", **fields)  # type: ignore[arg-type]
    first.refresh_from_db()
    second, is_new = services.upsert_recipient(user_id="u", **fields)  # type: ignore[arg-type]
    assert not is_new
    assert (second.version, second.email_ct, second.email_set_at) == (first.version, first.email_ct, first.email_set_at)


def test_every_change_raises_the_version() -> None:
    RecipientFactory(user_id="u", email=None, phone=None, devices=[])
    seen = [version_of("u")]
    for change in (
        lambda: services.upsert_recipient(user_id="u", email="ann@example.com"),
        lambda: services.upsert_recipient(user_id="u", email="Ann@example.com"),
        lambda: services.upsert_recipient(user_id="u", attributes={"a": 1}),
        lambda: services.update_preferences(user_id="u", is_opted_out=True),
        lambda: services.update_preferences(user_id="u", channels={Channel.SMS: False}),
        lambda: services.register_device(user_id="u", token="t-1", platform="ios"),
        lambda: services.register_device(user_id="u", token="t-1", platform="android"),
        lambda: services.remove_device(user_id="u", token="t-1"),
        lambda: services.erase_recipient(user_id="u"),
        lambda: services.upsert_recipient(user_id="u"),
    ):
        change()
        seen.append(version_of("u"))
    assert seen == sorted(set(seen))


def test_version_is_never_used_twice_even_after_a_rollback() -> None:
    RecipientFactory(user_id="u")
    try:
        with transaction.atomic():
            services.update_preferences(user_id="u", is_opted_out=True)
            rolled_back = version_of("u")
            raise InterruptedError
    except InterruptedError:
        pass
    services.update_preferences(user_id="u", channels={Channel.SMS: False})
    assert version_of("u") > rolled_back


def test_version_goes_up_although_the_clock_went_back() -> None:
    RecipientFactory(user_id="u")
    future = version_of("u") + 10**15
    Recipient.objects.filter(user_id="u").update(version=future)
    services.update_preferences(user_id="u", is_opted_out=True)
    assert version_of("u") == future + 1


def test_unchanged_address_is_left_alone() -> None:
    before = RecipientFactory(user_id="u")
    after, _ = services.upsert_recipient(user_id="u", email=UNCHANGED, phone="+15005550042")
    assert after.email_ct == before.email_ct
    assert selectors.reveal_contact(after, Channel.SMS) == "+15005550042"


@pytest.mark.parametrize(
    "fields",
    [
        {"email": "nobody"}, {"email": ""}, {"phone": "15005550006"}, {"locale": "x"}, {"time_zone": "Mars/Olympus"},
        {"attributes": {"a": "\0"}}, {"user_id": "a/b"}, {"user_id": ""},
    ],
)  # fmt: skip
def test_bad_value_stores_nothing(fields: dict[str, object]) -> None:
    with pytest.raises((profile.InvalidValue, addresses.InvalidAddress)):
        services.upsert_recipient(**({"user_id": "u"} | fields))  # type: ignore[arg-type]
    assert not Recipient.objects.exists()


def test_upsert_mends_an_address_whose_key_is_lost(settings: Settings) -> None:
    RecipientFactory(user_id="u", email="ann@example.com")
    settings.PII_KEYS = {"2": "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="}
    settings.PII_ACTIVE_KEY = "2"
    recipient, _ = services.upsert_recipient(user_id="u", email="ann@example.com")
    assert selectors.reveal_contact(recipient, Channel.EMAIL) == "ann@example.com"


# --- preferences ------------------------------------------------------------------------------------------------------


def test_preferences_given_replace_and_the_others_stay() -> None:
    recipient = RecipientFactory(user_id="u")
    services.update_preferences(user_id="u", channels={Channel.SMS: False})
    services.update_preferences(user_id="u", channels={Channel.EMAIL: False}, is_opted_out=True)
    services.update_preferences(user_id="u", channels={Channel.SMS: True})
    assert selectors.select_preferences(recipient).channels == {Channel.SMS: True, Channel.EMAIL: False}
    snapshot = snapshot_of("u")
    assert snapshot.is_opted_out
    assert snapshot.disabled_channels == {Channel.EMAIL}


def test_same_preferences_again_change_nothing() -> None:
    RecipientFactory(user_id="u")
    services.update_preferences(user_id="u", is_opted_out=True, channels={Channel.SMS: False})
    before = version_of("u")
    services.update_preferences(user_id="u", is_opted_out=True, channels={Channel.SMS: False})
    services.update_preferences(user_id="u")
    assert version_of("u") == before


def test_unknown_recipient_is_said_so() -> None:
    for call in (
        lambda: services.update_preferences(user_id="nobody"),
        lambda: services.register_device(user_id="nobody", token="t", platform="ios"),
        lambda: services.remove_device(user_id="nobody", token="t"),
        lambda: services.erase_recipient(user_id="nobody"),
    ):
        with pytest.raises(UnknownRecipient):
            call()


# --- devices ----------------------------------------------------------------------------------------------------------


def test_registration_is_an_upsert() -> None:
    RecipientFactory(user_id="u", devices=[])
    device, is_new = services.register_device(user_id="u", token="t-1", platform="ios", now=EARLY)
    again, is_new_again = services.register_device(user_id="u", token="t-1", platform="ios", now=LATE)
    assert (is_new, is_new_again) == (True, False)
    assert again.pk == device.pk
    assert Device.objects.get().registered_at == LATE


def test_mere_sign_of_life_does_not_raise_the_version() -> None:
    RecipientFactory(user_id="u", devices=["t-1"])
    before = version_of("u")
    services.register_device(user_id="u", token="t-1", platform="android")
    assert version_of("u") == before


def test_token_that_moves_leaves_its_old_owner() -> None:
    RecipientFactory(user_id="old", devices=["t-1", "t-2"])
    RecipientFactory(user_id="new", devices=[])
    old_version, old_snapshot = version_of("old"), snapshot_of("old")
    device, is_new = services.register_device(user_id="new", token="t-1", platform="android")
    assert is_new
    assert version_of("old") > old_version
    assert [len(snapshot_of(user_id).devices) for user_id in ("old", "new")] == [1, 1]
    assert selectors.reveal_address(snapshot_of("new"), Channel.PUSH, device.pk) == "t-1"
    moved_id = old_snapshot.devices[0].id
    assert device.pk != moved_id
    assert selectors.reveal_address(snapshot_of("old"), Channel.PUSH, moved_id) is None


def test_beyond_the_cap_the_device_longest_unseen_is_switched_off() -> None:
    RecipientFactory(user_id="u", devices=[])
    for day in range(MAX_ACTIVE_DEVICES + 2):
        services.register_device(user_id="u", token=f"t-{day}", platform="ios", now=EARLY + timedelta(days=day))
    snapshot = snapshot_of("u")
    tokens = {selectors.reveal_address(snapshot, Channel.PUSH, device.id) for device in snapshot.devices}
    assert tokens == {f"t-{day}" for day in range(2, MAX_ACTIVE_DEVICES + 2)}


def test_dead_token_is_switched_off() -> None:
    RecipientFactory(user_id="u", devices=["t-1"])
    device = Device.objects.get()
    assert services.deactivate_device(device_id=device.pk, dead_since=None, reason="UNREGISTERED")
    assert snapshot_of("u").devices == ()
    assert not services.deactivate_device(device_id=device.pk, dead_since=None, reason="UNREGISTERED")
    device.refresh_from_db()
    assert device.deactivated_reason == "UNREGISTERED"


def test_token_registered_again_after_its_death_stays_on() -> None:
    RecipientFactory(user_id="u", devices=[])
    device, _ = services.register_device(user_id="u", token="t-1", platform="ios", now=LATE)
    assert not services.deactivate_device(device_id=device.pk, dead_since=EARLY, reason="Unregistered")
    assert services.deactivate_device(device_id=device.pk, dead_since=LATE, reason="Unregistered")


def test_dead_token_registered_again_is_on_again() -> None:
    RecipientFactory(user_id="u", devices=["t-1"])
    services.deactivate_device(device_id=Device.objects.get().pk, dead_since=None, reason="UNREGISTERED")
    before = version_of("u")
    _, is_new = services.register_device(user_id="u", token="t-1", platform="android")
    assert not is_new
    assert version_of("u") > before
    assert len(snapshot_of("u").devices) == 1


def test_unknown_device_is_no_error() -> None:
    assert not services.deactivate_device(device_id=10**18, dead_since=None, reason="UNREGISTERED")


def test_device_is_removed_by_token_or_id_of_its_owner_only() -> None:
    RecipientFactory(user_id="u", devices=["t-1", "t-2"])
    RecipientFactory(user_id="other", devices=["t-3"])
    device_id = Device.objects.order_by("pk")[0].pk
    assert not services.remove_device(user_id="other", device_id=device_id)
    assert not services.remove_device(user_id="other", token="t-2")
    assert services.remove_device(user_id="u", device_id=device_id)
    assert services.remove_device(user_id="u", token="t-2")
    assert Device.objects.count() == 1


# --- suppressions -----------------------------------------------------------------------------------------------------


def test_suppressed_address_is_suppressed_for_everybody_who_has_it() -> None:
    RecipientFactory(user_id="a", email="Shared@example.com")
    RecipientFactory(user_id="b", email="shared@example.com")
    RecipientFactory(user_id="c")
    before = {user_id: version_of(user_id) for user_id in "abc"}
    assert services.suppress_address(channel=Channel.EMAIL, user_id="a", source="sendgrid", reason="bounced")
    assert {user_id for user_id in "abc" if version_of(user_id) > before[user_id]} == {"a", "b"}
    assert snapshot_of("b").suppressed_channels == {Channel.EMAIL}
    assert snapshot_of("c").suppressed_channels == frozenset()
    assert not services.suppress_address(channel=Channel.EMAIL, user_id="b", source="sendgrid", reason="bounced")


def test_suppression_outlives_erasure_and_new_recipients() -> None:
    RecipientFactory(user_id="a", phone="+15005550006")
    services.suppress_address(channel=Channel.SMS, user_id="a", source="twilio", reason="21610")
    services.erase_recipient(user_id="a")
    RecipientFactory(user_id="b", phone="+15005550006")
    assert snapshot_of("b").suppressed_channels == {Channel.SMS}


def test_address_set_after_the_bounced_use_is_left_alone() -> None:
    RecipientFactory(user_id="a")
    assert not services.suppress_address(
        channel=Channel.EMAIL, user_id="a", source="sendgrid", reason="bounced", used_at=EARLY
    )
    assert not Suppression.objects.exists()


def test_suppression_is_lifted_by_an_explicit_act_and_can_come_back() -> None:
    RecipientFactory(user_id="a")
    services.suppress_address(channel=Channel.EMAIL, user_id="a", source="sendgrid", reason="bounced")
    before = version_of("a")
    suppression = Suppression.objects.get()
    assert services.lift_suppression(suppression_id=suppression.pk)
    assert not services.lift_suppression(suppression_id=suppression.pk)
    assert version_of("a") > before
    assert snapshot_of("a").suppressed_channels == frozenset()
    assert services.suppress_address(channel=Channel.EMAIL, user_id="a", source="sendgrid", reason="complained")
    assert snapshot_of("a").suppressed_channels == {Channel.EMAIL}


def test_suppressed_token_is_left_out_and_the_last_one_is_named() -> None:
    RecipientFactory(user_id="a", devices=["t-1", "t-2"])
    for token, is_suppressed in (("t-1", False), ("t-2", True)):
        services.suppress_blind_index(
            channel=Channel.PUSH, address_bi=cipher.blind_index("token", token), source="admin", reason="abuse"
        )
        assert (Channel.PUSH in snapshot_of("a").suppressed_channels) is is_suppressed
    assert snapshot_of("a").devices == ()


def test_push_has_no_single_address() -> None:
    with pytest.raises(ValueError, match="deactivate"):
        services.suppress_address(channel=Channel.PUSH, user_id="a", source="x", reason="y")


def test_nobody_and_no_address_suppress_nothing() -> None:
    RecipientFactory(user_id="a", email=None)
    for user_id in ("a", "nobody"):
        assert not services.suppress_address(channel=Channel.EMAIL, user_id=user_id, source="x", reason="y")


# --- erasure ----------------------------------------------------------------------------------------------------------


def test_erased_recipient_keeps_nothing_but_the_opt_out() -> None:
    RecipientFactory(user_id="a", is_opted_out=True, channels={Channel.SMS: False}, attributes={"plan": "gold"})
    services.erase_recipient(user_id="a")
    recipient = Recipient.objects.get()
    assert (recipient.email_ct, recipient.phone_bi, recipient.attributes, recipient.time_zone) == (None, None, {}, "")
    assert not Device.objects.exists()
    assert snapshot_of("a").is_erased
    with pytest.raises(UnknownRecipient):
        services.erase_recipient(user_id="a")
    recipient, is_new = services.upsert_recipient(user_id="a", email="ann@example.com")
    assert is_new
    assert recipient.erased_at is None
    assert snapshot_of("a").is_opted_out
    assert snapshot_of("a").disabled_channels == {Channel.SMS}


# --- the tables guard themselves --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "columns",
    [
        {"email_ct": b"x"}, {"email_bi": b"x" * 32}, {"phone_ct": b"x", "phone_bi": b"short"}, {"user_id": "a/b"},
        {"user_id": ""}, {"user_id": "a\nb"}, {"version": 0}, {"attributes": []}, {"attributes": None},
        {"email_ct": b"x", "email_bi": b"x" * 32, "erased_at": EARLY},
    ],
)  # fmt: skip
def test_table_refuses_what_services_never_write(columns: dict[str, object]) -> None:
    RecipientFactory(user_id="u", email=None, phone=None, devices=[])
    with pytest.raises(IntegrityError), transaction.atomic():
        Recipient.objects.filter(user_id="u").update(**columns)


def test_dump_of_the_tables_holds_nothing_personal() -> None:
    RecipientFactory(user_id="u", email="annabel@example.com", phone="+15005550006", devices=["a-very-secret-token"])
    services.suppress_address(channel=Channel.EMAIL, user_id="u", source="sendgrid", reason="bounced")
    dump = ""
    with connection.cursor() as cursor:
        for table in ("recipient", "device", "suppression", "channelpreference"):
            cursor.execute(f"SELECT t::text FROM preferences_{table} t")
            dump += "".join(row[0] for row in cursor.fetchall())
    assert "(" in dump
    for secret in ("annabel@example.com", "annabel", "+15005550006", "5005550006", "a-very-secret-token"):
        assert secret not in dump
        assert secret.encode().hex() not in dump


# --- two at once ------------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_first_registrations_at_once_make_one_recipient() -> None:
    outcomes: list[bool] = []

    def register() -> None:
        try:
            outcomes.append(services.upsert_recipient(user_id="u", email="ann@example.com")[1])
        finally:
            connection.close()

    run_at_once([register] * 6)
    assert sorted(outcomes) == [False] * 5 + [True]


@pytest.mark.django_db(transaction=True)
def test_token_registered_by_many_at_once_ends_with_one_owner() -> None:
    owners = [RecipientFactory(devices=[]).user_id for _ in range(6)]

    def register(user_id: str) -> None:
        try:
            services.register_device(user_id=user_id, token="t-1", platform="ios")
        finally:
            connection.close()

    run_at_once([lambda user_id=user_id: register(user_id) for user_id in owners])
    device = Device.objects.get()
    snapshots = selectors.load_snapshots({user_id: version_of(user_id) for user_id in owners})
    assert [snapshot.recipient_id for snapshot in snapshots.values() if snapshot.devices] == [device.recipient_id]


@pytest.mark.django_db(transaction=True)
def test_address_taken_over_while_it_is_suppressed_is_seen_as_suppressed() -> None:
    RecipientFactory(user_id="a", email="shared@example.com")
    RecipientFactory(user_id="b", email=None)

    def take_over() -> None:
        try:
            services.upsert_recipient(user_id="b", email="shared@example.com")
            snapshot_of("b")  # and cached at once
        finally:
            connection.close()

    taking_over = threading.Thread(target=take_over)
    with transaction.atomic():  # the suppression is there and not yet committed
        services.suppress_address(channel=Channel.EMAIL, user_id="a", source="sendgrid", reason="bounced")
        taking_over.start()
        wait_until(lambda: not taking_over.is_alive() or is_waiting_for_address())
    taking_over.join(30)
    assert snapshot_of("b").suppressed_channels == {Channel.EMAIL}


def is_waiting_for_address() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)")
        return cursor.fetchone()[0]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline


def run_at_once(calls: list) -> None:
    barrier = threading.Barrier(len(calls))
    errors: list[BaseException] = []

    def run(call) -> None:
        barrier.wait()
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=[call]) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []

"""``PUT /v1/users:bulk`` and what it writes, compared with the single calls it stands for."""

import threading
from typing import Any

import pytest
from django.db import connection, connections, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rest_framework.response import Response
from rest_framework.test import APIClient

from apps.channels import Channel
from apps.preferences import bulk, bulk_rows, cache, cipher, selectors, services
from apps.preferences.bulk_rows import Outcome, rounds_of, store_entries
from apps.preferences.entries import read_entry
from apps.preferences.models import Category, CategoryPreference, ChannelPreference, Device, QuietHours, Recipient
from tests.clients.factories import make_api_key, make_client
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db

URL = "/v1/users:bulk"
ANN = {
    "user_id": "user-1",
    "email": "Ann@Example.com",
    "phone": "+1 500 555 0006",
    "locale": "en-us",
    "time_zone": "Europe/Berlin",
    "attributes": {"plan": "gold"},
}


@pytest.fixture
def api() -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Api-Key {make_api_key(make_client())}")
    return client


def put(api: APIClient, *users: Any) -> Response:
    return api.put(URL, {"users": list(users)}, format="json")


def version_of(user_id: str) -> int:
    return selectors.select_versions([user_id])[user_id][1]


def outcomes(response: Response) -> list[str]:
    return [result["outcome"] for result in response.json()["results"]]


# --- what is stored ---------------------------------------------------------------------------------------------------


def test_recipients_are_created_as_the_single_call_creates_them(api: APIClient) -> None:
    response = put(api, ANN, {"user_id": "user-2"})
    assert response.status_code == 200
    assert response.json()["results"][0] == {"user_id": "user-1", "status": 201, "outcome": "created", "errors": []}
    services.upsert_recipient(**{**ANN, "user_id": "user-3"})
    bulk_made, single = (Recipient.objects.get(user_id=user_id) for user_id in ("user-1", "user-3"))
    for channel in (Channel.EMAIL, Channel.SMS):
        assert selectors.reveal_contact(bulk_made, channel) == selectors.reveal_contact(single, channel)
    for name in ("email_bi", "phone_bi", "locale", "time_zone", "attributes", "is_opted_out"):
        assert getattr(bulk_made, name) == getattr(single, name)
    assert bulk_made.email_set_at
    assert bulk_made.version > 0


def test_profile_becomes_exactly_what_the_item_says(api: APIClient) -> None:
    put(api, ANN)
    assert outcomes(put(api, {"user_id": "user-1", "email": "bob@example.com"})) == ["updated"]
    recipient = Recipient.objects.get()
    assert selectors.reveal_contact(recipient, Channel.EMAIL) == "bob@example.com"
    assert (recipient.phone_ct, recipient.phone_bi, recipient.phone_set_at) == (None, None, None)
    assert (recipient.locale, recipient.time_zone, recipient.attributes) == ("", "", {})


def test_the_same_call_again_changes_nothing(api: APIClient) -> None:
    item = {**ANN, "preferences": {"opted_out": True, "channels": {"sms": False}}, "devices": []}
    put(api, item)
    before = Recipient.objects.values().get()
    assert outcomes(put(api, item)) == ["unchanged"]
    assert Recipient.objects.values().get() == before


def test_address_that_stays_keeps_its_age_and_its_ciphertext(api: APIClient) -> None:
    put(api, ANN)
    before = Recipient.objects.get()
    assert outcomes(put(api, {**ANN, "locale": "de"})) == ["updated"]
    after = Recipient.objects.get()
    assert (after.email_set_at, bytes(after.email_ct or b"")) == (before.email_set_at, bytes(before.email_ct or b""))
    assert after.version > before.version


@pytest.mark.parametrize(
    ("stored", "new"), [({"a": 1}, {"a": True}), ({"a": 1}, {}), ({}, {"a": []}), ({"a": 1}, {"a": 1.5})]
)
def test_change_of_attributes_is_seen(api: APIClient, stored: dict[str, Any], new: dict[str, Any]) -> None:
    put(api, {"user_id": "user-1", "attributes": stored})
    assert outcomes(put(api, {"user_id": "user-1", "attributes": new})) == ["updated"]
    assert Recipient.objects.get().attributes == new


def test_capital_letter_in_an_address_is_a_change(api: APIClient) -> None:
    put(api, {"user_id": "user-1", "email": "ann@example.com"})
    put(api, {"user_id": "user-1", "email": "Ann@example.com"})
    assert selectors.reveal_contact(Recipient.objects.get(), Channel.EMAIL) == "Ann@example.com"


def test_erased_recipient_comes_back_and_has_still_said_no(api: APIClient) -> None:
    RecipientFactory(user_id="user-1", is_opted_out=True, channels={Channel.SMS: False})
    services.erase_recipient(user_id="user-1")
    assert outcomes(put(api, ANN)) == ["created"]
    recipient = Recipient.objects.get()
    assert recipient.erased_at is None
    assert recipient.is_opted_out
    assert ChannelPreference.objects.get().is_enabled is False


def test_preferences_come_along(api: APIClient) -> None:
    marketing = Category.objects.get(key="marketing")
    preferences = {
        "opted_out": False,
        "channels": {"push": True, "sms": False},
        "categories": {"marketing": {"email": False}},
        "quiet_hours": [{"days": ["mon", "tue"], "start": "22:00", "end": "07:00"}],
    }
    put(
        api,
        {"user_id": "user-1", "preferences": preferences},
        {"user_id": "user-2", "preferences": {"opted_out": True}},
    )
    recipient = Recipient.objects.get(user_id="user-1")
    assert dict(ChannelPreference.objects.values_list("channel", "is_enabled")) == {
        Channel.PUSH: True,
        Channel.SMS: False,
    }
    row = CategoryPreference.objects.get()
    assert (row.recipient, row.category, row.channel, row.is_enabled) == (recipient, marketing, Channel.EMAIL, False)
    assert str(QuietHours.objects.get()) == "22:00-07:00 on mon, tue"
    assert Recipient.objects.get(user_id="user-2").is_opted_out


def test_preferences_as_get_shows_them_are_taken(api: APIClient) -> None:
    RecipientFactory(user_id="user-1", channels={Channel.SMS: False})
    shown = api.get("/v1/users/user-1/preferences").json()
    shown["quiet_hours"] = [{"start": "22:00", "end": "07:00"}]
    put(api, {"user_id": "user-1", "preferences": shown})
    assert Recipient.objects.get().time_zone == "Europe/Berlin"
    assert QuietHours.objects.get().days == 127
    put(api, {"user_id": "user-1", "preferences": {"quiet_hours": None}})
    assert not QuietHours.objects.exists()


def test_two_time_zones_are_one_too_many(api: APIClient) -> None:
    item = {"user_id": "user-1", "time_zone": "Europe/Berlin", "preferences": {"time_zone": "Europe/Paris"}}
    assert outcomes(put(api, item)) == ["refused"]


def test_preferences_that_are_left_out_stay_and_null_takes_a_word_back(api: APIClient) -> None:
    everything = {
        "opted_out": True,
        "channels": {"push": False, "sms": False},
        "categories": {"marketing": {"email": False, "push": True}},
        "quiet_hours": [{"days": ["sun"], "start": "00:00", "end": "24:00"}],
    }
    put(api, {"user_id": "user-1", "preferences": everything})
    put(api, {"user_id": "user-1"})
    assert Recipient.objects.get().is_opted_out
    assert ChannelPreference.objects.count() == 2
    part = {"channels": {"push": None}, "categories": {"marketing": {"email": None}}, "quiet_hours": []}
    version = version_of("user-1")
    assert outcomes(put(api, {"user_id": "user-1", "preferences": part})) == ["updated"]
    assert version_of("user-1") > version
    assert [row.channel for row in ChannelPreference.objects.all()] == [Channel.SMS]
    assert [row.channel for row in CategoryPreference.objects.all()] == [Channel.PUSH]
    assert not QuietHours.objects.exists()
    assert outcomes(put(api, {"user_id": "user-1", "preferences": part})) == ["unchanged"]


def test_opt_out_is_seen_by_the_next_decision(api: APIClient) -> None:
    put(api, ANN)
    selectors.load_snapshots({"user-1": version_of("user-1")})
    put(api, {**ANN, "preferences": {"channels": {"email": False}}})
    snapshot = selectors.load_snapshots({"user-1": version_of("user-1")})["user-1"]
    assert Channel.EMAIL in snapshot.disabled_channels


@pytest.mark.django_db(transaction=True)
def test_cache_is_tidied_after_the_commit(api: APIClient, redis: Any) -> None:
    put(api, ANN)
    selectors.load_snapshots({"user-1": version_of("user-1")})
    assert redis.exists("pref:user-1")
    put(api, {**ANN, "locale": "de"})
    assert not redis.exists("pref:user-1")


# --- devices ----------------------------------------------------------------------------------------------------------


def device(token: str, platform: str = "ios") -> dict[str, str]:
    return {"token": token, "platform": platform}


def test_devices_are_registered_and_can_be_used(api: APIClient) -> None:
    put(api, {"user_id": "user-1", "devices": [device("token-1"), device("token-2", "android")]})
    snapshot = selectors.load_snapshots({"user-1": version_of("user-1")})["user-1"]
    tokens = {selectors.reveal_address(snapshot, Channel.PUSH, row.id) for row in snapshot.devices}
    assert tokens == {"token-1", "token-2"}


def test_known_device_is_refreshed_and_a_dead_one_lives_again(api: APIClient) -> None:
    RecipientFactory(user_id="user-1", devices=["token-1"])
    before = Device.objects.get()
    services.deactivate_device(device_id=before.pk, dead_since=None, reason="UNREGISTERED")
    version = version_of("user-1")
    put(api, {"user_id": "user-1", "devices": [device("token-1", "android")]})
    after = Device.objects.get()
    assert after.pk == before.pk
    assert (after.deactivated_at, after.deactivated_reason) == (None, "")
    assert after.registered_at > before.registered_at
    assert version_of("user-1") > version


def test_token_moves_to_the_recipient_who_names_it_last(api: APIClient) -> None:
    RecipientFactory(user_id="user-0", devices=["token-1"])
    version = version_of("user-0")
    put(
        api,
        {"user_id": "user-1", "devices": [device("token-1")]},
        {"user_id": "user-2", "devices": [device("token-1")]},
    )
    assert Device.objects.get().recipient.user_id == "user-2"
    assert version_of("user-0") > version


def test_device_cap_holds_over_several_calls(api: APIClient) -> None:
    for call in range(2):
        put(api, {"user_id": "user-1", "devices": [device(f"token-{call}-{number}") for number in range(15)]})
    active = Device.objects.filter(deactivated_at=None)
    assert active.count() == 20
    snapshot = selectors.load_snapshots({"user-1": version_of("user-1")})["user-1"]
    tokens = [selectors.reveal_address(snapshot, Channel.PUSH, row.id) for row in snapshot.devices]
    assert sum(token.startswith("token-1-") for token in tokens if token) == 15


def test_more_devices_than_one_transaction_takes(api: APIClient) -> None:
    users = [{"user_id": f"user-{n}", "devices": [device(f"token-{n}-{m}") for m in range(9)]} for n in range(50)]
    assert put(api, *users).status_code == 200
    assert Device.objects.count() == 450


# --- what is refused --------------------------------------------------------------------------------------------------

GARBAGE = [None, True, 0, 1.5, -1, "", "x", "\ud7ff", "a" * 5_000, [], [1], {}, {"a": 1}, "•••", "12345"]
GARBAGE += [{"a": 1e20}, "ann@example.com", "+15005550006"]
RIGHT: dict[str, list[Any]] = {
    "user_id": ["x", "\ud7ff", "•••", "12345"],
    "email": [None, "ann@example.com"],
    "phone": [None, "+15005550006"],
    "locale": [""],
    "time_zone": [""],
    "attributes": [{}, {"a": 1}],
    "preferences": [{}],
    "devices": [[]],
}


def is_right(name: str, value: Any) -> bool:
    return any(value == right and type(value) is type(right) for right in RIGHT[name])


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name in RIGHT for value in GARBAGE if not is_right(name, value)]
)
def test_garbage_in_a_field_is_refused_and_the_neighbours_are_stored(api: APIClient, name: str, value: Any) -> None:
    response = put(api, {"user_id": "first"}, {"user_id": "user-1", name: value}, {"user_id": "last"})
    assert response.status_code == 207, response.content
    assert outcomes(response) == ["created", "refused", "created"]
    result = response.json()["results"][1]
    assert result["status"] == 422
    assert all(error["pointer"].startswith(f"/users/1/{name}") for error in result["errors"])
    assert sorted(Recipient.objects.values_list("user_id", flat=True)) == ["first", "last"]


@pytest.mark.parametrize(
    ("part", "pointer"),
    [
        ({"opted_out": 1}, "opted_out"),
        ({"opted_out": None}, "opted_out"),
        ({"channels": []}, "channels"),
        ({"channels": {"fax": True}}, "channels/fax"),
        ({"channels": {"sms": "no"}}, "channels/sms"),
        ({"categories": {"no-such": {"sms": True}}}, "categories/?"),
        ({"categories": {"marketing": True}}, "categories/marketing"),
        ({"categories": {"marketing": {"sms": 0}}}, "categories/marketing/sms"),
        ({"quiet_hours": {}}, "quiet_hours"),
        ({"quiet_hours": [1]}, "quiet_hours/0"),
        ({"quiet_hours": [{"days": ["mon"], "start": "25:00", "end": "07:00"}]}, "quiet_hours/0/start"),
        ({"quiet_hours": [{"days": ["mon"], "start": "22:00"}]}, "quiet_hours/0/end"),
        ({"quiet_hours": [{"days": "mon", "start": "22:00", "end": "07:00"}]}, "quiet_hours/0/days"),
        ({"quiet_hours": [{"days": [[]], "start": "22:00", "end": "07:00"}]}, "quiet_hours/0/days"),
        ({"quiet_hours": [{"days": ["someday"], "start": "22:00", "end": "07:00"}]}, "quiet_hours/0/days"),
        ({"quiet_hours": [{"days": [], "start": "22:00", "end": "07:00"}]}, "quiet_hours/0/days"),
        ({"quiet_hours": [{"start": "22:00", "end": "22:00"}]}, "quiet_hours"),
        ({"time_zone": "Mars"}, "time_zone"),
        ({"time_zone": None}, "time_zone"),
        ({"quiet_hours": [{"days": ["mon"], "start": "22:00", "end": "22:00", "x": 1}]}, "quiet_hours/0/x"),
        ({"unheard_of": 1}, "unheard_of"),
        ({"ann@example.com": 1}, "?"),
    ],
)
def test_wrong_preferences_are_refused_with_a_pointer(api: APIClient, part: dict[str, Any], pointer: str) -> None:
    result = put(api, {"user_id": "user-1", "preferences": part}).json()["results"][0]
    assert [error["pointer"] for error in result["errors"]] == [f"/users/0/preferences/{pointer}"]
    assert not Recipient.objects.exists()


@pytest.mark.parametrize(
    ("devices", "pointer"),
    [
        ([1], "devices/0"),
        ([{"token": "t"}], "devices/0/platform"),
        ([{"token": "t", "platform": "fax"}], "devices/0/platform"),
        ([{"token": "a b", "platform": "ios"}], "devices/0/token"),
        ([{"token": "t", "platform": "ios", "app_id": None}], "devices/0/app_id"),
        ([{"token": "t", "platform": "ios", "x": 1}], "devices/0/x"),
        ([{"token": f"t{n}", "platform": "ios"} for n in range(21)], "devices"),
    ],
)
def test_wrong_devices_are_refused_with_a_pointer(api: APIClient, devices: list[Any], pointer: str) -> None:
    result = put(api, {"user_id": "user-1", "devices": devices}).json()["results"][0]
    assert [error["pointer"] for error in result["errors"]] == [f"/users/0/{pointer}"]
    assert not Recipient.objects.exists()


@pytest.mark.parametrize("item", [None, 1, "user-1", [], [["user_id", "x"]], {}, {"user_id": "x", "nonsense": 1}])
def test_what_is_no_recipient_is_refused(api: APIClient, item: Any) -> None:
    assert outcomes(put(api, item, {"user_id": "user-2"})) == ["refused", "created"]


def test_user_id_that_stands_twice_is_refused_the_second_time(api: APIClient) -> None:
    response = put(api, {"user_id": "user-1", "locale": "en"}, {"user_id": "user-1", "locale": "de"})
    assert outcomes(response) == ["created", "refused"]
    assert response.json()["results"][1]["errors"][0]["code"] == "duplicate"
    assert Recipient.objects.get().locale == "en"


@pytest.mark.parametrize(
    "body", [{}, {"users": []}, {"users": {}}, {"users": None}, {"users": [{}], "x": 1}, {"users": "a"}]
)
def test_body_without_a_list_of_users_is_422(api: APIClient, body: dict[str, Any]) -> None:
    response = api.put(URL, body, format="json")
    assert response.status_code == 422
    assert response["Content-Type"] == "application/problem+json"


def test_more_than_a_thousand_are_refused_as_a_whole(api: APIClient) -> None:
    users = [{"user_id": f"user-{number}"} for number in range(1_001)]
    assert put(api, *users).status_code == 422
    assert not Recipient.objects.exists()
    assert put(api, *users[:1_000]).status_code == 200
    assert Recipient.objects.count() == 1_000


def test_more_devices_than_a_call_takes_are_refused_as_a_whole(api: APIClient) -> None:
    users = [{"user_id": f"user-{n}", "devices": [device(f"t-{n}-{m}") for m in range(20)]} for n in range(101)]
    assert put(api, *users).status_code == 422
    assert not Recipient.objects.exists()


def test_a_thousand_take_a_handful_of_statements(api: APIClient, django_assert_max_num_queries: Any) -> None:
    users = [{**ANN, "user_id": f"user-{number}"} for number in range(1_000)]
    with django_assert_max_num_queries(20):
        bulk.upsert_recipients(users)


def test_call_without_the_scope_is_refused() -> None:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Api-Key {make_api_key(make_client(scopes=['preferences:read']))}")
    assert put(client, ANN).status_code == 403
    assert APIClient().put(URL, {}, format="json").status_code == 401
    assert not Recipient.objects.exists()


def test_every_item_counts_for_the_rate_limit() -> None:
    client = make_client(tier="standard")
    client.tier.burst, client.tier.requests_per_s = 5, 0.001
    client.tier.save()
    api = APIClient()
    api.credentials(HTTP_AUTHORIZATION=f"Api-Key {make_api_key(client)}")
    assert put(api, *({"user_id": f"user-{number}"} for number in range(4))).status_code == 200
    assert put(api, *({"user_id": f"user-{number}"} for number in range(4))).status_code == 429


def test_errors_do_not_repeat_what_was_sent(api: APIClient) -> None:
    response = put(api, {"user_id": "u", "email": "secret@", "phone": "+1secret", "devices": [{"token": "se cret"}]})
    assert b"secret" not in response.content
    assert b"se cret" not in response.content


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    item=st.dictionaries(
        st.sampled_from(["user_id", "email", "phone", "locale", "time_zone", "attributes", "preferences", "devices"]),
        json_values,
    )
    | json_values
)
def test_whatever_comes_is_stored_or_refused(item: Any) -> None:
    before = Recipient.objects.count()
    (result,) = bulk.upsert_recipients([item])
    assert (result.outcome is None) == bool(result.faults)
    if result.outcome is None:
        assert Recipient.objects.count() == before


# --- engine -----------------------------------------------------------------------------------------------------------


def entry_of(**item: Any) -> Any:
    return read_entry(item, is_whole=False, category_ids={})


def test_what_a_partial_entry_leaves_out_stays() -> None:
    store_entries([entry_of(**ANN)])
    store_entries([entry_of(user_id="user-1", locale="de")])
    recipient = Recipient.objects.get()
    assert recipient.locale == "de"
    assert recipient.time_zone == "Europe/Berlin"
    assert selectors.reveal_contact(recipient, Channel.EMAIL) == "Ann@example.com"


def test_erased_recipient_stays_erased_if_it_is_not_to_come_back() -> None:
    RecipientFactory(user_id="user-1")
    services.erase_recipient(user_id="user-1")
    before = Recipient.objects.values().get()
    assert store_entries([entry_of(**ANN)], revives_erased=False) == [Outcome.ERASED]
    assert Recipient.objects.values().get() == before


def test_rounds_keep_the_order_of_one_users_entries() -> None:
    entries = [entry_of(user_id=user_id) for user_id in "abacba"]
    rounds = rounds_of(entries)
    assert [[entry.user_id for entry in round_] for round_ in rounds] == [["a", "b", "c"], ["a", "b"], ["a"]]
    with pytest.raises(ValueError, match="twice"):
        store_entries(entries)


def test_lost_key_does_not_stop_a_new_address(settings: Any) -> None:
    store_entries([entry_of(**ANN)])
    settings.PII_KEYS = {"2": "MTAwMTAyMDMwNDA1MDYwNzA4MDkwYTBiMGMwZDBlMGY="}
    settings.PII_ACTIVE_KEY = "2"
    assert store_entries([entry_of(**ANN)]) == [Outcome.UPDATED]
    recipient = Recipient.objects.get()
    assert cipher.key_id_of(bytes(recipient.email_ct or b"")) == 2
    assert selectors.reveal_contact(recipient, Channel.EMAIL) == "Ann@example.com"


def in_thread(work: Any) -> threading.Thread:
    def run() -> None:
        try:
            work()
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


@pytest.mark.django_db(transaction=True)
def test_recipient_created_meanwhile_is_found_and_brought_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = bulk_rows._plan
    other: list[threading.Thread] = []

    def plan_late(*args: Any) -> Any:
        if not other:
            other.append(
                in_thread(lambda: services.upsert_recipient(user_id="user-1", locale="fr", phone="+15005550007"))
            )
            other[0].join()
        return plan(*args)

    monkeypatch.setattr(bulk_rows, "_plan", plan_late)  # the other writer must come between reading and writing
    assert store_entries([entry_of(user_id="user-1", email="ann@example.com")]) == [Outcome.UPDATED]
    recipient = Recipient.objects.get()
    assert recipient.locale == "fr"
    assert selectors.reveal_contact(recipient, Channel.EMAIL) == "ann@example.com"


@pytest.mark.django_db(transaction=True)
def test_suppression_waits_for_a_bulk_write_and_then_sees_it() -> None:
    """Else a recipient could take an address over while it is being suppressed, and keep a version that says it is
    not."""
    index = cipher.blind_index("email", "ann@example.com")
    written, suppressed = threading.Event(), threading.Event()
    fetch = selectors.load_snapshots

    def suppress() -> None:
        written.wait(10)
        services.suppress_blind_index(channel=Channel.EMAIL, address_bi=index, source="test", reason="bounced")
        suppressed.set()

    thread = in_thread(suppress)
    with transaction.atomic():
        store_entries([entry_of(**ANN)])
        written.set()
        assert _wait_for_a_blocked_lock()
        assert not suppressed.is_set()
    thread.join(10)
    assert suppressed.is_set()
    snapshot = fetch({"user-1": version_of("user-1")})["user-1"]
    assert snapshot.suppressed_channels == {Channel.EMAIL}


def _wait_for_a_blocked_lock() -> bool:
    for _ in range(5_000):
        with connection.cursor() as cursor:
            cursor.execute("SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)")
            if cursor.fetchone()[0]:
                return True
    return False


@pytest.mark.django_db(transaction=True)
def test_bulk_writes_of_the_same_people_do_not_deadlock() -> None:
    failures: list[BaseException] = []

    def write(step: int) -> None:
        try:
            for turn in range(4):
                names = [f"user-{number}" for number in range(60)][::step]
                store_entries([entry_of(user_id=name, locale="de" if turn % 2 else "en") for name in names])
        except BaseException as error:
            failures.append(error)

    threads = [in_thread(lambda step=step: write(step)) for step in (1, -1, 1, -1)]
    for thread in threads:
        thread.join(60)
    assert not failures
    assert Recipient.objects.count() == 60
    assert cache.availability.is_away() is False

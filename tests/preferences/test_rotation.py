"""Changing the key of everything encrypted while it is in use."""

import json
import threading
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, connections

from apps.channels import Channel
from apps.preferences import cipher, rotation, selectors, services
from apps.preferences.models import Device, Recipient
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db

KEYS = {
    "1": "MDAwMTAyMDMwNDA1MDYwNzA4MDkwYTBiMGMwZDBlMGY=",
    "2": "MTAwMTAyMDMwNDA1MDYwNzA4MDkwYTBiMGMwZDBlMGY=",
}


def hold_keys(settings: Any, *ids: str, active: str) -> None:
    settings.PII_KEYS = {key_id: KEYS[key_id] for key_id in ids}
    settings.PII_ACTIVE_KEY = active


def run(*arguments: str) -> dict[str, Any]:
    out = StringIO()
    call_command("rotate_keys", *arguments, stdout=out)
    return json.loads(out.getvalue())  # type: ignore[no-any-return]


def addresses_of(user_id: str) -> list[str | None]:
    version = selectors.select_versions([user_id])[user_id][1]
    snapshot = selectors.load_snapshots({user_id: version})[user_id]
    push = [selectors.reveal_address(snapshot, Channel.PUSH, device.id) for device in snapshot.devices]
    return [selectors.reveal_address(snapshot, channel) for channel in (Channel.EMAIL, Channel.SMS)] + push


def test_everything_is_readable_with_the_new_key_alone(settings: Any) -> None:
    hold_keys(settings, "1", active="1")
    for number in range(3):
        RecipientFactory(user_id=f"user-{number}", devices=[f"token-{number}-a", f"token-{number}-b"])
    RecipientFactory(user_id="user-3", email=None, phone=None, devices=[])
    before = {f"user-{number}": addresses_of(f"user-{number}") for number in range(4)}
    hold_keys(settings, "1", "2", active="2")
    report = run()
    assert report["columns"] | {"preferences_device.token_ct": {"2": 6}} == report["columns"]
    assert report["columns"]["preferences_recipient.email_ct"] == {"2": 3}
    assert (report["active"], report["removable"], report["missing"]) == (2, [1], [])
    hold_keys(settings, "2", active="2")
    assert {f"user-{number}": addresses_of(f"user-{number}") for number in range(4)} == before


def test_versions_go_up_so_that_cached_ciphertext_is_not_used(settings: Any) -> None:
    hold_keys(settings, "1", active="1")
    RecipientFactory(user_id="user-1", email=None, phone=None)
    addresses_of("user-1")
    version = selectors.select_versions(["user-1"])["user-1"][1]
    hold_keys(settings, "1", "2", active="2")
    run()
    assert selectors.select_versions(["user-1"])["user-1"][1] > version


def test_second_run_has_nothing_to_do(settings: Any) -> None:
    hold_keys(settings, "1", active="1")
    RecipientFactory(user_id="user-1")
    hold_keys(settings, "1", "2", active="2")
    run()
    before = Recipient.objects.values().get()
    assert [batch for column in rotation.columns() for batch in rotation.rotate(column)] == []
    run()
    assert Recipient.objects.values().get() == before


def test_interrupted_rotation_goes_on_where_it_was(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "ROWS_PER_BATCH", 2)
    hold_keys(settings, "1", active="1")
    for number in range(5):
        RecipientFactory(user_id=f"user-{number}", devices=[])
    hold_keys(settings, "1", "2", active="2")
    (column,) = (column for column in rotation.columns() if column.column == "email_ct")
    batches = rotation.rotate(column)
    assert next(batches).resealed == 2
    assert rotation.count_keys(column) == {1: 3, 2: 2}
    assert [batch.resealed for batch in rotation.rotate(column)] == [2, 1]
    assert rotation.count_keys(column) == {2: 5}


def test_dry_run_only_counts(settings: Any) -> None:
    hold_keys(settings, "1", active="1")
    RecipientFactory(user_id="user-1")
    hold_keys(settings, "1", "2", active="2")
    report = run("--dry-run")
    assert report["columns"]["preferences_recipient.email_ct"] == {"1": 1}
    assert report["removable"] == []


def test_key_is_in_use_as_long_as_one_column_needs_it(settings: Any) -> None:
    hold_keys(settings, "1", active="1")
    RecipientFactory(user_id="user-1")
    hold_keys(settings, "1", "2", active="2")
    assert run("--only", "preferences_recipient.email_ct")["removable"] == []


def test_rows_that_no_key_opens_are_named_and_left(settings: Any) -> None:
    hold_keys(settings, "1", active="1")
    recipient = RecipientFactory(user_id="user-1", phone=None, devices=[])
    hold_keys(settings, "2", active="2")
    RecipientFactory(user_id="user-2")
    with pytest.raises(CommandError, match=f"email_ct: 1 rows, e.g. {recipient.pk}") as caught:
        call_command("rotate_keys", stdout=StringIO())
    assert "example.com" not in str(caught.value)
    recipient.refresh_from_db()
    assert cipher.key_id_of(bytes(recipient.email_ct or b"")) == 1


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Functions to run, once each, between the reading of a batch and its writing."""
    waiting: list[Any] = []
    write = rotation._write

    def write_late(*args: Any) -> int:
        while waiting:
            waiting.pop()()
        return write(*args)

    monkeypatch.setattr(rotation, "_write", write_late)  # somebody else must come between reading and writing
    return waiting


@pytest.mark.django_db(transaction=True)
def test_change_made_meanwhile_wins(settings: Any, hook: list[Any]) -> None:
    hold_keys(settings, "1", active="1")
    RecipientFactory(user_id="user-1", phone=None, devices=["token-1"])
    hold_keys(settings, "1", "2", active="2")

    def change() -> None:
        def work() -> None:
            services.upsert_recipient(user_id="user-1", email="new@example.com")
            connections.close_all()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    hook.append(change)
    assert run()["columns"]["preferences_recipient.email_ct"] == {"2": 1}
    assert addresses_of("user-1") == ["new@example.com", None, "token-1"]


@pytest.mark.django_db(transaction=True)
def test_device_that_moved_meanwhile_is_not_touched(settings: Any, hook: list[Any]) -> None:
    hold_keys(settings, "1", active="1")
    RecipientFactory(user_id="user-1", email=None, phone=None, devices=["token-1"])
    RecipientFactory(user_id="user-2", email=None, phone=None, devices=[])
    hold_keys(settings, "1", "2", active="2")
    hook.append(lambda: services.register_device(user_id="user-2", token="token-1", platform="ios"))
    run()
    assert addresses_of("user-2") == [None, None, "token-1"]
    assert Device.objects.count() == 1


def test_other_apps_columns_are_rotated_too(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "_columns", {})
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE sealed_note (id uuid PRIMARY KEY, body_ct bytea)")
        hold_keys(settings, "1", active="1")
        number = "01890a5d-ac96-774b-bcce-b302099a8057"
        blob = cipher.encrypt(b"words", f"note|{number}")
        cursor.execute("INSERT INTO sealed_note VALUES (%s, %s), (uuidv7(), NULL), (uuidv7(), '')", [number, blob])
        rotation.register(
            rotation.SealedColumn(
                table="sealed_note", column="body_ct", key="id", key_type="uuid", context="t.id",
                aad=lambda note_id: f"note|{note_id}",
            )
        )  # fmt: skip
        hold_keys(settings, "1", "2", active="2")
        assert run()["removable"] == [1]
        cursor.execute("SELECT body_ct FROM sealed_note WHERE id = %s", [number])
        assert cipher.decrypt(bytes(cursor.fetchone()[0]), f"note|{number}") == b"words"

"""What leaves the platform about a person, and that nothing of it is left after erasure."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from redis import Redis
from rest_framework.test import APIClient
from structlog.testing import capture_logs

from apps.channels import Channel
from apps.preferences import cache, cipher, erasure, exports, selectors, services
from apps.preferences.models import Device, Recipient, SubscriptionChoice, Suppression
from tests.clients.factories import make_api_key, make_client
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
SECRETS = ("ann.secret@example.com", "+15005550006", "token-of-ann-1234567", "gold-member", "ticket-4711")


def make_ann(user_id: str = "user-1") -> Recipient:
    recipient: Recipient = RecipientFactory(
        user_id=user_id,
        email=SECRETS[0],
        phone=SECRETS[1],
        devices=[(SECRETS[2], "ios")],
        attributes={"plan": SECRETS[3]},
        channels={Channel.SMS: False, Channel.PUSH: True},
    )
    services.suppress_blind_index(
        channel=Channel.EMAIL,
        address_bi=cipher.blind_index("email", SECRETS[0]),
        source="admin",
        reason="complained",
        evidence=SECRETS[4],
    )
    return recipient


@pytest.fixture
def part() -> Iterator[None]:
    exports.register_part("notifications", lambda recipient_id, user_id: [{"to": user_id, "at": NOW}])
    yield
    exports._parts.pop("notifications")


def api_of(*scopes: str) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Api-Key {make_api_key(make_client(scopes=scopes))}")
    return client


# --- a person ---------------------------------------------------------------------------------------------------------


def test_person_gets_all_that_is_held_in_clear(part: None) -> None:
    make_ann()
    response = api_of("preferences:export").get("/v1/users/user-1/export")
    assert response.status_code == 200
    assert response["Cache-Control"] == "no-store"
    body = json.loads(response.content)
    assert body["profile"]["email"] == SECRETS[0]
    assert body["profile"]["phone"] == SECRETS[1]
    assert body["profile"]["attributes"] == {"plan": SECRETS[3]}
    assert body["preferences"]["channels"] == {"push": True, "sms": False}
    assert [device["token"] for device in body["devices"]] == [SECRETS[2]]
    assert [entry["evidence"] for entry in body["suppressions"]] == [SECRETS[4]]
    assert body["notifications"] == [{"to": "user-1", "at": "2026-01-31T12:00:00Z"}]


def test_choices_made_by_link_are_part_of_the_export() -> None:
    recipient = make_ann()
    SubscriptionChoice.objects.create(
        recipient=recipient,
        channel=Channel.EMAIL,
        category="marketing",
        scope="category",
        source="page",
        link_made_at=NOW,
    )
    export = exports.export_person("user-1", now=NOW)
    assert export is not None
    assert [choice["category"] for choice in export["subscription_choices"]] == ["marketing"]


def test_export_has_a_scope_of_its_own() -> None:
    make_ann()
    assert api_of("preferences:read", "preferences:write").get("/v1/users/user-1/export").status_code == 403
    assert APIClient().get("/v1/users/user-1/export").status_code == 401


def test_nobody_is_404() -> None:
    api = api_of("preferences:export")
    assert api.get("/v1/users/nobody/export").status_code == 404
    make_ann()
    services.erase_recipient(user_id="user-1")
    assert api.get("/v1/users/user-1/export").status_code == 404
    with pytest.raises(CommandError, match="no such"):
        call_command("export_user", "user-1")


def test_export_is_logged_without_what_was_in_it() -> None:
    make_ann()
    with capture_logs() as lines:
        api_of("preferences:export").get("/v1/users/user-1/export")
    (line,) = (line for line in lines if line["event"] == "person_exported")
    assert line["user_id"] == "user-1"
    assert line["client"]
    assert not any(secret in str(lines) for secret in SECRETS)


def test_what_cannot_be_decrypted_says_so(settings: Any) -> None:
    make_ann()
    settings.PII_KEYS = {"2": "MTAwMTAyMDMwNDA1MDYwNzA4MDkwYTBiMGMwZDBlMGY="}
    settings.PII_ACTIVE_KEY = "2"
    export = exports.export_person("user-1", now=NOW)
    assert export is not None
    assert export["profile"]["email"] == exports.UNREADABLE
    (item,) = exports.iterate_recipients()
    assert "email" not in item
    assert item["devices"] == []


def test_own_parts_cannot_be_replaced() -> None:
    with pytest.raises(ValueError, match="profile"):
        exports.register_part("profile", lambda recipient_id, user_id: {})


def test_command_prints_the_same() -> None:
    make_ann()
    out = StringIO()
    call_command("export_user", "user-1", stdout=out)
    assert json.loads(out.getvalue())["profile"]["email"] == SECRETS[0]


# --- all recipients ---------------------------------------------------------------------------------------------------


def contents() -> list[Any]:
    """What is stored, but for ids, times and ciphertext."""
    return [
        (
            recipient.user_id,
            [selectors.reveal_contact(recipient, channel) for channel in (Channel.EMAIL, Channel.SMS)],
            recipient.locale,
            recipient.attributes,
            selectors.select_preferences(recipient),
            sorted(
                (selectors.reveal_token(device, recipient.user_id), device.platform)
                for device in Device.objects.filter(recipient=recipient)
            ),
        )
        for recipient in Recipient.objects.filter(erased_at=None).order_by("user_id")
    ]


def test_export_can_be_imported_and_comes_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "RECIPIENTS_PER_PAGE", 2)  # so that a few make several pages
    make_ann()
    for number in range(2, 6):
        RecipientFactory(user_id=f"user-{number}", is_opted_out=number == 3)
    services.erase_recipient(user_id="user-5")
    services.update_preferences(user_id="user-2", categories={"marketing": {Channel.EMAIL: False}})
    before, file = contents(), tmp_path / "recipients.ndjson"
    call_command("export_recipients", str(file), stderr=StringIO())
    assert file.stat().st_mode & 0o777 == 0o600
    assert len(file.read_bytes().splitlines()) == 4
    Recipient.objects.all().delete()
    call_command("import_recipients", str(file), stdout=StringIO())
    assert contents() == before


def test_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(CommandError, match="exists"):
        call_command("export_recipients", str(file))
    assert file.read_text() == "precious"


# --- erasure ----------------------------------------------------------------------------------------------------------


def dump() -> str:
    """Every row of every table as text, bytes in hexadecimal."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename")
        tables = [row[0] for row in cursor.fetchall()]
        text = []
        for table in tables:
            cursor.execute(f"SELECT t::text FROM {table} t")
            text += [row[0] for row in cursor.fetchall()]
    return "\n".join(text)


def dump_cache(redis: Redis) -> bytes:
    keys = list(redis.scan_iter())
    return b"\n".join(key + b"=" + (redis.get(key) or b"") for key in keys if redis.type(key) == b"string")


def traces_of(recipient: Recipient) -> list[str]:
    """What would betray the person: the values, their ciphertexts and the recipient's blind indexes."""
    device = Device.objects.get(recipient=recipient)
    blobs = (recipient.email_ct, recipient.phone_ct, device.token_ct, device.token_bi)
    return [*SECRETS, *(bytes(blob or b"").hex() for blob in blobs)]


@pytest.mark.django_db(transaction=True)
def test_nothing_of_an_erased_person_is_left_in_database_or_cache(redis: Redis) -> None:
    recipient = make_ann()
    recipient.refresh_from_db()
    version = selectors.select_versions(["user-1"])["user-1"][1]
    selectors.load_snapshots({"user-1": version})
    traces = traces_of(recipient)
    before, cached = dump(), dump_cache(redis)
    assert all(trace in before for trace in traces[3:])
    assert bytes(recipient.email_ct or b"") in cached
    services.erase_recipient(user_id="user-1")
    after, cached = dump(), dump_cache(redis)
    assert [trace for trace in traces if trace in after] == []
    assert bytes(recipient.email_ct or b"") not in cached
    assert b"pref:user-1" in cached  # the tombstone
    assert Suppression.objects.filter(lifted_at=None).count() == 1


@pytest.mark.django_db(transaction=True)
def test_slow_reader_does_not_put_an_erased_person_back_into_the_cache(redis: Redis) -> None:
    recipient = make_ann()
    version = selectors.select_versions(["user-1"])["user-1"][1]
    snapshot = selectors.load_snapshots({"user-1": version})["user-1"]
    services.erase_recipient(user_id="user-1")
    cache.write_snapshots([snapshot])
    recipient.refresh_from_db()
    assert bytes(snapshot.email_ct or b"") not in dump_cache(redis)


def test_other_apps_erase_in_the_same_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    recipient, calls = make_ann(), []
    monkeypatch.setattr(erasure, "_erasers", {})
    erasure.register("notifications", lambda recipient_id, user_id: calls.append((recipient_id, user_id)))
    services.erase_recipient(user_id="user-1")
    assert calls == [(recipient.pk, "user-1")]

    def fail(recipient_id: int, user_id: str) -> None:
        raise RuntimeError

    make_ann("user-2")
    erasure.register("notifications", fail)
    with pytest.raises(RuntimeError):
        services.erase_recipient(user_id="user-2")
    assert Recipient.objects.get(user_id="user-2").email_ct is not None
    assert Suppression.objects.get().evidence == ""  # the other's; this one's note went with the same address

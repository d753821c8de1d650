"""Importing a small file in the admin: a preview that stores nothing, then a confirmation that does."""

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse
from redis import Redis

from apps.channels import Channel
from apps.preferences import selectors, services
from apps.preferences.import_preview import MAX_BYTES, REJECTS_SHOWN
from apps.preferences.models import Recipient
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db
URL = reverse("admin:preferences_recipient_import")
CSV = b"user_id,email,preferences.channels.sms\nuser-1,ann@example.com,false\nuser-2,broken,\nuser-3,,\n"


def upload(client: Client, content: bytes = CSV, name: str = "recipients.csv", **fields: str) -> Any:
    return client.post(URL, {"file": SimpleUploadedFile(name, content), "format": "", **fields})


def confirm(client: Client, previewed: Any) -> Any:
    context = previewed.context
    return client.post(URL, {"ticket": context["ticket"], "format": context["format"]})


def test_preview_shows_what_would_happen_and_stores_nothing(admin_client: Client) -> None:
    RecipientFactory(user_id="user-3")
    before = Recipient.objects.values().get()
    response = upload(admin_client)
    preview = response.context["preview"]
    assert preview.counts == {"new": 1, "known": 1}
    assert [(reject.line, reject.field) for reject in preview.rejects] == [(3, "email")]
    assert [(row.line, row.user_id, row.state, row.email) for row in preview.rows] == [
        (2, "user-1", "new", "a•••@example.com"),
        (4, "user-3", "known", ""),
    ]
    assert "sms off" in preview.rows[0].preferences
    assert b"ann@example.com" not in response.content
    assert Recipient.objects.values().get() == before


def test_confirmation_imports_and_is_recorded(admin_client: Client) -> None:
    response = confirm(admin_client, upload(admin_client))
    assert response.context["report"].outcomes == {"created": 2}
    assert b"1 line rejected" in response.content
    assert selectors.reveal_contact(Recipient.objects.get(user_id="user-1"), Channel.EMAIL) == "ann@example.com"
    assert LogEntry.objects.get().get_change_message() == "Imported: 2 created, 1 lines rejected."
    assert LogEntry.objects.get().get_admin_url() is None or LogEntry.objects.get().object_id is None


def test_ndjson_is_told_by_its_name_or_said(admin_client: Client) -> None:
    line = b'{"user_id": "user-1", "devices": [{"token": "t", "platform": "ios"}]}\n'
    assert upload(admin_client, line, "people.ndjson").context["preview"].counts == {"new": 1}
    assert upload(admin_client, line, "people.csv", format="ndjson").context["preview"].rows[0].devices == 1


def test_only_the_first_rows_are_shown_and_all_are_checked(admin_client: Client) -> None:
    rows = b"".join(b"user-%d,%s\n" % (n, b"x" if n % 2 else b"a@example.com") for n in range(1_000))
    preview = upload(admin_client, b"user_id,email\n" + rows).context["preview"]
    assert (len(preview.rows), preview.counts, preview.rejected) == (20, {"new": 500}, 500)
    assert len(preview.rejects) == REJECTS_SHOWN


def test_erased_recipients_stay_erased(admin_client: Client) -> None:
    RecipientFactory(user_id="user-1")
    services.erase_recipient(user_id="user-1")
    previewed = upload(admin_client)
    assert previewed.context["preview"].counts == {"new": 1, "erased": 1}
    assert confirm(admin_client, previewed).context["report"].outcomes == {"created": 1}
    assert Recipient.objects.get(user_id="user-1").erased_at


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", b"empty"),
        (b"nonsense\n1\n", b"user_id"),
        (b"user_id,surprise\n", b"Column 2"),
        (b"\xff\xfeu\x00", b"UTF-8"),
        (b"user_id\n" + b"x" * MAX_BYTES, b"larger than"),
    ],
)
def test_file_that_cannot_be_imported_says_why(admin_client: Client, content: bytes, words: bytes) -> None:
    response = upload(admin_client, content)
    assert words in response.content
    assert "ticket" not in response.context


@pytest.mark.parametrize(
    "body",
    [
        {"ticket": "x", "format": "csv"},
        {"ticket": "", "format": "csv"},
        {"ticket": "x" * 99, "format": "csv"},
        {"ticket": "x"},
    ],
)
def test_unknown_ticket_asks_for_the_file_again(admin_client: Client, body: dict[str, str]) -> None:
    assert b"no longer there" in admin_client.post(URL, body).content
    assert not Recipient.objects.exists()


def test_file_waits_encrypted_and_works_once(admin_client: Client, redis: Redis) -> None:
    previewed = upload(admin_client)
    (key,) = (key for key in redis.scan_iter() if b"admin-import" in key)
    assert b"example.com" not in redis.get(key)
    assert 0 < redis.ttl(key) <= 900
    confirm(admin_client, previewed)
    assert not redis.exists(key)
    assert b"no longer there" in confirm(admin_client, previewed).content


def test_file_is_for_the_one_who_chose_it(admin_client: Client, django_user_model: Any) -> None:
    previewed = upload(admin_client)
    other = Client()
    other.force_login(django_user_model.objects.create_superuser("eve", password="secret-secret"))
    assert b"no longer there" in confirm(other, previewed).content
    assert confirm(admin_client, previewed).context["report"].outcomes == {"created": 2}


def test_page_needs_three_permissions(client: Client, django_user_model: Any) -> None:
    names = ["import_recipient", "add_recipient", "change_recipient"]
    user = django_user_model.objects.create_user("ben", password="secret-secret", is_staff=True)
    client.force_login(user)
    for missing in names:
        user.user_permissions.set(Permission.objects.filter(codename__in=[name for name in names if name != missing]))
        assert client.get(URL).status_code == 403
        assert upload(client).status_code == 403
    user.user_permissions.set(Permission.objects.filter(codename__in=[*names, "view_recipient"]))
    assert client.get(URL).status_code == 200
    assert URL.encode() in client.get(reverse("admin:preferences_recipient_changelist")).content
    assert not Recipient.objects.exists()

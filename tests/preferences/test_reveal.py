"""Seeing addresses in clear in the admin: who may, and that it is recorded; and the log of who did what."""

from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse

from apps.channels import Channel
from apps.preferences import cipher, services
from apps.preferences.models import Recipient, Suppression
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db
SECRETS = ("ann@example.com", "+15005550123", "token-of-ann-1234567")


def make_ann() -> Recipient:
    recipient: Recipient = RecipientFactory(user_id="user-1", email=SECRETS[0], phone=SECRETS[1], devices=[SECRETS[2]])
    return recipient


def reveal_url(recipient: Recipient) -> str:
    return reverse("admin:preferences_recipient_reveal", args=[recipient.pk])


@pytest.fixture
def staff(client: Client, django_user_model: Any) -> Any:
    """Logs a member of staff in who has these permissions."""

    def log_in(*names: str) -> Client:
        user = django_user_model.objects.create_user("ben", password="secret-secret", is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=names))
        client.force_login(user)
        return client

    return log_in


def test_values_are_shown_after_a_reason_and_it_is_recorded_who_saw_them(admin_client: Client) -> None:
    recipient = make_ann()
    asked = admin_client.get(reveal_url(recipient))
    assert not any(secret in asked.content.decode() for secret in SECRETS)
    assert not LogEntry.objects.exists()
    shown = admin_client.post(reveal_url(recipient), {"reason": "ticket 4711"})
    assert all(secret in shown.content.decode() for secret in SECRETS)
    assert "no-store" in shown["Cache-Control"]
    entry = LogEntry.objects.get()
    assert (entry.user.get_username(), entry.object_id) == ("admin", str(recipient.pk))
    assert entry.get_change_message() == "Revealed contact points and tokens: ticket 4711"


@pytest.mark.parametrize("reason", ["", " ", "x" * 201, "a\nb", "for ann@example.com", "called +15005550006"])
def test_without_a_proper_reason_nothing_is_shown(admin_client: Client, reason: str) -> None:
    recipient = make_ann()
    response = admin_client.post(reveal_url(recipient), {"reason": reason})
    assert SECRETS[2] not in response.content.decode()
    assert not LogEntry.objects.exists()


def test_other_permissions_do_not_reveal(staff: Any) -> None:
    recipient = make_ann()
    client = staff("view_recipient", "change_recipient", "add_recipient", "delete_recipient")
    for response in (client.get(reveal_url(recipient)), client.post(reveal_url(recipient), {"reason": "x"})):
        assert response.status_code == 403
    page = client.get(reverse("admin:preferences_recipient_change", args=[recipient.pk])).content.decode()
    assert "Reveal" not in page
    assert not any(secret in page for secret in SECRETS)


def test_permission_reveals_together_with_that_to_view(staff: Any) -> None:
    recipient = make_ann()
    client = staff("reveal_recipient", "view_recipient")
    page = client.get(reverse("admin:preferences_recipient_change", args=[recipient.pk])).content.decode()
    assert reveal_url(recipient) in page
    assert client.post(reveal_url(recipient), {"reason": "x"}).status_code == 200


def test_permission_alone_does_not_reveal(staff: Any) -> None:
    assert staff("reveal_recipient").post(reveal_url(make_ann()), {"reason": "x"}).status_code == 403


def test_stranger_is_sent_to_the_login(client: Client) -> None:
    response = client.post(reveal_url(make_ann()), {"reason": "x"})
    assert response.status_code == 302
    assert "login" in response["Location"]


def test_erased_and_unknown_recipients_are_404(admin_client: Client) -> None:
    recipient = make_ann()
    services.erase_recipient(user_id="user-1")
    assert admin_client.post(reveal_url(recipient), {"reason": "x"}).status_code == 404
    assert admin_client.get(reverse("admin:preferences_recipient_reveal", args=["x"])).status_code == 404


def test_lost_key_does_not_break_the_page(admin_client: Client, settings: Any) -> None:
    recipient = make_ann()
    settings.PII_KEYS = {"2": "MTAwMTAyMDMwNDA1MDYwNzA4MDkwYTBiMGMwZDBlMGY="}
    settings.PII_ACTIVE_KEY = "2"
    assert b"cannot be decrypted" in admin_client.post(reveal_url(recipient), {"reason": "x"}).content


# --- who did what -----------------------------------------------------------------------------------------------------


def test_log_of_changes_shows_who_did_what_and_cannot_be_changed(admin_client: Client) -> None:
    recipient = make_ann()
    admin_client.post(reveal_url(recipient), {"reason": "ticket 4711"})
    url = reverse("admin:admin_logentry_changelist")
    page = admin_client.get(f"{url}?q=4711").content.decode()
    assert "Revealed contact points and tokens: ticket 4711" in page
    assert reverse("admin:preferences_recipient_change", args=[recipient.pk]) in page
    entry = LogEntry.objects.get()
    assert admin_client.post(f"{url}{entry.pk}/delete/", {"post": "yes"}).status_code == 403
    assert admin_client.get(f"{url}add/").status_code == 403


def test_log_of_changes_needs_its_permission(staff: Any) -> None:
    client = staff("view_recipient")
    assert client.get(reverse("admin:admin_logentry_changelist")).status_code == 403


def test_suppression_names_the_admin_who_added_and_lifted_it(admin_client: Client) -> None:
    add = reverse("admin:preferences_suppression_add")
    body = {"channel": Channel.EMAIL.value, "address": SECRETS[0], "reason": "complained", "evidence": "ticket 1"}
    assert b"Leave it out" in admin_client.post(add, {**body, "evidence": f"from {SECRETS[0]}"}).content
    admin_client.post(add, body)
    row = Suppression.objects.get()
    assert bytes(row.address_bi) == cipher.blind_index("email", SECRETS[0])
    action = {"action": "lift", "_selected_action": [row.pk], "confirmed": "yes", "reason": "ticket 2"}
    admin_client.post(reverse("admin:preferences_suppression_changelist"), action)
    row.refresh_from_db()
    assert (row.added_by, row.lifted_by, row.lift_reason) == ("admin admin", "admin admin", "ticket 2")
    page = admin_client.get(reverse("admin:preferences_suppression_change", args=[row.pk])).content.decode()
    assert "ticket 2" in page

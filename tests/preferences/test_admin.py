from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse

from apps.channels import Channel
from apps.preferences import selectors, services
from apps.preferences.models import Device, Recipient, Suppression
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db

LIST = reverse("admin:preferences_recipient_changelist")
ADD = reverse("admin:preferences_recipient_add")


def change_url(recipient: Recipient) -> str:
    return reverse("admin:preferences_recipient_change", args=[recipient.pk])


def form_of(client: Client, url: str) -> dict[str, Any]:
    """What a browser would send back if nobody changed anything."""
    context = client.get(url).context
    data: dict[str, Any] = {}
    forms = [context["adminform"].form]
    for inline in context["inline_admin_formsets"]:
        forms += [inline.formset.management_form, *inline.formset.forms]
    for form in forms:
        for bound in form:
            value = bound.value()
            if value is not None and value is not False and not bound.field.disabled:
                data[bound.html_name] = "on" if value is True else value
    return data


def saved(response: HttpResponse) -> None:
    context = getattr(response, "context", None)
    errors = context["errors"] if context and "errors" in context else ""
    assert response.status_code == 302, errors


def test_recipient_is_added_with_preference_and_device(admin_client: Client) -> None:
    data = form_of(admin_client, ADD) | {
        "user_id": "user-1",
        "new_email": "ann@example.com",
        "new_phone": "+1 500 555 0006",
        "time_zone": "Europe/Berlin",
        "attributes": '{"plan": "gold"}',
        "devices-TOTAL_FORMS": "1",
        "devices-0-platform": "ios",
        "devices-0-new_token": "token-1",
    }
    assert data["channel_preferences-1-channel"] == Channel.SMS.value
    data.pop("channel_preferences-1-is_enabled")
    saved(admin_client.post(ADD, data))
    recipient = Recipient.objects.get(user_id="user-1")
    assert selectors.reveal_contact(recipient, Channel.EMAIL) == "ann@example.com"
    assert selectors.reveal_contact(recipient, Channel.SMS) == "+15005550006"
    snapshot = selectors.load_snapshots({"user-1": recipient.version})["user-1"]
    assert snapshot.disabled_channels == {Channel.SMS}
    assert selectors.reveal_address(snapshot, Channel.PUSH, snapshot.devices[0].id) == "token-1"


def test_saving_an_untouched_page_changes_nothing(admin_client: Client) -> None:
    recipient = RecipientFactory(channels={Channel.SMS: False}, attributes={"a": 1})
    saved(admin_client.post(change_url(recipient), form_of(admin_client, change_url(recipient))))
    assert selectors.select_versions([recipient.user_id])[recipient.user_id][1] == recipient.version


def test_opt_out_in_the_admin_raises_the_version_and_is_in_the_history(admin_client: Client) -> None:
    recipient = RecipientFactory()
    data = form_of(admin_client, change_url(recipient)) | {"is_opted_out": "on"}
    saved(admin_client.post(change_url(recipient), data))
    version = selectors.select_versions([recipient.user_id])[recipient.user_id][1]
    assert version > recipient.version
    assert selectors.load_snapshots({recipient.user_id: version})[recipient.user_id].is_opted_out
    assert "opted out" in LogEntry.objects.get().get_change_message().lower()


def test_every_channel_has_a_row_and_only_what_changes_is_stored(admin_client: Client) -> None:
    recipient = RecipientFactory(channels={Channel.SMS: False})
    data = form_of(admin_client, change_url(recipient))
    row_of = {data[f"channel_preferences-{row}-channel"]: row for row in (1, 2)}
    data.pop(f"channel_preferences-{row_of[Channel.EMAIL]}-is_enabled")
    saved(admin_client.post(change_url(recipient), data | {"channel_preferences-0-is_enabled": "on"}))
    assert dict(recipient.channel_preferences.values_list("channel", "is_enabled")) == {
        Channel.SMS: True,
        Channel.EMAIL: False,
    }


def test_preference_that_came_in_meanwhile_is_not_mixed_up_with_another(admin_client: Client) -> None:
    recipient = RecipientFactory()
    data = form_of(admin_client, change_url(recipient))
    data.pop("channel_preferences-0-is_enabled")  # push off
    services.update_preferences(user_id=recipient.user_id, channels={Channel.PUSH: True})
    admin_client.post(change_url(recipient), data)
    assert not recipient.channel_preferences.filter(channel__in=[Channel.SMS, Channel.EMAIL], is_enabled=False).exists()


def test_new_address_replaces_and_tick_removes(admin_client: Client) -> None:
    recipient = RecipientFactory()
    data = form_of(admin_client, change_url(recipient)) | {"new_email": "bob@example.com", "remove_phone": "on"}
    saved(admin_client.post(change_url(recipient), data))
    recipient.refresh_from_db()
    assert selectors.reveal_contact(recipient, Channel.EMAIL) == "bob@example.com"
    assert recipient.phone_bi is None


def test_device_gets_a_new_token_or_goes(admin_client: Client) -> None:
    recipient = RecipientFactory(devices=["token-1", "token-2"])
    first, second = Device.objects.order_by("pk")
    data = form_of(admin_client, change_url(recipient))
    row_of = {int(data[f"devices-{row}-id"]): row for row in range(2)}
    data |= {f"devices-{row_of[first.pk]}-new_token": "token-3", f"devices-{row_of[second.pk]}-DELETE": "on"}
    saved(admin_client.post(change_url(recipient), data))
    device = Device.objects.get()
    assert selectors.reveal_token(device, recipient.user_id) == "token-3"
    assert device.platform == "android"


@pytest.mark.parametrize(
    "changes",
    [
        {"new_email": "nobody"}, {"new_phone": "123"}, {"time_zone": "Mars/Olympus"}, {"locale": "en_US"},
        {"attributes": "[1]"}, {"attributes": "{"}, {"new_email": "ann@example.com", "remove_email": "on"},
        {"new_email": "a\0b@example.com"}, {"devices-TOTAL_FORMS": "2", "devices-1-platform": "ios"},
        {"devices-TOTAL_FORMS": "2", "devices-1-platform": "ios", "devices-1-new_token": "a b"},
        {"attributes": '{"a": "\\u0000"}'},
    ],
)  # fmt: skip
def test_bad_input_is_shown_and_nothing_is_stored(admin_client: Client, changes: dict[str, str]) -> None:
    recipient = RecipientFactory()
    response = admin_client.post(change_url(recipient), form_of(admin_client, change_url(recipient)) | changes)
    assert response.status_code == 200
    assert "errorlist" in response.content.decode()
    assert "ManagementForm" not in response.content.decode()
    assert selectors.select_versions([recipient.user_id])[recipient.user_id][1] == recipient.version


def test_pages_show_no_address_in_clear(admin_client: Client) -> None:
    recipient = RecipientFactory(
        user_id="u", email="annabel@example.com", phone="+15005551234", devices=["a-rather-secret-token"]
    )
    services.suppress_address(channel=Channel.EMAIL, user_id="u", source="sendgrid", reason="bounced")
    for url in (LIST, change_url(recipient), reverse("admin:preferences_suppression_changelist")):
        page = admin_client.get(url).content.decode()
        for secret in ("annabel", "5551234", "a-rather-secret"):
            assert secret not in page
    assert "a•••@example.com" in admin_client.get(LIST).content.decode()


@pytest.mark.parametrize(
    ("term", "found"),
    [
        ("user-1", ["user-1", "user-12"]),
        ("user-12", ["user-12"]),
        ("ANN@example.com", ["user-1"]),
        (" ann@example.com ", ["user-1"]),
        ("+1 500 555 0006", ["user-1"]),
        ("ann", []),
        ("%", []),
        ("", ["user-1", "user-12"]),
    ],
)
def test_recipient_is_found_by_id_or_full_address(admin_client: Client, term: str, found: list[str]) -> None:
    RecipientFactory(user_id="user-1", email="ann@example.com", phone="+15005550006")
    RecipientFactory(user_id="user-12", email="bob@example.com", phone="+15005550007")
    response = admin_client.get(LIST, {"q": term})
    assert sorted(row.user_id for row in response.context["cl"].result_list) == found


def test_history_names_fields_not_values(admin_client: Client) -> None:
    recipient = RecipientFactory()
    data = form_of(admin_client, change_url(recipient)) | {"new_email": "annabel@example.com"}
    saved(admin_client.post(change_url(recipient), data))
    entry = LogEntry.objects.get()
    assert "e-mail" in entry.get_change_message()
    assert "annabel" not in entry.change_message + entry.object_repr


def test_erasing_asks_first(admin_client: Client) -> None:
    recipient = RecipientFactory()
    action = {"action": "erase", "_selected_action": [recipient.pk]}
    asked = admin_client.post(LIST, action)
    assert "Erase for good" in asked.content.decode()
    assert Recipient.objects.filter(erased_at=None).exists()
    saved(admin_client.post(LIST, action | {"confirmed": "yes"}))
    assert not Recipient.objects.filter(erased_at=None).exists()
    assert LogEntry.objects.get().get_change_message() == "Erased."
    assert admin_client.get(change_url(recipient)).status_code == 200  # to look at
    assert admin_client.post(change_url(recipient), {}).status_code == 403


def test_recipient_is_never_deleted_outright(admin_client: Client) -> None:
    recipient = RecipientFactory()
    url = reverse("admin:preferences_recipient_delete", args=[recipient.pk])
    assert admin_client.post(url, {"post": "yes"}).status_code == 403


def test_suppression_is_added_found_and_lifted(admin_client: Client) -> None:
    recipient = RecipientFactory(email="ann@example.com")
    add = reverse("admin:preferences_suppression_add")
    data = {"channel": Channel.EMAIL.value, "address": "Ann@example.com", "reason": "asked by letter"}
    saved(admin_client.post(add, data))
    saved(admin_client.post(add, data))  # twice is once
    suppression = Suppression.objects.get()
    assert suppression.source == "admin"
    changelist = reverse("admin:preferences_suppression_changelist")
    assert list(admin_client.get(changelist, {"q": "ann@example.com"}).context["cl"].result_list) == [suppression]
    assert list(admin_client.get(changelist, {"q": "bob@example.com"}).context["cl"].result_list) == []
    assert "email" in admin_client.get(change_url(recipient)).content.decode()
    action = {"action": "lift", "_selected_action": [suppression.pk]}
    assert b"be used again" in admin_client.post(changelist, action).content
    assert b"required" in admin_client.post(changelist, {**action, "confirmed": "yes"}).content
    saved(admin_client.post(changelist, {**action, "confirmed": "yes", "reason": "ticket 4711"}))
    suppression.refresh_from_db()
    assert suppression.lifted_at is not None


def test_suppression_of_no_address_is_refused(admin_client: Client) -> None:
    data = {"channel": Channel.SMS.value, "address": "ann@example.com", "reason": "x"}
    response = admin_client.post(reverse("admin:preferences_suppression_add"), data)
    assert response.status_code == 200
    assert not Suppression.objects.exists()


def test_staff_without_the_permission_neither_erases_nor_lifts(admin_client: Client, django_user_model: Any) -> None:
    django_user_model.objects.update(is_superuser=False)
    recipient = RecipientFactory()
    assert admin_client.get(change_url(recipient)).status_code == 403
    assert admin_client.post(LIST, {"action": "erase", "_selected_action": [recipient.pk]}).status_code == 403

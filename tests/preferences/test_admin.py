from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse

from apps.channels import Channel
from apps.preferences import selectors, services
from apps.preferences.models import Category, Device, Recipient, Suppression
from apps.preferences.quiet_hours import DAYS, Window
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
    data["channel_preferences-1-word"] = "off"
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
    data[f"channel_preferences-{row_of[Channel.EMAIL]}-word"] = "off"
    saved(admin_client.post(change_url(recipient), data | {"channel_preferences-0-word": "on"}))
    assert dict(recipient.channel_preferences.values_list("channel", "is_enabled")) == {
        Channel.SMS: True,
        Channel.EMAIL: False,
    }


def test_word_on_a_channel_is_taken_back(admin_client: Client) -> None:
    recipient = RecipientFactory(channels={Channel.SMS: False})
    data = form_of(admin_client, change_url(recipient)) | {"channel_preferences-0-word": ""}
    saved(admin_client.post(change_url(recipient), data))
    assert not recipient.channel_preferences.exists()


def add_row(data: dict[str, Any], prefix: str, **fields: object) -> dict[str, Any]:
    row = int(data[f"{prefix}-TOTAL_FORMS"])
    return (
        data | {f"{prefix}-TOTAL_FORMS": row + 1} | {f"{prefix}-{row}-{name}": value for name, value in fields.items()}
    )


def test_category_s_word_is_added_changed_and_taken_back(admin_client: Client) -> None:
    recipient = RecipientFactory()
    marketing = Category.objects.get(key="marketing")

    def words() -> list[tuple[int, bool]]:
        return list(recipient.category_preferences.values_list("channel", "is_enabled"))

    data = form_of(admin_client, change_url(recipient))
    data = add_row(data, "category_preferences", category=marketing.pk, channel=Channel.EMAIL.value, word="off")
    saved(admin_client.post(change_url(recipient), data))
    assert words() == [(Channel.EMAIL, False)]
    version = selectors.select_versions([recipient.user_id])[recipient.user_id][1]
    assert version > recipient.version
    data = form_of(admin_client, change_url(recipient))
    saved(admin_client.post(change_url(recipient), data | {"category_preferences-0-word": "on"}))
    assert words() == [(Channel.EMAIL, True)]
    data = form_of(admin_client, change_url(recipient))
    saved(admin_client.post(change_url(recipient), data | {"category_preferences-0-DELETE": "on"}))
    assert words() == []
    assert "Deleted category preference" in LogEntry.objects.latest("pk").get_change_message()


def test_quiet_hours_are_added_changed_and_removed(admin_client: Client) -> None:
    recipient = RecipientFactory()

    def shown() -> list[str]:
        return sorted(str(row) for row in recipient.quiet_hours.all())

    data = form_of(admin_client, change_url(recipient))
    data = add_row(data, "quiet_hours", on_days=["mon", "tue"], start="22:00", end="07:00")
    saved(
        admin_client.post(
            change_url(recipient), add_row(data, "quiet_hours", on_days="sun", start="00:00", end="24:00")
        )
    )
    assert shown() == ["00:00-24:00 on sun", "22:00-07:00 on mon, tue"]
    data = form_of(admin_client, change_url(recipient))
    version = selectors.select_versions([recipient.user_id])[recipient.user_id][1]
    saved(admin_client.post(change_url(recipient), data))
    assert selectors.select_versions([recipient.user_id])[recipient.user_id][1] == version
    saved(admin_client.post(change_url(recipient), data | {"quiet_hours-0-end": "06:30", "quiet_hours-1-DELETE": "on"}))
    assert shown() == ["22:00-06:30 on mon, tue"]
    snapshot = selectors.load_snapshots({recipient.user_id: 0})[recipient.user_id]
    assert snapshot.quiet_hours == (Window(0b11, 22 * 60, 6 * 60 + 30),)


@pytest.mark.parametrize(
    "row",
    [
        {"on_days": "mon", "start": "7", "end": "08:00"},
        {"on_days": "mon", "start": "07:00", "end": "07:00"},
        {"on_days": [], "start": "07:00", "end": "08:00"},
        {"on_days": "moonday", "start": "07:00", "end": "08:00"},
        {"on_days": list(DAYS), "start": "00:00", "end": "24:00"},
        {"on_days": "mon", "start": "", "end": "08:00"},
    ],
)
def test_quiet_hours_that_make_no_sense_are_an_error_of_the_form(admin_client: Client, row: dict[str, object]) -> None:
    recipient = RecipientFactory()
    data = form_of(admin_client, change_url(recipient))
    response = admin_client.post(change_url(recipient), add_row(data, "quiet_hours", **row))
    assert (response.status_code, recipient.quiet_hours.count()) == (200, 0)


CATEGORIES = reverse("admin:preferences_category_changelist")


def test_category_is_added_edited_and_retired_but_never_deleted(admin_client: Client) -> None:
    add, delete = reverse("admin:preferences_category_add"), "admin:preferences_category_delete"
    saved(admin_client.post(add, form_of(admin_client, add) | {"key": "news", "name": "News"}))
    category = Category.objects.get(key="news")
    change = reverse("admin:preferences_category_change", args=[category.pk])
    data = form_of(admin_client, change) | {"key": "other", "cap_limit": 3, "cap_period_s": 86_400, "kind": "marketing"}
    data.pop("is_active")
    saved(admin_client.post(change, data))
    category.refresh_from_db()
    assert (category.key, category.cap_limit, category.kind, category.is_active) == ("news", 3, "marketing", False)
    assert admin_client.post(reverse(delete, args=[category.pk]), {"post": "yes"}).status_code == 403
    assert b"3 in 86400 s" in admin_client.get(CATEGORIES).content


def test_edited_category_counts_at_once_in_this_process(
    admin_client: Client, django_capture_on_commit_callbacks: Any
) -> None:
    assert selectors.load_categories()["marketing"].cap is None
    change = reverse("admin:preferences_category_change", args=[Category.objects.get(key="marketing").pk])
    with django_capture_on_commit_callbacks(execute=True):
        data = form_of(admin_client, change) | {"cap_limit": 3, "cap_period_s": 86_400}
        saved(admin_client.post(change, data))
    assert selectors.load_categories()["marketing"].cap.limit == 3


@pytest.mark.parametrize(
    "change",
    [
        {"key": "Big News"},
        {"key": ""},
        {"key": "marketing"},
        {"cap_limit": 3},
        {"cap_period_s": 3600},
        {"cap_limit": 0, "cap_period_s": 3600},
        {"cap_limit": 1001, "cap_period_s": 3600},
        {"cap_limit": 3, "cap_period_s": 59},
        {"cap_limit": 3, "cap_period_s": 3_000_000},
        {"kind": "vital"},
    ],
)
def test_category_that_makes_no_sense_is_an_error_of_the_form(admin_client: Client, change: dict[str, Any]) -> None:
    add, count = reverse("admin:preferences_category_add"), Category.objects.count()
    response = admin_client.post(add, form_of(admin_client, add) | {"key": "news", "name": "News"} | change)
    assert (response.status_code, Category.objects.count()) == (200, count)


def test_default_category_cannot_be_retired(admin_client: Client) -> None:
    change = reverse("admin:preferences_category_change", args=[Category.objects.get(key="").pk])
    data = form_of(admin_client, change)
    data.pop("is_active")
    assert admin_client.post(change, data).status_code == 200
    assert Category.objects.get(key="").is_active


def test_preference_that_came_in_meanwhile_is_not_mixed_up_with_another(admin_client: Client) -> None:
    recipient = RecipientFactory()
    data = form_of(admin_client, change_url(recipient))
    data["channel_preferences-0-word"] = "off"  # push
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

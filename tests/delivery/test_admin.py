import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.urls import reverse

from apps.channels import Channel
from apps.delivery import dispatch
from apps.delivery.statuses import Status
from tests.delivery.conftest import REFUSED
from tests.delivery.factories import accept, reload
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def notification_ids(client_row, wire, settings):
    settings.DELIVERY_MAX_ATTEMPTS = 1
    wire.answer = lambda provider, request: REFUSED
    recipient = RecipientFactory(email="someone@example.com", channels={Channel.PUSH: False})
    deliveries = accept(client_row.id, recipient.user_id, channels=tuple(Channel))
    dispatch.deliver([one.id for one in deliveries])
    return deliveries


def test_lists_and_details_tell_the_story_without_personal_data(admin_client, notification_ids):
    pages = [
        reverse("admin:delivery_notification_changelist"),
        reverse("admin:delivery_notification_change", args=[notification_ids[0].notification_id]),
        reverse("admin:delivery_delivery_changelist"),
        reverse("admin:delivery_delivery_change", args=[notification_ids[1].id]),
    ]
    texts = [admin_client.get(page).content.decode() for page in pages]
    assert "The recipient has switched this channel off." in texts[1]
    assert "Every allowed attempt failed" in texts[1]
    assert "503" in texts[3]
    assert not any("someone@example.com" in text or "Body" in text for text in texts)


def test_search_finds_by_id_and_by_user(admin_client, notification_ids):
    url = reverse("admin:delivery_notification_changelist")
    for term in (str(notification_ids[0].id), "user-", notification_ids[0].notification_id):
        response = admin_client.get(url, {"q": term})
        assert response.status_code == 200
        found = notification_ids[0].notification_id in response.content.decode()
        assert found is (term != "user-")
    assert admin_client.get(reverse("admin:delivery_delivery_changelist"), {"q": "x"}).status_code == 200


def test_log_cannot_be_changed(admin_client, notification_ids):
    change = reverse("admin:delivery_delivery_change", args=[notification_ids[0].id])
    assert admin_client.post(change, {"status": 1}).status_code == 403
    assert admin_client.get(reverse("admin:delivery_delivery_add")).status_code == 403


def test_dead_deliveries_are_replayed_from_the_list_and_audited(admin_client, notification_ids):
    data = {"action": "replay_selected", "_selected_action": [str(one.id) for one in notification_ids]}
    response = admin_client.post(reverse("admin:delivery_delivery_changelist"), data, follow=True)
    assert "2 put back into the queue" in response.content.decode()
    assert [reload(one).status for one in notification_ids] == [Status.SUPPRESSED, Status.QUEUED, Status.QUEUED]
    assert LogEntry.objects.filter(change_message__contains="Replayed").count() == 2


def test_replay_needs_the_permission(client, notification_ids):
    user = User.objects.create_user("viewer", password="a-long-password", is_staff=True)
    client.force_login(user)
    data = {"action": "replay_selected", "_selected_action": [str(notification_ids[1].id)]}
    client.post(reverse("admin:delivery_delivery_changelist"), data)
    assert reload(notification_ids[1]).status == Status.DEAD

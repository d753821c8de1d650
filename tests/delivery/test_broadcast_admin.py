"""The admin's pages of broadcasts: what they show, and who may steer."""

import re
from pathlib import Path
from uuid import uuid4

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.contrib.staticfiles import finders
from django.test import Client
from django.urls import reverse

from apps.delivery.broadcasts import services
from apps.delivery.broadcasts.models import State
from apps.delivery.content import Content
from apps.delivery.models import Delivery
from apps.delivery.statuses import STATUS_LABELS, Status
from apps.providers.messages import ProviderResponse
from tests.delivery.broadcasts import make_order, run_messages
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db
LIST = reverse("admin:delivery_broadcast_changelist")
REFUSED = ProviderResponse(400, {"content-type": "application/json"}, b'{"error": {"status": "INVALID_ARGUMENT"}}')


@pytest.fixture
def broadcast(client_row):
    return services.create(make_order(client_row, content=Content(title="secret title", body="secret body")))


def page_of(broadcast):
    return reverse("admin:delivery_broadcast_change", args=[broadcast.id])


def live(client, broadcast):
    response = client.get(reverse("admin:delivery_broadcast_progress", args=[broadcast.id]))
    assert response.status_code == 200
    return response.json()


def steer(client, broadcast, verb, **data):
    return client.post(reverse("admin:delivery_broadcast_steer", args=[broadcast.id, verb]), data, follow=True)


def state_of(broadcast):
    broadcast.refresh_from_db()
    return State(broadcast.state)


@pytest.fixture
def watcher(client):
    """Somebody who may look and not touch."""
    user = User.objects.create_user("watcher", is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_broadcast"))
    client.force_login(user)
    return client


def test_lists_and_shows_without_the_words(admin_client, broadcast):
    texts = [admin_client.get(url).content.decode() for url in (LIST, page_of(broadcast))]
    assert all("News" in text and "scheduled" in text for text in texts)
    assert not any("secret" in text for text in texts)
    assert "everybody" in texts[1]
    found = admin_client.get(LIST, {"q": str(broadcast.id)}).content.decode()
    assert page_of(broadcast) in found
    assert page_of(broadcast) not in admin_client.get(LIST, {"q": "Other"}).content.decode()


def test_page_and_its_script_are_told_the_same(admin_client, broadcast, wire):
    for _ in range(3):
        RecipientFactory()
    RecipientFactory(is_opted_out=True)
    before = live(admin_client, broadcast)
    assert (before["state"], before["is_over"], before["percent"]) == ("scheduled", False, 0.0)
    run_messages()
    after = live(admin_client, broadcast)
    assert (after["state"], after["is_over"], after["percent"]) == ("completed", True, 100.0)
    assert (after["recipients"], after["done"], after["waiting"]) == (4, 4, 0)
    assert after["verbs"] == []
    parts = {part["status"]: part for part in after["parts"]}
    assert list(parts) == list(STATUS_LABELS)
    assert (parts["sent"]["count"], parts["sent"]["width"]) == (3, 75)
    assert (parts["suppressed"]["start"], parts["suppressed"]["width"]) == (75, 25)
    text = admin_client.get(page_of(broadcast)).content.decode()
    assert '<rect class="bc-sent" data-bar="sent" x="0.0%" width="75.0%"' in text
    assert "100.0 %" in text


def test_page_has_no_script_or_style_within_and_its_files_exist(admin_client, broadcast):
    text = admin_client.get(page_of(broadcast)).content.decode()
    panel = text[text.index('<section class="bc"') : text.index("</section>")]
    assert "style=" not in panel
    assert "<script" not in panel
    assert not re.search(r"\bon[a-z]+=", panel)
    for name in ("delivery/broadcast.js", "delivery/broadcast.css"):
        assert f"/static/{name}" in text
        source = Path(finders.find(name)).read_text()
        assert "http" not in source  # nothing from elsewhere
        served = admin_client.get(f"/static/{name}")
        assert served.getvalue().decode() == source


def test_steering_asks_first_and_keeps_who_did_it(admin_client, broadcast):
    for verb, state in (("pause", State.PAUSED), ("resume", State.SCHEDULED), ("cancel", State.CANCELLED)):
        before = state_of(broadcast)
        question = steer(admin_client, broadcast, verb)
        assert 'name="confirmed"' in question.content.decode()
        url = reverse("admin:delivery_broadcast_steer", args=[broadcast.id, verb])
        assert admin_client.get(url, {"confirmed": "yes"}).status_code == 200
        assert state_of(broadcast) is before
        answer = steer(admin_client, broadcast, verb, confirmed="yes")
        assert answer.redirect_chain == [(page_of(broadcast), 302)]
        assert state_of(broadcast) is state
    changes = LogEntry.objects.filter(object_id=str(broadcast.id)).order_by("id")
    assert [(entry.user.username, entry.get_change_message()) for entry in changes] == [
        ("admin", "Pause: done."),
        ("admin", "Resume: done."),
        ("admin", "Cancel: done."),
    ]


def test_what_the_state_does_not_allow_is_told(admin_client, broadcast):
    steer(admin_client, broadcast, "cancel", confirmed="yes")
    answer = steer(admin_client, broadcast, "resume", confirmed="yes")
    assert "Not done: the broadcast is cancelled" in answer.content.decode()
    assert LogEntry.objects.count() == 1


def test_what_failed_is_tried_again(admin_client, broadcast, wire):
    RecipientFactory()
    wire.answer = lambda provider, request: REFUSED
    run_messages()
    assert live(admin_client, broadcast)["verbs"] == ["retry-failed"]
    answer = steer(admin_client, broadcast, "retry-failed", confirmed="yes")
    assert "1 deliveries are tried again." in answer.content.decode()
    assert Delivery.objects.get().status == Status.QUEUED


def test_offers_what_the_state_allows(admin_client, broadcast):
    assert live(admin_client, broadcast)["verbs"] == ["pause", "cancel"]
    services.pause(broadcast.id)
    assert live(admin_client, broadcast)["verbs"] == ["resume", "cancel"]
    services.cancel(broadcast.id)
    assert live(admin_client, broadcast)["verbs"] == []


def test_watchers_look_and_do_not_touch(watcher, broadcast):
    assert watcher.get(page_of(broadcast)).status_code == 200
    assert live(watcher, broadcast)["verbs"] == []
    for data in ({}, {"confirmed": "yes"}):
        assert steer(watcher, broadcast, "cancel", **data).status_code == 403
    assert state_of(broadcast) is State.SCHEDULED


def test_others_see_nothing(client, broadcast):
    urls = [
        page_of(broadcast),
        reverse("admin:delivery_broadcast_progress", args=[broadcast.id]),
        reverse("admin:delivery_broadcast_steer", args=[broadcast.id, "cancel"]),
    ]
    for url in urls:
        assert client.get(url).status_code == 302  # to the login
    client.force_login(User.objects.create_user("stranger", is_staff=True))
    for url in urls:
        assert client.get(url).status_code == 403
    assert state_of(broadcast) is State.SCHEDULED


def test_forged_requests_are_refused(broadcast):
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(User.objects.create_superuser("boss"))
    assert steer(strict, broadcast, "cancel", confirmed="yes").status_code == 403
    assert state_of(broadcast) is State.SCHEDULED


def test_what_is_not_there_is_not_found(admin_client, broadcast):
    assert admin_client.get(reverse("admin:delivery_broadcast_progress", args=[uuid4()])).status_code == 404
    assert steer(admin_client, broadcast, "explode", confirmed="yes").status_code == 404


def test_nobody_adds_changes_or_deletes_one(admin_client, broadcast):
    assert admin_client.get(reverse("admin:delivery_broadcast_add")).status_code == 403
    assert admin_client.post(page_of(broadcast), {"name": "x"}).status_code == 403
    assert admin_client.post(reverse("admin:delivery_broadcast_delete", args=[broadcast.id])).status_code == 403

"""Templates in the admin: writing is making the next version, looking is safe."""

import json
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client as Browser

from apps.delivery.templating.models import Template
from tests.delivery.template_bodies import VERSION, make_template

pytestmark = pytest.mark.django_db
ADD = "/admin/delivery/template/add/"


@pytest.fixture
def browser() -> Browser:
    User.objects.create_superuser("root", password="a long password")
    browser = Browser()
    browser.force_login(User.objects.get(username="root"))
    return browser


def page_of(template: Template) -> str:
    return f"/admin/delivery/template/{template.pk}/change/"


def form(texts: list[dict[str, str]], **changes: Any) -> dict[str, Any]:
    filled = {
        "head-name": "welcome",
        "head-client": "",
        "head-default_locale": "en",
        "version-variables": json.dumps(VERSION["variables"]),
        "version-is_active": "on",
        "texts-TOTAL_FORMS": str(len(texts) + 1),
        "texts-INITIAL_FORMS": "0",
        f"texts-{len(texts)}-channel": "push",
        f"texts-{len(texts)}-locale": "en",
    }
    for place, text in enumerate(texts):
        filled |= {f"texts-{place}-{name}": value for name, value in text.items()}
    return {**filled, **changes}


SMS = {"channel": "sms", "locale": "en", "body": "Hello {{ name }},\r\nwelcome"}
EMAIL = {
    "channel": "email",
    "locale": "en",
    "title": "Welcome",
    "body": "Hello {{ name }}",
    "html": "<p>Hello {{ name }}</p><script>alert(1)</script>",
}


def test_shared_template_is_made_with_its_first_version(browser):
    answer = browser.post(ADD, form([SMS, EMAIL], _save="1"))
    assert answer.status_code == 302, answer.content.decode()
    template = Template.objects.get()
    assert (template.name, template.client, template.active_version) == ("welcome", None, 1)
    version = template.versions.get()
    assert version.created_by == "admin:root"
    assert version.texts.get(channel=2).body == "Hello {{ name }},\nwelcome"


def test_saving_makes_the_next_version_and_leaves_the_first(browser):
    template = make_template(None)
    page = browser.get(page_of(template))
    assert b"Danke, {{ name }}" in page.content
    answer = browser.post(page_of(template), form([SMS], _save="1", **{"version-is_active": ""}))
    assert answer.status_code == 302
    template.refresh_from_db()
    assert template.active_version == 1
    assert [version.texts.count() for version in template.versions.order_by("number")] == [5, 1]


def test_version_is_made_active_and_template_archived(browser):
    template = make_template(None)
    browser.post(page_of(template), form([SMS], _save="1"))
    browser.post(page_of(template), {"_activate": "1"})
    browser.post(page_of(template), {"_archive": "yes"})
    template.refresh_from_db()
    assert template.active_version == 1
    assert template.archived_at is not None
    browser.post(page_of(template), {"_archive": "yes"})
    browser.post(page_of(template), {"_activate": "99"})
    template.refresh_from_db()
    assert (template.archived_at, template.active_version) == (None, 1)


def test_preview_shows_every_channel_and_the_html_in_a_sandbox(browser):
    answer = browser.post(
        ADD, form([SMS, EMAIL], _preview="1", **{"version-context": '{"name": "Zoë", "link": "https://example.com/"}'})
    )
    page = answer.content.decode()
    assert answer.status_code == 200
    assert "Hello Zoë,\nwelcome" in page
    assert "UCS-2" in page
    assert 'sandbox=""' in page
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert(1)" not in page
    assert not Template.objects.exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"texts-0-body": "line\n{{ nothing }}"}, "line 2: nothing is not declared"),
        ({"version-variables": "{"}, "This is not JSON"),
        ({"version-variables": '{"x": {"type": "text"}}'}, "Invalid enum value"),
        ({"head-name": "No Name"}, "Enter a valid value"),
        ({"head-default_locale": "fr"}, "sms has no words in the default locale fr"),
        ({"texts-0-title": "x"}, "an SMS has no title"),
        ({"texts-0-locale": "xx_1"}, "BCP 47"),
        ({"version-variables": '{"loop": {"type": "string"}}'}, "word of the template language"),
    ],
)
def test_fault_stands_beside_its_field_and_nothing_is_made(browser, changes, words):
    answer = browser.post(ADD, form([SMS], _save="1", **changes))
    assert answer.status_code == 200
    assert words in answer.content.decode()
    assert not Template.objects.exists()


def test_there_is_room_for_more_words(browser):
    answer = browser.post(ADD, form([SMS, EMAIL], _more="1"))
    page = answer.content.decode()
    assert 'name="texts-3-body"' in page
    assert "Hello {{ name }}," in page
    assert "errorlist" not in page
    assert not Template.objects.exists()


def test_preview_names_a_wrong_context(browser):
    answer = browser.post(ADD, form([SMS], _preview="1", **{"version-context": '{"name": 5}'}))
    assert "/context/name: this must be a text" in answer.content.decode()


def test_all_words_may_not_be_left_out(browser):
    answer = browser.post(ADD, form([], _save="1"))
    assert answer.status_code == 200
    assert not Template.objects.exists()


def test_who_may_only_look_changes_nothing():
    template = make_template(None)
    viewer = User.objects.create_user("viewer", password="a long password", is_staff=True)
    viewer.user_permissions.add(Permission.objects.get(codename="view_template"))
    browser = Browser()
    browser.force_login(viewer)
    assert browser.get(page_of(template)).status_code == 200
    assert b"_save" not in browser.get(page_of(template)).content
    assert browser.get("/admin/delivery/template/").status_code == 200
    assert browser.post(page_of(template), {"_activate": "1"}).status_code == 403
    assert browser.get(ADD).status_code == 403
    viewer.user_permissions.clear()
    browser.force_login(User.objects.get(pk=viewer.pk))
    assert browser.get(page_of(template)).status_code == 403


def test_template_cannot_be_deleted(browser):
    template = make_template(None)
    assert browser.post(f"/admin/delivery/template/{template.pk}/delete/", {"post": "yes"}).status_code == 403

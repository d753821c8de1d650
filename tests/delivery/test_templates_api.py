"""Templates over HTTP: made, versioned, previewed, rolled back; every fault named by a pointer."""

import copy
from typing import Any

import pytest
from rest_framework.test import APIClient

from apps.delivery.templating.models import Template
from tests.clients.factories import make_api_key, make_client
from tests.delivery.template_bodies import VERSION, make_template

pytestmark = pytest.mark.django_db
URL = "/v1/templates"


def body(**changes: Any) -> dict[str, Any]:
    return {"name": "order", **copy.deepcopy(VERSION), **changes}


def post(api: APIClient, path: str, data: Any) -> Any:
    return api.post(path, data, format="json")


def pointers(answer: Any) -> list[str]:
    assert answer.status_code == 422, answer.content
    assert answer["Content-Type"] == "application/problem+json"
    return [error["pointer"] for error in answer.json()["errors"]]


def test_first_version_is_active_at_once(api):
    answer = post(api, URL, body())
    assert answer.status_code == 201
    made = answer.json()
    assert (made["template"], made["version"], made["active"]) == ("order", 1, True)
    assert made["variables"] == VERSION["variables"]
    assert [(text["channel"], text["locale"]) for text in made["texts"]] == [
        ("push", "de"),
        ("push", "en"),
        ("sms", "de"),
        ("sms", "en"),
        ("email", "en"),
    ]


def test_versions_are_numbered_and_activated(api):
    post(api, URL, body())
    second = post(api, f"{URL}/order/versions", VERSION).json()
    assert (second["version"], second["active"]) == (2, False)
    third = post(api, f"{URL}/order/versions", {**VERSION, "activate": True}).json()
    assert (third["version"], third["active"]) == (3, True)
    answer = api.put(f"{URL}/order/active", {"version": 1}, format="json")
    assert (answer.status_code, answer.json()["active_version"], answer.json()["latest_version"]) == (200, 1, 3)
    assert api.put(f"{URL}/order/active", {"version": None}, format="json").json()["active_version"] is None
    assert pointers(api.put(f"{URL}/order/active", {"version": 9}, format="json")) == ["/version"]
    detail = api.get(f"{URL}/order").json()
    assert [row["version"] for row in detail["versions"]] == [3, 2, 1]
    assert detail["version"]["version"] == 3
    assert api.get(f"{URL}/order?version=2").json()["version"]["version"] == 2
    assert api.get(f"{URL}/order?version=7").status_code == 404
    assert pointers(api.get(f"{URL}/order?version=x")) == ["/version"]


def test_name_is_taken_once(api):
    assert post(api, URL, body()).status_code == 201
    answer = post(api, URL, body())
    assert (answer.status_code, answer.json()["type"]) == (409, "/problems/template-exists")
    assert Template.objects.count() == 1


def test_list_has_own_and_shared_but_nobody_elses(api, client_row):
    make_template(make_client(), "theirs")
    make_template(None, "shared")
    make_template(None, "mine")
    for name in ("mine", "other"):
        make_template(client_row, name)
    first = api.get(f"{URL}?limit=2").json()
    assert [(row["name"], row["shared"]) for row in first["results"]] == [("mine", False), ("other", False)]
    second = api.get(f"{URL}?limit=2&cursor={first['next']}").json()
    assert [(row["name"], row["shared"]) for row in second["results"]] == [("shared", True)]
    assert second["next"] is None
    assert second["results"][0]["latest_version"] == 1


def test_anothers_template_is_not_there_and_a_shared_one_is_not_changed(api):
    make_template(make_client(), "theirs")
    make_template(None, "shared")
    assert api.get(f"{URL}/theirs").status_code == 404
    assert post(api, f"{URL}/theirs/preview", {}).status_code == 404
    assert post(api, f"{URL}/theirs/versions", VERSION).status_code == 404
    assert api.get(f"{URL}/shared").status_code == 200
    assert post(api, f"{URL}/shared/versions", VERSION).status_code == 403
    assert api.put(f"{URL}/shared/active", {"version": None}, format="json").status_code == 403


@pytest.mark.parametrize("method", ["get", "post"])
def test_scopes(method):
    client = make_client(scopes=["templates:read" if method == "post" else "templates:write"])
    api = APIClient(headers={"Authorization": f"Api-Key {make_api_key(client)}"})
    answer = post(api, URL, body()) if method == "post" else api.get(URL)
    assert (answer.status_code, answer.json()["type"]) == (403, "/problems/insufficient-scope")


def text(**changes: Any) -> dict[str, Any]:
    return {"channel": "email", "locale": "en", "title": "t", "body": "b", **changes}


FAULTS: list[tuple[dict[str, Any], list[str]]] = [
    ({"name": "Order"}, ["/name"]),
    ({"name": "order@2"}, ["/name"]),
    ({"default_locale": "english"}, ["/default_locale"]),
    ({"default_locale": "fr"}, ["/texts", "/texts", "/texts"]),
    ({"texts": []}, ["/texts"]),
    ({"colour": "red"}, ["/colour"]),
    ({"variables": {"_x": {"type": "string"}}}, ["/variables/_x"]),
    ({"variables": []}, ["/variables"]),
    ({"variables": {"x": "string"}}, ["/variables/x"]),
    ({"variables": {"x": {"type": "string", "max": 5}}}, ["/variables/x/max"]),
    ({"variables": {"x": {"type": "text"}}}, ["/variables/x/type"]),
    ({"variables": {"loop": {"type": "string"}}, "texts": [text()]}, ["/variables/loop"]),
    ({"variables": {"x": {"type": "url", "default": "x"}}, "texts": [text()]}, ["/variables/x/default"]),
    ({"texts": [text(channel="fax")]}, ["/texts/0/channel"]),
    ({"texts": [text(locale="xx_YY")]}, ["/texts/0/locale"]),
    ({"texts": [text(body="")]}, ["/texts/0/body"]),
    ({"texts": [text(body=" ")]}, ["/texts/0/body"]),
    ({"texts": [text(), text(locale="EN")]}, ["/texts/1"]),
    ({"texts": [text(channel="sms")]}, ["/texts/0/title"]),
    ({"texts": [text(channel="push", html="<p>x</p>")]}, ["/texts/0/html"]),
    ({"texts": [text(body="{{ nothing }}"), text(locale="de", html="{% if %}")]}, ["/texts/0/body", "/texts/1/html"]),
    ({"texts": [text(title="{{ items | number }}")]}, ["/texts/0/title"]),
    ({"texts": [text(html="<a href='{{ name }}'>x</a>")]}, ["/texts/0/html"]),
    ({"texts": [text(html="<script>{{ name }}</script>")]}, ["/texts/0/html"]),
    ({"texts": [text(channel="sms", title="", body="x" * 1_601)]}, ["/texts/0/body"]),
    ({"texts": [text(channel="push", body="x" * 4_000)]}, ["/texts/0/body"]),
    (
        {
            "variables": {"order": {"type": "object", "example": {"id": 1}}},
            "texts": [text(body="{{ order.number }}")],
        },
        ["/texts/0/body"],
    ),
    (
        {"variables": {"x": {"type": "url", "required": False}}, "texts": [text(html='<a href="{{ x }}">x</a>')]},
        ["/texts/0/html"],
    ),
]


@pytest.mark.parametrize(("changes", "expected"), FAULTS)
def test_fault_is_found_when_a_version_is_made(api, changes, expected):
    assert pointers(post(api, URL, body(**changes))) == expected
    assert not Template.objects.exists()


def test_fault_of_a_text_says_its_line(api):
    answer = post(api, URL, body(texts=[text(body="one\ntwo {{ nothing }}")]))
    assert answer.json()["errors"][0]["detail"].startswith("line 2: nothing is not declared")


def test_list_without_an_example_is_taken_as_it_is_used(api):
    variables = {"lines": {"type": "list"}, "order": {"type": "object"}}
    words = text(body="{% for line in lines %}{{ line.label }} {{ line.price | number(2) }}{% endfor %}{{ order.id }}")
    assert post(api, URL, body(variables=variables, texts=[words])).status_code == 201


def test_preview_fills_in_falls_back_and_measures(api):
    post(api, URL, body())
    context = {"name": "Zoë", "total": 3, "link": "https://example.com/?a&b", "items": [{"label": "Tea"}]}
    answer = post(api, f"{URL}/order/preview", {"context": context, "locale": "de-AT"})
    assert answer.status_code == 200
    found = answer.json()
    assert (found["version"], found["locale"], found["missing_locales"]) == (1, "de-AT", {"email": ["de"]})
    push, sms, email = found["previews"]
    assert (push["title"], push["locale"], push["fallback"]) == ("Danke, Zoë", "de", True)
    assert push["sizes"]["payload"] > push["sizes"]["body"] > 0
    assert (sms["body"], sms["sms"]) == ("Zoë, bezahlt: 3,00 EUR.", {"segments": 1, "encoding": "UCS-2"})
    assert (email["locale"], email["title"]) == ("en", "Order of Zoë")
    assert email["body"] == "Hello Zoë: Tea https://example.com/?a&b"
    assert email["html"] == '<p>Hello Zoë: <a href="https://example.com/?a&amp;b">3.00</a></p>'
    assert not any(preview["problems"] for preview in found["previews"])


def test_preview_without_a_context_shows_samples(api):
    post(api, URL, body())
    (sms,) = post(api, f"{URL}/order/preview", {"channel": "sms", "locale": "de"}).json()["previews"]
    assert (sms["body"], sms["fallback"]) == ("Ann, bezahlt: 0,00 EUR.", False)


def test_preview_of_a_version_that_is_not_active(api):
    post(api, URL, body())
    post(api, f"{URL}/order/versions", {"texts": [text(channel="sms", title="", body="second")]})
    (sms,) = post(api, f"{URL}/order/preview", {"version": 2}).json()["previews"]
    assert sms["body"] == "second"
    assert pointers(post(api, f"{URL}/order/preview", {"version": 3})) == ["/version"]


def test_preview_names_what_is_wrong(api):
    post(api, URL, body())
    wrong = pointers(post(api, f"{URL}/order/preview", {"context": {"name": 1, "x": 2}}))
    assert wrong == ["/context/x", "/context/link", "/context/name"]
    assert pointers(post(api, f"{URL}/order/preview", {"locale": "xx_1"})) == ["/locale"]
    long = {"name": "x", "link": "https://example.com/", "items": [{"x": 1}]}
    previews = post(api, f"{URL}/order/preview", {"context": long}).json()["previews"]
    assert previews[2]["problems"] == ["body: line 1: items.0.label is missing"]


def test_preview_of_an_unsaved_version(api):
    unsaved = {"variables": VERSION["variables"], "texts": VERSION["texts"][:2], "locale": "de"}
    answer = post(api, "/v1/templates:preview", unsaved)
    assert answer.status_code == 200
    assert (answer.json()["version"], answer.json()["previews"][0]["title"]) == (None, "Danke, Ann")
    assert pointers(post(api, "/v1/templates:preview", {"texts": [text(body="{{ x }}")]})) == ["/texts/0/body"]
    assert not Template.objects.exists()

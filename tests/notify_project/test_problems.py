"""Every error is a problem document."""

import ast
from pathlib import Path

import pytest
from django.test import Client

from apps.problems import KINDS

pytestmark = pytest.mark.urls("tests.notify_project.urls")


@pytest.fixture
def quiet_client() -> Client:
    """A client that does not raise what the view raised."""
    return Client(raise_request_exception=False)


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("problem", 409, "in-progress"),
        ("parse", 400, "malformed-json"),
        ("permission", 403, "forbidden"),
        ("django-permission", 403, "forbidden"),
        ("not-found", 404, "not-found"),
        ("django-404", 404, "not-found"),
        ("throttled", 429, "rate-limited"),
        ("too-big", 413, "body-too-large"),
        ("surrogate", 422, "invalid-request"),
        ("crash", 500, "internal-error"),
    ],
)
def test_exception_becomes_a_problem_document(quiet_client: Client, kind: str, status: int, code: str) -> None:
    answer = quiet_client.get(f"/v1/fail/{kind}")
    document = answer.json()
    assert answer.status_code == document["status"] == status
    assert answer["Content-Type"] == "application/problem+json"
    assert document["type"] == f"/problems/{code}"
    assert document["title"]
    assert document["detail"]
    assert document["instance"] == f"/traces/{document['trace_id']}"
    assert "secret" not in answer.content.decode()


def test_app_s_own_problem_keeps_its_errors_and_headers(client: Client) -> None:
    answer = client.get("/v1/fail/problem")
    assert answer["Retry-After"] == "3"
    assert answer.json()["title"] == "In progress"
    assert answer.json()["errors"] == [{"pointer": "/a~1b", "detail": "Wrong.", "code": "odd"}]


def test_problem_carries_the_caller_s_trace(client: Client) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    answer = client.get("/v1/fail/parse", headers={"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"})
    assert answer.json()["trace_id"] == trace_id


def test_throttled_says_when_to_come_again(client: Client) -> None:
    assert client.get("/v1/fail/throttled")["Retry-After"] == "2"


def test_crash_is_logged_with_its_trace_and_raised_to_the_watchers(capsys: pytest.CaptureFixture[str]) -> None:
    answer = Client(raise_request_exception=False).get("/v1/fail/crash")
    log = capsys.readouterr().err
    assert "unhandled_exception" in log
    assert answer.json()["trace_id"] in log
    with pytest.raises(RuntimeError):
        Client().get("/v1/fail/crash")


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({}, {"/user_id": "required", "/content": "required", "/channels": "required"}),
        (
            {"user_id": ["x"], "content": {"title": "toolong"}, "channels": ["push", "fax"]},
            {
                "/user_id": "invalid",
                "/content/title": "max_length",
                "/content/body": "required",
                "/channels/1": "invalid_choice",
            },
        ),
        ({"user_id": "u", "content": 7, "channels": "push"}, {"/content": "invalid", "/channels": "not_a_list"}),
        ({"user_id": "both", "content": {"title": "t", "body": "b"}, "channels": []}, {"": "conflict"}),
        (
            {
                "user_id": "u",
                "content": {"title": "t", "body": "b"},
                "channels": [],
                "rules": [{"title": "t", "body": "b"}, {"title": "t"}],
            },
            {"/rules/1/body": "required"},
        ),
    ],
)
def test_wrong_fields_are_pointed_at(client: Client, body: object, errors: dict[str, str]) -> None:
    answer = client.post("/v1/validated", body, content_type="application/json")
    assert answer.status_code == 422
    assert answer.json()["type"] == "/problems/invalid-request"
    assert {error["pointer"]: error["code"] for error in answer.json()["errors"]} == errors


def test_method_not_allowed_names_those_that_are(client: Client) -> None:
    answer = client.delete("/v1/echo")
    assert answer.status_code == 405
    assert answer.json()["type"] == "/problems/method-not-allowed"
    assert "GET" in answer["Allow"]


def test_other_media_type_is_415(client: Client) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = client.post("/v1/echo", "a=b", content_type=content_type)
        assert answer.status_code == 415
        assert answer.json()["type"] == "/problems/unsupported-media-type"


def test_answer_that_cannot_be_given_is_406(client: Client) -> None:
    answer = client.get("/v1/echo", headers={"Accept": "text/html"})
    assert answer.status_code == 406
    assert answer.json()["type"] == "/problems/not-acceptable"


def test_client_that_accepts_problems_only_gets_one(client: Client) -> None:
    answer = client.get("/v1/fail/not-found", headers={"Accept": "application/problem+json"})
    assert answer["Content-Type"] == "application/problem+json"


def test_unknown_address_is_a_problem_below_v1(client: Client) -> None:
    for path in ("/v1/nothing", "/nothing"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert answer.json()["type"] == "/problems/not-found"


def test_unknown_address_in_admin_is_a_page(client: Client) -> None:
    answer = client.get("/admin/nothing")
    assert answer.status_code == 404
    assert answer["Content-Type"].startswith("text/html")


def test_host_that_is_not_ours_is_a_problem(client: Client, settings) -> None:
    settings.ALLOWED_HOSTS = ["example.com"]
    answer = client.get("/v1/echo")
    assert answer.status_code == 400
    assert answer.json()["type"] == "/problems/bad-request"


def test_crash_outside_the_api_s_views_is_a_problem(quiet_client: Client) -> None:
    answer = quiet_client.get("/v1/plain-crash")
    assert answer.status_code == 500
    assert answer.json()["type"] == "/problems/internal-error"
    assert b"secret" not in answer.content


def test_crash_in_admin_is_a_page(quiet_client: Client) -> None:
    assert quiet_client.get("/admin/crash")["Content-Type"].startswith("text/html")


def test_debug_shows_no_caller_a_traceback(quiet_client: Client, settings) -> None:
    settings.DEBUG = True
    answer = quiet_client.get("/v1/fail/crash")
    assert answer["Content-Type"] == "application/problem+json"
    assert b"secret" not in answer.content


def test_every_kind_raised_anywhere_is_documented_with_its_status() -> None:
    raised = set()
    for folder in ("apps", "notify_project"):
        for path in Path(folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Problem":
                    status, code = node.args[:2]
                    if isinstance(status, ast.Constant) and isinstance(code, ast.Constant):
                        raised.add((code.value, status.value))
    assert len(raised) > 10
    assert raised <= {(code, status) for code, (status, _) in KINDS.items()}

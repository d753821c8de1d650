"""The OpenAPI document is valid, complete and what the docs page shows."""

from typing import Any

import pytest
import yaml
from django.core.management import call_command
from django.test import Client

from apps.clients.scopes import ALL_SCOPES
from apps.problems import KINDS

METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    answer = Client().get("/v1/schema")
    assert answer.status_code == 200
    return yaml.safe_load(answer.content)


def operations(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method.upper()} {path}", operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    ]


def test_document_is_valid_and_made_without_a_warning() -> None:
    call_command("spectacular", "--validate", "--fail-on-warn", "--file", "/dev/null")


def test_every_call_is_in_it(document: dict[str, Any]) -> None:
    assert {
        "/v1/notifications",
        "/v1/notifications/{notification_id}",
        "/v1/users/{user_id}",
        "/v1/users/{user_id}/preferences",
        "/v1/users/{user_id}/devices",
    } <= set(document["paths"])


def test_every_operation_documents_its_problems(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        responses = operation["responses"]
        assert {"400", "500", "503"} <= set(responses), name
        if operation.get("security"):
            assert {"401", "403", "429"} <= set(responses), name
        if "requestBody" in operation:
            assert {"408", "413", "415", "422"} <= set(responses), name
    problem = document["components"]["responses"]["InvalidRequest"]["content"]
    assert problem == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}


def test_webhooks_document_that_a_forged_receipt_is_refused(document: dict[str, Any]) -> None:
    response = document["paths"]["/v1/webhooks/{provider}"]["post"]["responses"]["403"]
    assert "signature" in response["description"]
    assert response["content"] == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}


def test_every_operation_with_a_credential_names_its_scope(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        if operation.get("security"):
            assert any(f"Scope: `{scope}`" in operation["description"] for scope in ALL_SCOPES), name


def test_either_credential_will_do(document: dict[str, Any]) -> None:
    operation = document["paths"]["/v1/notifications"]["post"]
    assert operation["security"] == [{"ApiKey": []}, {"Bearer": []}]
    assert set(document["components"]["securitySchemes"]) == {"ApiKey", "Bearer"}


def test_every_kind_of_problem_is_described(document: dict[str, Any]) -> None:
    for code in KINDS:
        assert f"`/problems/{code}`" in document["info"]["description"]


def test_docs_page_needs_nothing_from_elsewhere(client: Client) -> None:
    page = client.get("/docs").content.decode()
    assert "/v1/schema" in page
    assert "//cdn" not in page
    assert "https://" not in page.replace("https://www.w3.org", "")


def test_root_and_problem_types_lead_to_the_docs(client: Client) -> None:
    for path in ("/", "/problems/invalid-request"):
        answer = client.get(path)
        assert (answer.status_code, answer["Location"]) == (302, "/docs")

"""Requests made up from the OpenAPI document, right and wrong ones: none may make the server fail."""

from typing import Any
from urllib.parse import quote, urlencode

import orjson
import pytest
import schemathesis
from drf_spectacular.generators import SchemaGenerator
from hypothesis import HealthCheck, given, settings
from rest_framework.test import APIClient
from schemathesis import GenerationMode

from tests.clients.factories import make_api_key, make_client
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db

PATHS = (
    ("PUT", "/v1/users:bulk"),
    ("GET", "/v1/users/{user_id}/export"),
    ("GET", "/v1/suppressions"),
    ("POST", "/v1/suppressions"),
    ("POST", "/v1/suppressions:search"),
    ("POST", "/v1/suppressions:lift"),
    ("GET", "/v1/suppressions/{suppression_id}"),
    ("DELETE", "/v1/suppressions/{suppression_id}"),
)


@pytest.fixture(scope="module")
def schema() -> Any:
    return schemathesis.openapi.from_dict(SchemaGenerator().get_schema(request=None, public=True))


def send(api: APIClient, case: Any) -> Any:
    path = case.path
    for name, value in (case.path_parameters or {}).items():
        path = path.replace(f"{{{name}}}", quote(str(value), safe=""))
    if case.query:
        path = f"{path}?{urlencode(case.query, doseq=True, errors='replace')}"
    try:
        body = orjson.dumps(case.body) if case.body is not None else b""
    except TypeError:  # what JSON cannot say, or is not there
        body = b"" if repr(case.body) == "<NOT_SET>" else repr(case.body).encode(errors="replace")
    return api.generic(case.method, path, body, content_type="application/json")


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), PATHS)
def test_no_request_makes_the_server_fail(schema: Any, method: str, path: str, mode: GenerationMode) -> None:
    RecipientFactory(user_id="user-1")
    api = APIClient()
    api.credentials(HTTP_AUTHORIZATION=f"Api-Key {make_api_key(make_client())}")
    cases = schema[path][method].as_strategy(generation_mode=mode)

    @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=cases)
    def check(case: Any) -> None:
        response = send(api, case)
        assert response.status_code < 500, response.content
        if response.status_code >= 400:
            assert response["Content-Type"] == "application/problem+json"

    check()

"""Template calls made up from the OpenAPI document, right and wrong ones: none may make the server fail."""

from typing import Any

import pytest
import schemathesis
from drf_spectacular.generators import SchemaGenerator
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from tests.delivery.template_bodies import make_template
from tests.preferences.test_api_fuzz import send

pytestmark = pytest.mark.django_db

PATHS = (
    ("GET", "/v1/templates"),
    ("POST", "/v1/templates"),
    ("POST", "/v1/templates:preview"),
    ("GET", "/v1/templates/{name}"),
    ("POST", "/v1/templates/{name}/versions"),
    ("PUT", "/v1/templates/{name}/active"),
    ("POST", "/v1/templates/{name}/preview"),
)


@pytest.fixture(scope="module")
def schema() -> Any:
    return schemathesis.openapi.from_dict(SchemaGenerator().get_schema(request=None, public=True))


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(("method", "path"), PATHS)
def test_no_request_makes_the_server_fail(
    schema: Any, api: Any, client_row: Any, method: str, path: str, mode: GenerationMode
) -> None:
    make_template(client_row)
    cases = schema[path][method].as_strategy(generation_mode=mode)

    @settings(max_examples=30, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=cases)
    def check(case: Any) -> None:
        if "name" in (case.path_parameters or {}):
            case.path_parameters["name"] = "order"
        response = send(api, case)
        assert response.status_code < 500, response.content
        if response.status_code >= 400:
            assert response.headers["Content-Type"] == "application/problem+json"

    check()

"""The OpenAPI document: what every operation has in common, credentials, problems and rate limits."""

from collections.abc import Mapping
from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ComponentRegistry, ResolvedComponent

from apps.problems import KINDS
from notify_project.problems import CONTENT_TYPE

DESCRIPTION = """
Send push, SMS and e-mail notifications, fast, at least once, and only where the person allows it.

### Credentials
An API key goes into `Authorization: Api-Key <key>`, `X-API-Key: <key>` or `Authorization: Bearer <key>`; a JWT
into `Authorization: Bearer <jwt>`. A JWT is signed with a key registered for the client (`RS256`, `ES256`, `EdDSA` or
`HS256`), names it (`kid`, or `iss` for a JWKS file), and carries `aud` and `exp`. A `scope` claim narrows the client's
scopes. Each operation names the scope it needs.

### Errors
Every error is a problem document (`application/problem+json`, RFC 9457). `type` tells the kinds apart, `detail` says
what is wrong, `errors` point at the wrong fields (JSON pointers into the body), `trace_id` finds the request in
the logs.

| type | status | meaning |
|---|---|---|
{problems}

### Rate limits
A client has a token bucket. `RateLimit-Policy: "standard";q=200;w=2` says how many requests fit into it and in how many
seconds an empty one fills; `RateLimit: "standard";r=199;t=1` how many are left and when it is full again. Beyond it the
answer is 429 with `Retry-After`.
"""

_RESPONSES: Mapping[str, tuple[str, str]] = {
    "400": ("BadRequest", "The request is malformed, or a required header is missing or wrong."),
    "401": ("Unauthenticated", "No valid credential was given."),
    "403": ("Forbidden", "The client lacks the scope."),
    "404": ("NotFound", "There is no such thing, or it belongs to another client."),
    "408": ("BodyTooSlow", "The body took too long to arrive."),
    "409": ("Conflict", "The request conflicts with one in progress or with the state of the thing."),
    "413": ("BodyTooLarge", "The body is too large."),
    "415": ("UnsupportedMediaType", "The body is not JSON."),
    "422": ("InvalidRequest", "Fields of the request are wrong; `errors` point at them."),
    "429": ("RateLimited", "The client's rate limit is reached."),
    "500": ("InternalError", "Something went wrong on our side."),
    "503": ("Unavailable", "A part of the platform is away; try again."),
}
_PROBLEM_SCHEMA = {
    "type": "object",
    "description": "RFC 9457 problem document.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference", "example": "/problems/invalid-request"},
        "title": {"type": "string", "example": KINDS["invalid-request"][1]},
        "status": {"type": "integer", "example": 422},
        "detail": {"type": "string", "description": "What is wrong and how to mend it."},
        "instance": {"type": "string", "format": "uri-reference"},
        "trace_id": {"type": "string", "description": "Finds the request in the logs."},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "detail", "code"],
                "properties": {
                    "pointer": {
                        "type": "string",
                        "description": "JSON pointer (RFC 6901) into the body, or / and a parameter's name.",
                        "example": "/content/title",
                    },
                    "detail": {"type": "string"},
                    "code": {"type": "string", "example": "required"},
                },
            },
        },
    },
}
_RETRY_AFTER = {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 1}}
_RATE_LIMIT_HEADERS = {
    "RateLimit-Policy": {"description": "The client's policy.", "schema": {"type": "string"}},
    "RateLimit": {"description": "What is left of it.", "schema": {"type": "string"}},
}


class ProblemAutoSchema(AutoSchema):
    """Adds to each operation the problems it can answer with and the scope it needs."""

    def get_operation(
        self, path: str, path_regex: str, path_prefix: str, method: str, registry: ComponentRegistry
    ) -> Any:
        """The operation object; problems a view describes itself stay as they are."""
        operation = super().get_operation(path, path_regex, path_prefix, method, registry)
        if operation is None:
            return None
        scope = (getattr(self.view, "required_scopes", None) or {}).get(self.method)
        if scope:
            operation["description"] = f"{operation.get('description', '')}\n\nScope: `{scope}`".strip()
        for status in self._problem_statuses(path, operation):
            operation["responses"].setdefault(status, _register_problem(registry, status).ref)
        problem = {CONTENT_TYPE: {"schema": _problem_schema(registry).ref}}
        for status, response in operation["responses"].items():
            if status >= "400" and "$ref" not in response:
                response.setdefault("content", problem)
        return operation

    def get_tags(self) -> list[str]:
        """The views' tags, spelt alike."""
        return [tag.capitalize() for tag in super().get_tags()]

    def _problem_statuses(self, path: str, operation: Mapping[str, Any]) -> list[str]:
        statuses = ["400", "500", "503"]
        if self.view.get_authenticators():
            statuses += ["401", "403", "429"]
        if "{" in path:
            statuses.append("404")
        if "requestBody" in operation:
            statuses += ["408", "413", "415", "422"]
        elif operation.get("parameters"):
            statuses.append("422")
        if self.method != "GET":
            statuses.append("409")
        return sorted(statuses)


def _problem_schema(registry: ComponentRegistry) -> ResolvedComponent:
    problem = ResolvedComponent("Problem", ResolvedComponent.SCHEMA, _PROBLEM_SCHEMA, object="Problem")  # type: ignore[no-untyped-call]
    registry.register_on_missing(problem)
    return problem


def _register_problem(registry: ComponentRegistry, status: str) -> ResolvedComponent:
    problem = _problem_schema(registry)
    name, description = _RESPONSES[status]
    response: dict[str, Any] = {"description": description, "content": {CONTENT_TYPE: {"schema": problem.ref}}}
    headers: dict[str, Any] = dict(_RATE_LIMIT_HEADERS) if status == "429" else {}
    if status in ("429", "503"):
        headers["Retry-After"] = _RETRY_AFTER
    if headers:
        response["headers"] = headers
    component = ResolvedComponent(name, ResolvedComponent.RESPONSE, response, object=name)  # type: ignore[no-untyped-call]
    registry.register_on_missing(component)
    return component


def describe_api(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """drf-spectacular's post-processing hook: the document's introduction."""
    problems = "\n".join(f"| `/problems/{code}` | {status} | {title} |" for code, (status, title) in KINDS.items())
    result["info"]["description"] = DESCRIPTION.format(problems=problems).strip()
    return result


class ClientCredentials(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """How to authenticate, for the document: an API key or a bearer credential, either will do."""

    target_class = "apps.clients.authentication.ClientAuthentication"
    name = ["ApiKey", "Bearer"]

    def get_security_definition(self, auto_schema: Any) -> list[dict[str, Any]]:
        """The two security schemes."""
        return [
            {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "`prefix.secret`"},
            {"type": "http", "scheme": "bearer", "description": "A JWT, or an API key."},
        ]

    def get_security_requirement(self, auto_schema: Any) -> list[dict[str, list[str]]]:
        """Alternatives, each enough by itself."""
        return [{name: []} for name in self.name]

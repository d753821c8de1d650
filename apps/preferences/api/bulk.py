"""``PUT /v1/users:bulk``."""

from typing import Any, ClassVar

from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.channels import CHANNEL_LABELS
from apps.preferences import bulk, entries, profile
from apps.preferences.bulk_rows import Outcome
from apps.preferences.devices import MAX_ACTIVE_DEVICES
from apps.problems import invalid_field

WRITE = "preferences:write"

_WISHES = {
    "type": "object",
    "additionalProperties": False,
    "properties": {label: {"type": ["boolean", "null"]} for label in CHANNEL_LABELS},
}
_ITEM = {
    "type": "object",
    "required": ["user_id"],
    "additionalProperties": False,
    "properties": {
        "user_id": {"type": "string", "minLength": 1, "maxLength": profile.USER_ID_MAX_LENGTH},
        "email": {"type": ["string", "null"], "maxLength": 320},
        "phone": {"type": ["string", "null"], "maxLength": 40, "description": "E.164."},
        "locale": {"type": "string", "maxLength": profile.LOCALE_MAX_LENGTH},
        "time_zone": {"type": "string", "maxLength": profile.TIME_ZONE_MAX_LENGTH},
        "attributes": {"type": "object", "additionalProperties": True},
        "preferences": {
            "type": "object",
            "description": "As in `PUT /v1/users/{user_id}/preferences`: what is left out stays.",
            "properties": {
                "opted_out": {"type": "boolean"},
                "time_zone": {"type": "string", "maxLength": profile.TIME_ZONE_MAX_LENGTH},
                "channels": _WISHES,
                "categories": {"type": "object", "additionalProperties": _WISHES},
                "quiet_hours": {
                    "type": ["array", "null"],
                    "items": {
                        "type": "object",
                        "required": ["start", "end"],
                        "additionalProperties": False,
                        "properties": {
                            "days": {"type": "array", "items": {"type": "string"}},
                            "start": {"type": "string"},
                            "end": {"type": "string"},
                        },
                    },
                },
            },
        },
        "devices": {
            "type": "array",
            "maxItems": MAX_ACTIVE_DEVICES,
            "description": "Registered in addition to those there are.",
            "items": {
                "type": "object",
                "required": ["token", "platform"],
                "additionalProperties": False,
                "properties": {
                    "token": {"type": "string"},
                    "platform": {"type": "string", "enum": list(entries.PLATFORMS)},
                    "app_id": {"type": "string", "maxLength": profile.APP_ID_MAX_LENGTH},
                },
            },
        },
    },
}
_BODY = {
    "type": "object",
    "required": ["users"],
    "additionalProperties": False,
    "properties": {"users": {"type": "array", "minItems": 1, "maxItems": bulk.MAX_RECIPIENTS, "items": _ITEM}},
}
_EXAMPLE = OpenApiExample(
    "Two recipients",
    {
        "users": [
            {"user_id": "user-1", "email": "ann@example.com", "time_zone": "Europe/Berlin"},
            {"user_id": "user-2", "phone": "+15005550006", "preferences": {"channels": {"sms": False}}},
        ]
    },
    request_only=True,
)


_ANSWER = {
    "type": "object",
    "required": ["stored", "refused", "results"],
    "properties": {
        "stored": {"type": "integer", "description": "How many items were stored, or were so already."},
        "refused": {"type": "integer"},
        "results": {
            "type": "array",
            "description": "One for each item, in the order of the request.",
            "items": {
                "type": "object",
                "required": ["user_id", "status", "outcome", "errors"],
                "properties": {
                    "user_id": {"type": ["string", "null"], "description": "Null if the item names no possible id."},
                    "status": {"type": "integer", "enum": [200, 201, 422]},
                    "outcome": {"type": "string", "enum": ["created", "updated", "unchanged", "refused"]},
                    "errors": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["pointer", "detail", "code"],
                            "properties": {
                                "pointer": {"type": "string", "description": "JSON pointer into the request's body."},
                                "detail": {"type": "string"},
                                "code": {"type": "string"},
                            },
                        },
                    },
                },
            },
        },
    },
}


class BulkView(APIView):
    """Up to a thousand recipients at once."""

    required_scopes: ClassVar[dict[str, str]] = {"PUT": WRITE}

    @property
    def throttle_cost(self) -> int:
        """As much as the single calls would cost."""
        data = self.request.data
        users = data.get("users") if isinstance(data, dict) else None
        return max(1, min(len(users), bulk.MAX_RECIPIENTS)) if isinstance(users, list) else 1

    @extend_schema(
        operation_id="users_bulk_put",
        tags=["Recipients"],
        summary="Create or replace up to 1,000 recipients",
        description="Each item does what `PUT /v1/users/{user_id}` does: a field of the profile that is left out is "
        "removed. `preferences` and `devices` may come along and only add to what is there. A wrong item is refused "
        "and does not stop the others: look at `results`. "
        f"All items together may name {bulk.MAX_DEVICES:,} devices. The same call again changes nothing, so after a "
        "failure send it again. The rate limit counts every item.",
        request={"application/json": _BODY},
        responses={
            200: OpenApiResponse(_ANSWER, description="All items were stored."),
            207: OpenApiResponse(_ANSWER, description="At least one item was refused; see its errors."),
        },
        examples=[_EXAMPLE],
    )
    def put(self, request: Request) -> Response:
        results = bulk.upsert_recipients(_users_of(request.data))
        refused = sum(result.outcome is None for result in results)
        body = {
            "stored": len(results) - refused,
            "refused": refused,
            "results": [_present(place, result) for place, result in enumerate(results)],
        }
        return Response(body, status=207 if refused else 200)


def _users_of(data: Any) -> list[Any]:
    for name in data:
        if name != "users":
            raise invalid_field(f"/{_escape(name)}", "There is no such field; known is users.", "unknown")
    users = data.get("users")
    if not isinstance(users, list) or not users:
        raise invalid_field("/users", 'Enter a list of recipients: {"users": [{"user_id": "user-1"}]}.')
    if len(users) > bulk.MAX_RECIPIENTS:
        detail = f"Enter at most {bulk.MAX_RECIPIENTS:,} recipients; these are {len(users):,}."
        raise invalid_field("/users", detail, "max_length")
    devices = sum(len(item["devices"]) for item in users if isinstance(item, dict) and _has_devices(item))
    if devices > bulk.MAX_DEVICES:
        detail = f"Enter at most {bulk.MAX_DEVICES:,} devices in one call; these are {devices:,}."
        raise invalid_field("/users", detail, "max_length")
    return users


def _has_devices(item: dict[str, Any]) -> bool:
    return isinstance(item.get("devices"), list)


def _escape(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _present(place: int, result: bulk.ItemResult) -> dict[str, Any]:
    if result.outcome is None:
        errors = [
            {"pointer": _pointer(place, fault.field), "detail": fault.detail, "code": fault.code}
            for fault in result.faults
        ]
        return {"user_id": result.user_id, "status": 422, "outcome": "refused", "errors": errors}
    status = 201 if result.outcome is Outcome.CREATED else 200
    return {"user_id": result.user_id, "status": status, "outcome": result.outcome.value, "errors": []}


def _pointer(place: int, field: str) -> str:
    return f"/users/{place}/{field}" if field else f"/users/{place}"

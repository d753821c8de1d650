"""``GET /v1/users/{user_id}/export``."""

from datetime import UTC, datetime
from typing import ClassVar

import msgspec
import structlog
from django.http import HttpResponse
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.request import Request

from apps.preferences.api.views import USER_ID, RecipientView
from apps.preferences.exports import BUILT_IN, export_person
from apps.preferences.locks import UnknownRecipient

EXPORT = "preferences:export"
_ANSWER = {
    "type": "object",
    "required": list(BUILT_IN),
    "properties": {
        "exported_at": {"type": "string", "format": "date-time"},
        "profile": {"type": "object", "additionalProperties": True},
        "preferences": {"type": "object", "additionalProperties": True},
        "devices": {"type": "array", "items": {"type": "object", "additionalProperties": True}},
        "subscription_choices": {"type": "array", "items": {"type": "object", "additionalProperties": True}},
        "suppressions": {"type": "array", "items": {"type": "object", "additionalProperties": True}},
    },
    "additionalProperties": True,
}

log = structlog.get_logger("notify.preferences.exports")


class UserExportView(RecipientView):
    """What a person may ask for: all that is held about them."""

    required_scopes: ClassVar[dict[str, str]] = {"GET": EXPORT}

    @extend_schema(
        operation_id="users_export",
        tags=["Recipients"],
        summary="Export all that is held about a recipient, in clear",
        description="Contact points and device tokens included, hence a scope of its own. Every call is logged. "
        "The form is for people: to move recipients use `manage.py export_recipients`.",
        parameters=[USER_ID],
        responses={200: OpenApiResponse(_ANSWER)},
    )
    def get(self, request: Request, user_id: str) -> HttpResponse:
        export = export_person(user_id, now=datetime.now(UTC))
        if export is None:
            raise UnknownRecipient
        log.info("person_exported", user_id=user_id, client=str(request.user))
        return HttpResponse(msgspec.json.encode(export), content_type="application/json")

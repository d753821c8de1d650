"""HTTP in, HTTP out; the work is in ``intake``, ``selectors`` and ``receipts``."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID

import msgspec
from django.conf import settings
from django.http import HttpResponse
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.channels import CHANNEL_LABELS
from apps.clients.models import Client
from apps.delivery import intake
from apps.delivery.answers import (
    AcceptedNotification,
    Cancellation,
    NotificationDetail,
    NotificationPage,
    describe_notification,
)
from apps.delivery.api.idempotency import idempotency_parameter, read_idempotency_key
from apps.delivery.api.paging import read_filter
from apps.delivery.api.placing import to_order
from apps.delivery.api.requests import NotificationBody, decode_body
from apps.delivery.api.schemas import schema_of
from apps.delivery.models import Notification
from apps.delivery.outcomes import cancel_deliveries
from apps.delivery.receipts import take_webhook
from apps.delivery.selectors import (
    overall_status,
    select_attempts,
    select_deliveries,
    select_deliveries_of,
    select_notification,
    select_notification_page,
)
from apps.delivery.statuses import STATUS_LABELS
from apps.problems import Problem
from apps.providers.errors import ForgedReceipt, MalformedReceipt, VerificationUnavailable
from apps.providers.messages import WebhookCall
from apps.trace import adopt_trace, current_trace_id

_EXAMPLE = OpenApiExample(
    "A one-time password",
    request_only=True,
    value={
        "user_id": "demo-1",
        "type": "otp",
        "priority": "high",
        "content": {"title": "Your code", "body": "123456 is your code."},
        "channels": ["sms"],
    },
)


class NotificationsView(APIView):
    """Accept a notification; list one's own."""

    required_scopes = {"POST": "notifications:write", "GET": "notifications:read"}

    @extend_schema(
        operation_id="create_notification",
        summary="Send a notification to a person",
        tags=["notifications"],
        parameters=[idempotency_parameter("notification")],
        request={"application/json": schema_of(NotificationBody)},
        responses={
            202: OpenApiResponse(schema_of(AcceptedNotification), "Accepted: it will not be lost."),
            200: OpenApiResponse(schema_of(AcceptedNotification), "The decision of a dry run; nothing was written."),
        },
        examples=[_EXAMPLE],
    )
    def post(self, request: Request) -> HttpResponse:
        key = read_idempotency_key(request, "notification")
        body = decode_body(request.data, NotificationBody)
        adopt_trace(body.trace_id)
        order = to_order(_client_id(request), key, request.data, body, current_trace_id())
        answer = intake.accept(order, now=datetime.now(UTC))
        response = HttpResponse(answer.body, content_type="application/json", status=200 if body.dry_run else 202)
        if answer.is_replay:
            response["Idempotency-Replayed"] = "true"
        return response

    @extend_schema(
        operation_id="list_notifications",
        summary="List your notifications, newest first",
        tags=["notifications"],
        parameters=[
            OpenApiParameter("user_id", str, description="Only this person's."),
            OpenApiParameter("type", str),
            OpenApiParameter(
                "status",
                {"type": "string", "enum": list(STATUS_LABELS)},
                description="At least one delivery stands there.",
            ),
            OpenApiParameter("channel", {"type": "string", "enum": list(CHANNEL_LABELS)}),
            OpenApiParameter("since", {"type": "string", "format": "date-time"}, description="Accepted at or after."),
            OpenApiParameter("until", {"type": "string", "format": "date-time"}, description="Accepted before."),
            OpenApiParameter("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}),
            OpenApiParameter("cursor", str, description="The `next` of the page before."),
        ],
        responses={200: OpenApiResponse(schema_of(NotificationPage))},
    )
    def get(self, request: Request) -> Response:
        wanted = read_filter(request.query_params)
        notifications = select_notification_page(_client_id(request), wanted)
        page, rest = notifications[: wanted.limit], notifications[wanted.limit :]
        deliveries = select_deliveries_of(page)
        results = [describe_notification(row, deliveries[row.id]) for row in page]
        return Response(msgspec.to_builtins(NotificationPage(results, str(page[-1].id) if rest else None)))


class NotificationView(APIView):
    """One notification with its whole story."""

    required_scopes = {"GET": "notifications:read"}

    @extend_schema(
        operation_id="get_notification",
        summary="See where a notification stands, and why",
        tags=["notifications"],
        responses={200: OpenApiResponse(schema_of(NotificationDetail))},
    )
    def get(self, request: Request, notification_id: UUID) -> Response:
        notification = _own_notification(request, notification_id)
        detail = describe_notification(
            notification, select_deliveries(notification_id), select_attempts(notification_id)
        )
        return Response(msgspec.to_builtins(detail))


class CancelView(APIView):
    """Stop what has not left yet."""

    required_scopes = {"POST": "notifications:write"}

    @extend_schema(
        operation_id="cancel_notification",
        summary="Cancel what has not left yet",
        tags=["notifications"],
        request=None,
        responses={200: OpenApiResponse(schema_of(Cancellation))},
    )
    def post(self, request: Request, notification_id: UUID) -> Response:
        _own_notification(request, notification_id)
        cancelled = cancel_deliveries(notification_id)
        status = overall_status({delivery.status for delivery in select_deliveries(notification_id)})
        return Response(msgspec.to_builtins(Cancellation(notification_id, cancelled, status.label)))  # type: ignore[arg-type]


class AnyForm(BaseContentNegotiation):
    """Whatever form of answer is asked for, the receipt is taken: providers read the status alone."""

    def select_parser(self, request: Request, parsers: Iterable[BaseParser]) -> BaseParser:
        """The first."""
        return next(iter(parsers))

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        """The first."""
        renderer = next(iter(renderers))
        return renderer, renderer.media_type


class WebhookView(APIView):
    """Receipts of the providers. The signature is the authentication; the raw bytes are what is signed."""

    authentication_classes: list[Any] = []
    permission_classes: list[Any] = []
    throttle_classes: list[Any] = []
    content_negotiation_class = AnyForm

    @extend_schema(
        operation_id="take_webhook",
        summary="A provider's receipts (called by the providers)",
        tags=["webhooks"],
        auth=[],
        request={"application/json": {}, "application/x-www-form-urlencoded": {}},
        responses={
            204: OpenApiResponse(description="Stored."),
            403: OpenApiResponse(description="The signature is missing, wrong or stale."),
        },
    )
    def post(self, request: Request, provider: str) -> HttpResponse:
        call = WebhookCall(
            url=f"{settings.PUBLIC_URL}{request.get_full_path()}",
            headers={name.lower(): value for name, value in request.headers.items()},
            body=request._request.body,
        )
        try:
            take_webhook(provider, call, now=datetime.now(UTC))
        except KeyError:
            raise Problem(404, "not-found", "there is no provider of this name") from None
        except ForgedReceipt as error:
            raise Problem(403, "forged-receipt", f"the signature is missing, wrong or stale: {error}") from None
        except VerificationUnavailable as error:
            raise Problem(503, "unavailable", str(error), headers={"Retry-After": "30"}) from None
        except MalformedReceipt as error:
            raise Problem(400, "malformed-receipt", f"the body is not what this provider sends: {error}") from None
        return HttpResponse(status=204)


def _client_id(request: Request) -> int:
    client = cast(Client, request.auth)  # set by ClientAuthentication
    return int(client.pk)


def _own_notification(request: Request, notification_id: UUID) -> Notification:
    notification = select_notification(_client_id(request), notification_id)
    if notification is None:
        raise Problem(404, "not-found", "you have no notification with this id")
    return notification

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

from apps.channels import CHANNEL_LABELS, Channel, Lane
from apps.clients.models import Client
from apps.delivery import intake
from apps.delivery.answers import (
    AcceptedNotification,
    Cancellation,
    NotificationDetail,
    NotificationPage,
    describe_notification,
)
from apps.delivery.api.paging import read_filter
from apps.delivery.api.requests import NotificationBody, decode_body, to_utc
from apps.delivery.api.schemas import schema_of
from apps.delivery.content import Content
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
from apps.problems import Problem, invalid_field
from apps.providers.adapters.fcm import RESERVED_DATA_KEYS, RESERVED_DATA_PREFIXES
from apps.providers.errors import ForgedReceipt, MalformedReceipt, VerificationUnavailable
from apps.providers.messages import WebhookCall
from apps.trace import adopt_trace, current_trace_id

IDEMPOTENCY_HEADER = "X-Idempotency-Key"
IDEMPOTENCY_KEY_MAX = 255
# What FCM reserves, and what is ours.
RESERVED_DATA_NAMES = frozenset({*RESERVED_DATA_KEYS, "collapse_key"})
RESERVED_DATA_STARTS = (*RESERVED_DATA_PREFIXES, "notify_")

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
        parameters=[
            OpenApiParameter(
                IDEMPOTENCY_HEADER,
                {"type": "string", "minLength": 1, "maxLength": IDEMPOTENCY_KEY_MAX, "pattern": "^[\\x21-\\x7e]+$"},
                OpenApiParameter.HEADER,
                required=True,
                description="Yours to choose, unique per notification, e.g. a UUID. Repeating a request with the same "
                "key and body answers what was answered before, and sends nothing twice. Kept for "
                f"{settings.IDEMPOTENCY_RETENTION_DAYS} days.",
            ),
        ],
        request={"application/json": schema_of(NotificationBody)},
        responses={
            202: OpenApiResponse(schema_of(AcceptedNotification), "Accepted: it will not be lost."),
            200: OpenApiResponse(schema_of(AcceptedNotification), "The decision of a dry run; nothing was written."),
        },
        examples=[_EXAMPLE],
    )
    def post(self, request: Request) -> HttpResponse:
        key = _idempotency_key(request)
        body = decode_body(request.data, NotificationBody)
        adopt_trace(body.trace_id)
        answer = intake.accept(_to_order(request, body, key), now=datetime.now(UTC))
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


def _idempotency_key(request: Request) -> str:
    key = request.headers.get(IDEMPOTENCY_HEADER)
    if not key:
        raise Problem(
            400,
            "idempotency-key-missing",
            f"the header {IDEMPOTENCY_HEADER} is required; choose a key of your own per notification, e.g. a UUID",
        )
    if len(key) > IDEMPOTENCY_KEY_MAX or not all("!" <= character <= "~" for character in key):
        raise Problem(
            400,
            "idempotency-key-invalid",
            f"the header {IDEMPOTENCY_HEADER} takes 1 to {IDEMPOTENCY_KEY_MAX} visible ASCII characters",
        )
    return key


def _to_order(request: Request, body: NotificationBody, key: str) -> intake.Order:
    _check_data(body.data, "/data")
    _check_data(body.content.push.data, "/content/push/data")
    return intake.Order(
        client_id=_client_id(request),
        idempotency_key=key,
        fingerprint=intake.fingerprint_of(request.data),
        user_id=body.user_id,
        type=body.type,
        category=body.category,
        lane=Lane.from_label(body.priority),
        content=Content(
            title=body.content.title,
            body=body.content.body,
            html=body.content.html,
            data=body.data,
            collapse_key=body.collapse_key,
            push=body.content.push,
            sms=body.content.sms,
            email=body.content.email,
        ),
        trace_id=current_trace_id(),
        channels=_channels(body),
        send_at=to_utc(body.send_at, "/send_at"),
        expires_at=to_utc(body.expires_at, "/expires_at"),
        is_dry_run=body.dry_run,
    )


def _channels(body: NotificationBody) -> tuple[Channel, ...] | None:
    """The channels asked for, each once; a type named like a channel chooses that one."""
    if body.channels is not None:
        return tuple(dict.fromkeys(Channel.from_label(label) for label in body.channels))
    return (Channel.from_label(body.type),) if body.type in CHANNEL_LABELS else None


def _check_data(data: dict[str, str], pointer: str) -> None:
    # Keys that FCM reserves: https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages (data)
    for name in data:
        if name in RESERVED_DATA_NAMES or name.startswith(RESERVED_DATA_STARTS):
            raise invalid_field(f"{pointer}/{name}", "this name is reserved; choose another")

"""Broadcasts over HTTP: order, look, steer."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import cast
from uuid import UUID

import msgspec
from django.http import HttpResponse
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_view
from rest_framework.request import Request
from rest_framework.views import APIView

from apps.clients.models import Client
from apps.delivery.api.broadcast_answers import (
    STATES,
    BroadcastAnswer,
    BroadcastPage,
    DeliveryPage,
    PreviewAnswer,
    Retried,
    describe_broadcast,
    describe_delivery,
    describe_preview,
    summarise_broadcast,
)
from apps.delivery.api.broadcast_bodies import (
    BroadcastBody,
    PreviewBody,
    RetryBody,
    to_broadcast_order,
    to_channels,
)
from apps.delivery.api.idempotency import idempotency_parameter, read_idempotency_key
from apps.delivery.api.paging import read_page, read_word
from apps.delivery.api.requests import decode_body, to_utc
from apps.delivery.api.schemas import schema_of
from apps.delivery.broadcasts import acceptance, services
from apps.delivery.broadcasts.models import Broadcast
from apps.delivery.broadcasts.reports import DeliveryFilter, select_broadcasts, select_delivery_page
from apps.delivery.broadcasts.selectors import find_broadcast
from apps.delivery.keys import Key
from apps.delivery.orders import fingerprint_of
from apps.delivery.statuses import STATUS_LABELS, Status
from apps.problems import Problem
from apps.trace import adopt_trace, current_trace_id

_EXAMPLE = OpenApiExample(
    "A push to everybody on a paid plan who reads German",
    request_only=True,
    value={
        "name": "Election night",
        "type": "news",
        "channels": ["push"],
        "content": {"title": "Results are in", "body": "Tap to see them."},
        "audience": {"filter": {"all": [{"attribute": "plan", "in": ["pro", "team"]}, {"locale": "de"}]}},
        "canary": {"share": 0.01, "max_error_rate": 0.05},
    },
)
_STATUSES = {status.label: status for status in Status}
_PAGING = [
    OpenApiParameter("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}),
    OpenApiParameter("cursor", str, description="The `next` of the page before."),
]


class BroadcastsView(APIView):
    """Order a broadcast; list one's own."""

    required_scopes = {"POST": "broadcasts:write", "GET": "broadcasts:read"}

    @extend_schema(
        operation_id="create_broadcast",
        summary="Send one content to an audience",
        tags=["broadcasts"],
        parameters=[idempotency_parameter("broadcast")],
        request={"application/json": schema_of(BroadcastBody)},
        responses={
            202: OpenApiResponse(schema_of(BroadcastAnswer), "Accepted: it will not be lost."),
            200: OpenApiResponse(schema_of(PreviewAnswer), "What a dry run would do; nothing was written."),
        },
        examples=[_EXAMPLE],
    )
    def post(self, request: Request) -> HttpResponse:
        key = read_idempotency_key(request, "broadcast")
        body = decode_body(request.data, BroadcastBody)
        adopt_trace(body.trace_id)
        client_id, now = _client_id(request), datetime.now(UTC)
        make_order = partial(to_broadcast_order, client_id, body, current_trace_id())
        if body.dry_run:
            return _json(describe_preview(acceptance.preview(make_order(), now=now)))
        answer = acceptance.accept(
            Key(client_id, key), fingerprint_of(request.data), make_order, now=now, describe=_encode
        )
        response = HttpResponse(answer.body, content_type="application/json", status=202)
        if answer.is_replay:
            response["Idempotency-Replayed"] = "true"
        return response

    @extend_schema(
        operation_id="list_broadcasts",
        summary="List your broadcasts, newest first",
        tags=["broadcasts"],
        parameters=[OpenApiParameter("state", {"type": "string", "enum": list(STATES)}), *_PAGING],
        responses={200: OpenApiResponse(schema_of(BroadcastPage))},
    )
    def get(self, request: Request) -> HttpResponse:
        limit, cursor = read_page(request.query_params, ("state",))
        state = read_word(request.query_params, "state", STATES)
        rows = select_broadcasts(_client_id(request), state=state, before=cursor, limit=limit + 1)
        page, rest = rows[:limit], rows[limit:]
        return _json(BroadcastPage([summarise_broadcast(row) for row in page], str(page[-1].id) if rest else None))


class BroadcastPreviewView(APIView):
    """Count before sending."""

    required_scopes = {"POST": "broadcasts:write"}

    @extend_schema(
        operation_id="preview_broadcast",
        summary="See how many people an audience has, and how many of them can be reached",
        description="Answers within a second: what takes longer to count is estimated, and says so. Frequency caps are "
        "not looked at.",
        tags=["broadcasts"],
        request={"application/json": schema_of(PreviewBody)},
        responses={200: OpenApiResponse(schema_of(PreviewAnswer))},
    )
    def post(self, request: Request) -> HttpResponse:
        body = decode_body(request.data, PreviewBody)
        previews = acceptance.preview_people(
            _client_id(request),
            body.audience,
            to_channels(body.channels),
            body.category,
            now=datetime.now(UTC),
            send_at=to_utc(body.send_at, "/send_at"),
            expires_at=to_utc(body.expires_at, "/expires_at"),
        )
        return _json(describe_preview(previews))


class BroadcastView(APIView):
    """One broadcast with its progress."""

    required_scopes = {"GET": "broadcasts:read"}

    @extend_schema(
        operation_id="get_broadcast",
        summary="See how far a broadcast is",
        tags=["broadcasts"],
        responses={200: OpenApiResponse(schema_of(BroadcastAnswer))},
    )
    def get(self, request: Request, broadcast_id: UUID) -> HttpResponse:
        return _json(describe_broadcast(_own_broadcast(request, broadcast_id)))


class _SteeringView(APIView):
    """Changes the state; asked for twice it changes nothing the second time."""

    required_scopes = {"POST": "broadcasts:write"}
    steer: Callable[..., Broadcast]

    def post(self, request: Request, broadcast_id: UUID) -> HttpResponse:
        return _json(describe_broadcast(type(self).steer(broadcast_id, client_id=_client_id(request))))


def _steering(name: str, summary: str) -> Callable[[type[_SteeringView]], type[_SteeringView]]:
    return extend_schema_view(
        post=extend_schema(
            operation_id=f"{name}_broadcast",
            summary=summary,
            tags=["broadcasts"],
            request=None,
            responses={200: OpenApiResponse(schema_of(BroadcastAnswer))},
        )
    )


@_steering("pause", "Send nothing more until it is resumed")
class PauseView(_SteeringView):
    steer = staticmethod(services.pause)


@_steering("resume", "Go on with what was paused, or halted by its errors")
class ResumeView(_SteeringView):
    steer = staticmethod(services.resume)


@_steering("cancel", "Send nothing more, for good")
class CancelBroadcastView(_SteeringView):
    steer = staticmethod(services.cancel)


class RetryFailedView(APIView):
    """Once more to those whom it did not reach."""

    required_scopes = {"POST": "broadcasts:write"}

    @extend_schema(
        operation_id="retry_failed_of_broadcast",
        summary="Try the failed deliveries of a broadcast again",
        description="Addresses that turned out not to exist are left out.",
        tags=["broadcasts"],
        request={"application/json": schema_of(RetryBody)},
        responses={200: OpenApiResponse(schema_of(Retried))},
    )
    def post(self, request: Request, broadcast_id: UUID) -> HttpResponse:
        body = decode_body(request.data or {}, RetryBody)
        statuses = tuple(_STATUSES[label] for label in body.statuses)
        count = services.retry_failed(broadcast_id, client_id=_client_id(request), statuses=statuses)
        return _json(Retried(broadcast_id, count))


class BroadcastDeliveriesView(APIView):
    """What became of it, person by person."""

    required_scopes = {"GET": "broadcasts:read"}

    @extend_schema(
        operation_id="list_broadcast_deliveries",
        summary="See what became of a broadcast, person by person",
        description="People whose turn has not come yet are not in it.",
        tags=["broadcasts"],
        parameters=[
            OpenApiParameter("status", {"type": "string", "enum": list(STATUS_LABELS)}),
            OpenApiParameter("user_id", str, description="Only this person's."),
            *_PAGING,
        ],
        responses={200: OpenApiResponse(schema_of(DeliveryPage))},
    )
    def get(self, request: Request, broadcast_id: UUID) -> HttpResponse:
        limit, cursor = read_page(request.query_params, ("status", "user_id"))
        wanted = DeliveryFilter(
            status=read_word(request.query_params, "status", _STATUSES),
            user_id=request.query_params.get("user_id"),
            after=cursor,
            limit=limit + 1,
        )
        rows = select_delivery_page(_own_broadcast(request, broadcast_id), wanted)
        page, rest = rows[:limit], rows[limit:]
        results = [describe_delivery(delivery, delivery.recipient.user_id) for delivery in page]
        return _json(DeliveryPage(results, str(page[-1].id) if rest else None))


def _own_broadcast(request: Request, broadcast_id: UUID) -> Broadcast:
    broadcast = find_broadcast(broadcast_id, client_id=_client_id(request))
    if broadcast is None:
        raise Problem(404, "not-found", "you have no broadcast with this id")
    return broadcast


def _client_id(request: Request) -> int:
    return int(cast(Client, request.auth).pk)  # set by ClientAuthentication


def _encode(broadcast: Broadcast) -> bytes:
    return msgspec.json.encode(describe_broadcast(broadcast))


def _json(answer: msgspec.Struct) -> HttpResponse:
    return HttpResponse(msgspec.json.encode(answer), content_type="application/json")

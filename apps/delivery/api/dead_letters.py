"""Dead letters over HTTP: list and replay."""

from dataclasses import replace
from typing import cast

import msgspec
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.channels import CHANNEL_LABELS, Channel
from apps.clients.models import Client
from apps.clients.scopes import Scope
from apps.delivery import dead_letters
from apps.delivery.answers import DeadLetterPage, Replay, describe_dead_letter
from apps.delivery.api.paging import read_dead_letter_page
from apps.delivery.api.requests import DeadLetterFilterBody, ReplayBody, decode_body, to_utc
from apps.delivery.api.schemas import schema_of
from apps.delivery.broadcasts.selectors import select_ids_by_number
from apps.delivery.dead_letters import DeadLetterFilter
from apps.delivery.ids import broadcast_number_of
from apps.delivery.statuses import Reason
from apps.problems import invalid_field
from apps.providers.registry import get_provider

_TIMES = {"type": "string", "format": "date-time"}


class DeadLettersView(APIView):
    """What used up its attempts or could not be processed: a client's own, or everybody's for the scope ops:read."""

    required_scopes = {"GET": "dead-letters:read"}

    @extend_schema(
        operation_id="list_dead_letters",
        summary="List dead deliveries, newest first",
        tags=["dead letters"],
        parameters=[
            OpenApiParameter("provider", str, description="A provider's alias."),
            OpenApiParameter("channel", {"type": "string", "enum": list(CHANNEL_LABELS)}),
            OpenApiParameter("reason", {"type": "string", "enum": ["attempts_used_up", "poison"]}),
            OpenApiParameter("error_code", str, description="The provider's code of the last attempt."),
            OpenApiParameter("since", _TIMES, description="Accepted at or after."),
            OpenApiParameter("until", _TIMES, description="Accepted before."),
            OpenApiParameter("limit", {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}),
            OpenApiParameter("cursor", str, description="The `next` of the page before."),
        ],
        responses={200: OpenApiResponse(schema_of(DeadLetterPage))},
    )
    def get(self, request: Request) -> Response:
        fields, limit, cursor = read_dead_letter_page(request.query_params)
        wanted = _to_filter(request, decode_body(fields, DeadLetterFilterBody), "")
        wanted = replace(wanted, before=cursor)
        rows = dead_letters.select_dead_letters(wanted, limit=limit + 1)
        broadcasts = select_ids_by_number({broadcast_number_of(row.id) for row in rows})
        page = DeadLetterPage(
            [describe_dead_letter(row, broadcasts) for row in rows[:limit]],
            str(rows[limit - 1].id) if len(rows) > limit else None,
        )
        return Response(msgspec.to_builtins(page))


class ReplayView(APIView):
    """Put dead deliveries back into the queue."""

    required_scopes = {"POST": "dead-letters:write"}

    @extend_schema(
        operation_id="replay_dead_letters",
        summary="Replay dead deliveries, one, some or all that match",
        description="What has been delivered, cancelled or replayed meanwhile is left alone. The deliveries are due at "
        "`rate_per_s`, oldest first, and have all their attempts again.",
        tags=["dead letters"],
        request={"application/json": schema_of(ReplayBody)},
        responses={200: OpenApiResponse(schema_of(Replay))},
    )
    def post(self, request: Request) -> Response:
        body = decode_body(request.data, ReplayBody)
        if (body.ids is None) == (body.filter is None):
            raise invalid_field("/ids", "give either ids or filter")
        wanted = _to_filter(request, body.filter or DeadLetterFilterBody(), "/filter")
        if body.ids is not None:
            count = len(dead_letters.replay(body.ids, client_id=wanted.client_id, rate_per_s=body.rate_per_s))
        else:
            count = sum(dead_letters.replay_matching(wanted, rate_per_s=body.rate_per_s, limit=body.limit))
        return Response(msgspec.to_builtins(Replay(count)))


def _to_filter(request: Request, body: DeadLetterFilterBody, pointer: str) -> DeadLetterFilter:
    client = cast(Client, request.auth)
    is_operator = Scope.OPS_READ.value in client.scopes
    return DeadLetterFilter(
        client_id=None if is_operator else int(client.pk),
        provider_id=None if body.provider is None else _provider_id(body.provider, pointer),
        channel=None if body.channel is None else Channel.from_label(body.channel),
        reason=None if body.reason is None else Reason[body.reason.upper()],
        error_code=body.error_code,
        since=to_utc(body.since, f"{pointer}/since"),
        until=to_utc(body.until, f"{pointer}/until"),
    )


def _provider_id(alias: str, pointer: str) -> int:
    try:
        return get_provider(alias).id
    except KeyError:
        raise invalid_field(f"{pointer}/provider", "there is no provider of this name") from None

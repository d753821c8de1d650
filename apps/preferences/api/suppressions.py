"""``/v1/suppressions``: the ledger of addresses that must not be used. Addresses come in bodies and never go out:
what is stored of them is a keyed hash."""

from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn

import structlog
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.channels import CHANNEL_LABELS, Channel
from apps.preferences import ledger, profile, services
from apps.preferences.api.suppression_bodies import (
    LiftSerializer,
    SuppressionPageSerializer,
    SuppressionRequestSerializer,
    SuppressionSerializer,
    TargetLiftSerializer,
    TargetSerializer,
    present_suppression,
)
from apps.preferences.ledger import LedgerFilter
from apps.preferences.models import Suppression
from apps.problems import Problem, invalid_field

READ = "preferences:read"
WRITE = "preferences:write"
SOURCE = "api"
STATES: Mapping[str, bool | None] = {"active": False, "lifted": True, "all": None}
_PARAMETERS = ("channel", "user_id", "state", "limit", "cursor")
_MAX_ID = 2**63 - 1
_TAG = ["Suppressions"]

log = structlog.get_logger("notify.preferences.ledger")


def _present_page(wanted: LedgerFilter) -> dict[str, Any]:
    rows = ledger.select_page(wanted)
    page, rest = rows[: wanted.limit], rows[wanted.limit :]
    return {"results": [present_suppression(row) for row in page], "next": str(page[-1].pk) if rest else None}


def _read_body(serializer: Any) -> dict[str, Any]:
    serializer.is_valid(raise_exception=True)
    return serializer.validated_data  # type: ignore[no-any-return]


def _name_client(request: Request) -> str:
    return f"client {request.user}"


def _unknown_suppression() -> NoReturn:
    raise Problem(404, "unknown-suppression", "There is no such suppression.")


class SuppressionsView(APIView):
    """The ledger."""

    required_scopes: ClassVar[dict[str, str]] = {"GET": READ, "POST": WRITE}

    @extend_schema(
        operation_id="suppressions_list",
        tags=_TAG,
        summary="List suppressions, newest first",
        parameters=[
            OpenApiParameter("channel", {"type": "string", "enum": list(CHANNEL_LABELS)}),
            OpenApiParameter("user_id", str, description="Only those of what this user has now."),
            OpenApiParameter("state", {"type": "string", "enum": list(STATES), "default": "active"}),
            OpenApiParameter(
                "limit",
                {"type": "integer", "minimum": 1, "maximum": ledger.LIMIT_MAX, "default": ledger.LIMIT_DEFAULT},
            ),
            OpenApiParameter("cursor", str, description="The `next` of the page before."),
        ],
        responses={200: SuppressionPageSerializer},
    )
    def get(self, request: Request) -> Response:
        return Response(_present_page(_read_filter(request.query_params)))

    @extend_schema(
        operation_id="suppressions_post",
        tags=_TAG,
        summary="Suppress an address",
        description="Nothing is sent to it from then on, transactional messages included, whoever has it or gets it. "
        "Suppressing it again changes nothing.",
        request=SuppressionRequestSerializer,
        responses={
            200: OpenApiResponse(SuppressionSerializer, description="It was suppressed already."),
            201: OpenApiResponse(SuppressionSerializer, description="It is suppressed now."),
        },
        examples=[
            OpenApiExample(
                "A complaint",
                {"channel": "email", "address": "ann@example.com", "reason": "complained", "evidence": "ticket 4711"},
                request_only=True,
            )
        ],
    )
    def post(self, request: Request) -> Response:
        values = _read_body(SuppressionRequestSerializer(data=request.data))
        channel, index = values["channel"], values["index"]
        if index is None:
            raise invalid_field("/user_id", f"The user has no address on {channel.label}.")
        is_new = services.suppress_blind_index(
            channel=channel,
            address_bi=index,
            source=SOURCE,
            reason=values["reason"],
            evidence=values["evidence"],
            added_by=_name_client(request),
        )
        row = ledger.select_newest(channel, index)
        if is_new:
            log.info("suppression_added", suppression_id=row.pk, channel=channel.label, source=SOURCE)
        return Response(present_suppression(row), status=201 if is_new else 200)


class SuppressionView(APIView):
    """One entry."""

    required_scopes: ClassVar[dict[str, str]] = {"GET": READ, "DELETE": WRITE}

    @extend_schema(
        operation_id="suppressions_get",
        tags=_TAG,
        summary="Show a suppression",
        responses={200: SuppressionSerializer},
    )
    def get(self, request: Request, suppression_id: int) -> Response:
        return Response(present_suppression(_get_suppression(suppression_id)))

    @extend_schema(
        operation_id="suppressions_delete",
        tags=_TAG,
        summary="Lift a suppression",
        # OpenAPI generators leave the body of a DELETE out: it is written here.
        description='Body: `{"reason": "..."}`, which is kept with the entry. The entry stays in the ledger, lifted. '
        "Lifting it again changes nothing. Where a body cannot be sent, `POST /v1/suppressions:lift` does the same.",
        request=LiftSerializer,
        responses={200: SuppressionSerializer},
    )
    def delete(self, request: Request, suppression_id: int) -> Response:
        values = _read_body(LiftSerializer(data=request.data))
        _lift(request, _get_suppression(suppression_id), values["reason"])
        return Response(present_suppression(_get_suppression(suppression_id)))


class SuppressionSearchView(APIView):
    """The history of one address."""

    required_scopes: ClassVar[dict[str, str]] = {"POST": READ}

    @extend_schema(
        operation_id="suppressions_search",
        tags=_TAG,
        summary="Show an address's suppressions, lifted ones included",
        description="A POST, so that the address does not end up in access logs. The last hundred, newest first.",
        request=TargetSerializer,
        responses={200: SuppressionPageSerializer},
        examples=[OpenApiExample("By address", {"channel": "sms", "address": "+15005550006"}, request_only=True)],
    )
    def post(self, request: Request) -> Response:
        values = _read_body(TargetSerializer(data=request.data))
        indexes = [] if values["index"] is None else [values["index"]]
        page = _present_page(LedgerFilter(values["channel"], None, indexes, limit=ledger.LIMIT_MAX))
        return Response({**page, "next": None})


class SuppressionLiftView(APIView):
    """Lifting by address."""

    required_scopes: ClassVar[dict[str, str]] = {"POST": WRITE}

    @extend_schema(
        operation_id="suppressions_lift",
        tags=_TAG,
        summary="Lift the suppression of an address",
        request=TargetLiftSerializer,
        responses={200: SuppressionSerializer},
        examples=[
            OpenApiExample(
                "By user",
                {"channel": "email", "user_id": "user-1", "reason": "mailbox works again"},
                request_only=True,
            )
        ],
    )
    def post(self, request: Request) -> Response:
        values = _read_body(TargetLiftSerializer(data=request.data))
        index = values["index"]
        row = None if index is None else ledger.select_active(values["channel"], index)
        if row is None:
            raise Problem(404, "unknown-suppression", "The address is not suppressed.")
        _lift(request, row, values["reason"])
        return Response(present_suppression(_get_suppression(row.pk)))


def _lift(request: Request, row: Suppression, reason: str) -> None:
    if services.lift_suppression(suppression_id=row.pk, reason=reason, lifted_by=_name_client(request)):
        log.info("suppression_lifted", suppression_id=row.pk, channel=Channel(row.channel).label)


def _get_suppression(suppression_id: int) -> Suppression:
    row = ledger.select_suppression(suppression_id) if suppression_id <= _MAX_ID else None
    return row or _unknown_suppression()


def _read_filter(parameters: Mapping[str, str]) -> LedgerFilter:
    for name in parameters:
        if name not in _PARAMETERS:
            raise invalid_field(
                f"/{name}", f"There is no such parameter; there are {', '.join(_PARAMETERS)}.", "unknown"
            )
    channel, state = parameters.get("channel"), parameters.get("state", "active")
    if channel is not None and channel not in CHANNEL_LABELS:
        raise invalid_field("/channel", f"Enter one of {', '.join(CHANNEL_LABELS)}.")
    if state not in STATES:
        raise invalid_field("/state", f"Enter one of {', '.join(STATES)}.")
    return LedgerFilter(
        channel=None if channel is None else Channel.from_label(channel),
        is_lifted=STATES[state],
        indexes=_read_indexes(parameters.get("user_id")),
        before=_read_number("cursor", parameters["cursor"], _MAX_ID) if "cursor" in parameters else None,
        limit=_read_number("limit", parameters.get("limit", str(ledger.LIMIT_DEFAULT)), ledger.LIMIT_MAX),
    )


def _read_indexes(user_id: str | None) -> list[bytes] | None:
    if user_id is None:
        return None
    try:
        indexes = ledger.select_indexes(profile.check_user_id(user_id))
    except profile.InvalidValue as error:
        raise invalid_field("/user_id", str(error)) from None
    if indexes is None:
        raise invalid_field("/user_id", "There is no such user.", "unknown")
    return indexes


def _read_number(name: str, text: str, maximum: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and 1 <= int(text) <= maximum):
        detail = f"Enter a number from 1 to {maximum}." if name == "limit" else "Enter the next of the page before."
        raise invalid_field(f"/{name}", detail)
    return int(text)

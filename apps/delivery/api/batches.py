"""Many notifications in one call."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
from django.http import HttpResponse
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.views import APIView

from apps.clients.models import Client
from apps.delivery import intake
from apps.delivery.answers import BatchResult
from apps.delivery.api.placing import to_order
from apps.delivery.api.requests import BATCH_ITEMS_MAX, BatchBody, BatchItemBody, decode_body
from apps.delivery.api.schemas import schema_of
from apps.delivery.orders import Answer, Order
from apps.problems import Problem, describe_problem, invalid_field
from apps.trace import current_trace_id

_encode = msgspec.json.Encoder().encode
_EXAMPLE = OpenApiExample(
    "Two people, one text each",
    request_only=True,
    value={
        "items": [
            {
                "idempotency_key": f"order-{number}-shipped",
                "user_id": f"demo-{number}",
                "type": "shipping",
                "priority": "bulk",
                "content": {"title": "On its way", "body": f"Order {number} has left our house."},
            }
            for number in (1, 2)
        ]
    },
)


class BatchView(APIView):
    """Accept up to a thousand notifications, each on its own."""

    required_scopes = {"POST": "notifications:write"}

    @property
    def throttle_cost(self) -> int:
        """As much as the single calls would cost."""
        data = self.request.data
        items = data.get("items") if isinstance(data, dict) else None
        return max(1, min(len(items), BATCH_ITEMS_MAX)) if isinstance(items, list) else 1

    @extend_schema(
        operation_id="create_notifications",
        summary=f"Send up to {BATCH_ITEMS_MAX:,} notifications",
        description="Each item is what the body of a single call is, with its `idempotency_key` in it: what was "
        "accepted in a batch is answered again to a single call with that key, and the other way round. A wrong item "
        "does not stop the others: look at `results`. Send the same batch again after a failure, and nothing is sent "
        "twice. The rate limit counts every item; a batch for which it has no room is refused whole.",
        tags=["notifications"],
        request={"application/json": schema_of(BatchBody)},
        responses={
            207: OpenApiResponse(schema_of(BatchResult), "A result for each item; what is accepted will not be lost.")
        },
        examples=[_EXAMPLE],
    )
    def post(self, request: Request) -> HttpResponse:
        items = _items_of(cast(Mapping[str, Any], request.data))
        client = cast(Client, request.auth)
        trace_id = current_trace_id()
        outcomes: list[Order | Problem] = [_read_item(item, client.pk, trace_id) for item in items]
        orders = [outcome for outcome in outcomes if isinstance(outcome, Order)]
        accepted = iter(intake.accept_all(orders, now=datetime.now(UTC)))
        results = [
            _present(place, outcome, next(accepted) if isinstance(outcome, Order) else outcome, trace_id)
            for place, outcome in enumerate(outcomes)
        ]
        refused = sum(result["problem"] is not None for result in results)
        body = {"accepted": len(results) - refused, "refused": refused, "results": results}
        return HttpResponse(_encode(body), content_type="application/json", status=207)


def _items_of(data: Mapping[str, Any]) -> Sequence[Any]:
    for name in data:
        if name != "items":
            pointer = "/" + name.replace("~", "~0").replace("/", "~1")
            raise invalid_field(pointer, "there is no such field; remove it", "unknown_field")
    items = data.get("items")
    if not isinstance(items, list) or not items:
        raise invalid_field("/items", "a list of 1 to 1,000 notifications is required", "required")
    if len(items) > BATCH_ITEMS_MAX:
        raise invalid_field("/items", f"at most {BATCH_ITEMS_MAX:,} items; these are {len(items):,}", "max_length")
    return items


def _read_item(item: Any, client_id: int, trace_id: str) -> Order | Problem:
    try:
        body = decode_body(item, BatchItemBody)
        raw = {name: value for name, value in item.items() if name != "idempotency_key"}
        return to_order(client_id, body.idempotency_key, raw, body, body.trace_id or trace_id)
    except Problem as problem:
        return problem


def _present(place: int, order: Order | Problem, result: Answer | Problem, trace_id: str) -> dict[str, Any]:
    if isinstance(result, Problem):
        own_trace_id = order.trace_id if isinstance(order, Order) else trace_id
        problem = describe_problem(result, own_trace_id, below=f"/items/{place}")
        return {"status": result.status_code, "replayed": False, "notification": None, "problem": problem}
    is_new = isinstance(order, Order) and not order.is_dry_run and not result.is_replay
    return {
        "status": 202 if is_new else 200,
        "replayed": result.is_replay,
        "notification": msgspec.Raw(result.body),
        "problem": None,
    }

"""Writes: a broadcast is ordered, paused, resumed, cancelled and tried again. Each change of state is one conditional
UPDATE; asked for twice it changes nothing the second time, and where it cannot be had the caller is told how the
broadcast stands. Workers look at the state before each chunk, and before each row, so a change holds at once."""

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import Case, F, Q, Value, When
from django.db.models.functions import Now

from apps.delivery.broadcasts.models import Broadcast, State
from apps.delivery.broadcasts.orders import BroadcastOrder
from apps.delivery.broadcasts.pumping import ring_planner
from apps.delivery.broadcasts.selectors import content_aad, find_broadcast, id_range
from apps.delivery.content import seal_for
from apps.delivery.ids import new_notification_id
from apps.delivery.ranges import make_due, revive
from apps.delivery.statuses import Reason, Status
from apps.problems import Problem

REVIVABLE = (Status.DEAD, Status.FAILED)
_GOING = (State.SCHEDULED, State.PLANNING, State.CANARY, State.RUNNING)
_STOPPED = (State.PAUSED, State.HALTED)
log = structlog.get_logger("notify.delivery.broadcasts")


def create(order: BroadcastOrder) -> Broadcast:
    """Stores the order; once the transaction commits it is under way."""
    broadcast_id = new_notification_id()
    broadcast = Broadcast(
        id=broadcast_id,
        client_id=order.client_id,
        name=order.name,
        type=order.type,
        category=order.category,
        channels=sorted({int(channel) for channel in order.channels}),
        content_ct=seal_for(order.content, content_aad(broadcast_id)),
        audience=dict(order.audience),
        trace_id=order.trace_id,
        created_at=datetime.now(UTC),
        send_at=order.send_at,
        expires_at=order.expires_at,
        rate_per_s=order.rate_per_s,
        send_window=None if order.send_window is None else order.send_window.store(),
        canary_share=order.canary_share,
        max_error_rate=order.max_error_rate,
    )
    broadcast.save(force_insert=True)
    broadcast.refresh_from_db(fields=["number", "state_since"])
    transaction.on_commit(ring_planner, robust=True)
    log.info("broadcast_ordered", broadcast_id=str(broadcast_id), client_id=order.client_id)
    return broadcast


def pause(broadcast_id: UUID, *, client_id: int | None = None, reason: str = "") -> Broadcast:
    """Nothing more leaves until it is resumed. Raises ``Problem`` (404, 409)."""
    changes = {"state": State.PAUSED, "resumes_to": F("state"), "state_reason": reason}
    return _move(broadcast_id, client_id, "paused", sources=_GOING, target=State.PAUSED, changes=changes)


def resume(broadcast_id: UUID, *, client_id: int | None = None) -> Broadcast:
    """Goes on where it was; after it had halted, without the canary. Raises ``Problem`` (404, 409)."""
    changes = {
        "state": F("resumes_to"),
        "resumes_to": None,
        "state_reason": "",
        "is_canary_over": Case(When(state=State.HALTED, then=Value(True)), default=F("is_canary_over")),
        "recent_total": 0,
        "recent_bad": 0,
    }
    broadcast = _move(broadcast_id, client_id, "resumed", sources=_STOPPED, target=_GOING, changes=changes)
    if broadcast.started_at is not None:
        make_due(id_range(broadcast), reason=Reason.BROADCAST_PAUSED)
    ring_planner()
    return broadcast


def cancel(broadcast_id: UUID, *, client_id: int | None = None, reason: str = "") -> Broadcast:
    """Nothing more leaves, for good. Raises ``Problem`` (404, 409)."""
    changes = {"state": State.CANCELLED, "resumes_to": None, "state_reason": reason}
    sources = (*_GOING, *_STOPPED)
    broadcast = _move(broadcast_id, client_id, "cancelled", sources=sources, target=State.CANCELLED, changes=changes)
    ring_planner()  # which also tidies up
    return broadcast


def retry_failed(broadcast_id: UUID, *, client_id: int | None = None, statuses: Collection[Status] = REVIVABLE) -> int:
    """Puts deliveries that failed back, at most ``ranges.REVIVE_MAX`` at a time and none to an address that does not
    exist; returns how many. A broadcast that was completed runs again. Raises ``Problem`` (404, 409)."""
    wanted = set(statuses)
    if not wanted <= set(REVIVABLE):
        raise ValueError("only dead and failed deliveries can be tried again")
    running = {"state": State.RUNNING, "finished_at": None, "recent_total": 0, "recent_bad": 0}
    with transaction.atomic():
        broadcast = _move(
            broadcast_id,
            client_id,
            "tried again",
            sources=(State.COMPLETED,),
            target=(State.RUNNING, State.PLANNING, State.CANARY),
            changes=running,
        )
        if broadcast.started_at is None:
            return 0
        revived = revive(id_range(broadcast), statuses=wanted, rate_per_s=broadcast.rate_per_s)
    log.info("broadcast_retried", broadcast_id=str(broadcast_id), n=revived)
    ring_planner()
    return revived


def _move(
    broadcast_id: UUID,
    client_id: int | None,
    verb: str,
    *,
    sources: Collection[State],
    target: State | Collection[State],
    changes: dict[str, Any],
) -> Broadcast:
    """Moves the broadcast on if it is in one of ``sources``; leaves it alone if it is in ``target`` already."""
    own = Q(id=broadcast_id) if client_id is None else Q(id=broadcast_id, client_id=client_id)
    moved = Broadcast.objects.filter(own, state__in=sources).update(**changes, state_since=Now())
    broadcast = find_broadcast(broadcast_id, client_id=client_id)
    if broadcast is None:
        raise Problem(404, "not-found", "there is no such broadcast")
    state = State(broadcast.state)
    if moved:
        log.info("broadcast_moved", broadcast_id=str(broadcast_id), state=state.name.lower())
    elif state not in (target if isinstance(target, Collection) else (target,)):
        raise Problem(409, "broadcast-state", f"the broadcast is {state.name.lower()}; it cannot be {verb}")
    return broadcast

"""What the platform needs in its broker: on RabbitMQ an exchange and the queues, on Redis nothing.

Declared by ``manage.py declare_topology`` before anything publishes. A worker declares the queues it consumes once more
whenever it connects, so a RabbitMQ that lost its definitions is whole again when its workers are back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from amqp.exceptions import NotFound, PreconditionFailed
from django.conf import settings
from kombu import Exchange, Queue

from apps.delivery.queues import ALL_QUEUES, DEAD, EXCHANGE_NAME, queue_of
from notify_project.broker import inspect_queues, open_channels

TIMEOUT_S = 10.0


class State(Enum):
    """How an exchange or a queue was found, or what was done about it."""

    PRESENT = "present"
    MISSING = "missing"
    DIFFERS = "differs"
    DECLARED = "declared"
    RECREATED = "recreated"


@dataclass(frozen=True, slots=True)
class Finding:
    """An exchange or a queue and its state; ``detail`` is the broker's word on what differs."""

    kind: str
    name: str
    state: State
    detail: str = ""

    @property
    def is_well(self) -> bool:
        return self.state not in {State.MISSING, State.DIFFERS}


def check_topology() -> list[Finding]:
    """What is there, what is missing and what differs. Changes nothing. Raises what the transport raises."""
    return _visit(_look)


def declare_topology(*, recreates: bool = False) -> list[Finding]:
    """Declares what is missing; what differs is left as it is, or with ``recreates`` deleted, with the messages in it,
    and declared anew. May be called again at any time."""
    return _visit(_recreate if recreates else _declare)


def missing_queues(timeout_s: float) -> list[str]:
    """The names of our queues that RabbitMQ does not have; none on Redis. Raises what the transport raises."""
    return [queue for queue, depth in inspect_queues(timeout_s).items() if depth is None]


Opener = Callable[[], Any]
Entity = Exchange | Queue


def _ask(entity: Entity, channel: Any, *, passive: bool) -> None:
    bound = _bind(entity, channel)
    if isinstance(entity, Exchange):
        bound.declare(passive=passive)
    else:
        bound.queue_declare(passive=passive)


def _bind(entity: Entity, channel: Any) -> Any:
    return entity(channel)


def _visit(deal_with: Callable[[Opener, Entity], Finding]) -> list[Finding]:
    if not settings.BROKER_IS_AMQP:
        return []
    entities: list[Entity] = [Exchange(EXCHANGE_NAME, type="direct", durable=True)]
    entities += [queue_of(name, quorum=True) for name in (DEAD, *ALL_QUEUES)]
    with open_channels(TIMEOUT_S) as open_channel:
        return [deal_with(open_channel, entity) for entity in entities]


def _look(open_channel: Opener, entity: Entity) -> Finding:
    # A channel for each step: RabbitMQ closes the one on which something was wrong.
    channel = open_channel()
    try:
        _ask(entity, channel, passive=True)
    except NotFound:
        return _found(entity, State.MISSING)
    try:  # what is there is not made by this, but compared
        _ask(entity, channel, passive=False)
    except PreconditionFailed as error:
        return _found(entity, State.DIFFERS, error.reply_text or "")
    channel.close()
    return _found(entity, State.PRESENT)


def _declare(open_channel: Opener, entity: Entity) -> Finding:
    finding = _look(open_channel, entity)
    if finding.state is State.DIFFERS:
        return finding
    with open_channel() as channel:
        _bind(entity, channel).declare()  # a queue's bindings too, which a look cannot see
    return finding if finding.state is State.PRESENT else _found(entity, State.DECLARED)


def _recreate(open_channel: Opener, entity: Entity) -> Finding:
    finding = _declare(open_channel, entity)
    if finding.state is not State.DIFFERS:
        return finding
    with open_channel() as channel:
        _bind(entity, channel).delete()
        _bind(entity, channel).declare()
    return _found(entity, State.RECREATED, finding.detail)


def _found(entity: Entity, state: State, detail: str = "") -> Finding:
    kind = "exchange" if isinstance(entity, Exchange) else "queue"
    return Finding(kind, str(entity.name), state, detail)

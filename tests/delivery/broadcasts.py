"""Broadcasts for tests, and what does the workers' work."""

import itertools
import json
from base64 import b64decode
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from celery import current_app
from django.db import connection

from apps.channels import Channel
from apps.clients.models import Client
from apps.delivery import (
    dispatch,
    tasks,  # noqa: F401 - registers the tasks
)
from apps.delivery.broadcasts import claiming, services
from apps.delivery.broadcasts.chunks import deliver_chunk
from apps.delivery.broadcasts.models import Broadcast, State
from apps.delivery.broadcasts.orders import BroadcastOrder
from apps.delivery.broadcasts.planning import Planner
from apps.delivery.broadcasts.pumping import ring_pumps
from apps.delivery.broadcasts.selectors import id_range
from apps.delivery.content import Content
from apps.delivery.models import Delivery
from apps.delivery.queues import BULK_QUEUES, FANOUT
from apps.delivery.statuses import Status
from apps.preferences.bulk import upsert_recipients
from apps.preferences.models import Recipient

_people = itertools.count(1)


def make_order(client: Client, **changes: Any) -> BroadcastOrder:
    """A well-formed order for everybody with a device, unless told otherwise."""
    values: dict[str, Any] = {
        "client_id": client.id,
        "name": "News",
        "type": "news",
        "category": "",
        "channels": (Channel.PUSH,),
        "content": Content(title="Title", body="Body"),
        "audience": {"everybody": True},
        "trace_id": "trace-broadcast",
    }
    return BroadcastOrder(**{**values, **changes})


def take_messages(*queues: str) -> list[tuple[str, list[Any]]]:
    """The (task, arguments) of everything that hangs in these queues, which are emptied."""
    messages = []
    with current_app.connection_for_read() as broker:
        redis = broker.default_channel.client
        for queue in queues:
            while raw := redis.rpop(queue):
                message = json.loads(raw)
                args, _, _ = json.loads(b64decode(message["body"]))
                messages.append((message["headers"]["task"], args))
    return messages


def run_messages(rounds: int = 10) -> int:
    """Does what workers and the sweep would do, until no message hangs and the sweep rings for no more; returns how
    many messages that were."""
    done = 0
    for _ in range(rounds):
        ring_pumps()
        messages = take_messages(FANOUT, *BULK_QUEUES)
        for task, args in messages:
            current_app.tasks[task](*args)
        done += len(messages)
        if not messages:
            break
    return done


def make_people(count: int, **fields: Any) -> list[Recipient]:
    """Recipients with an address on every channel, in the order of their ids."""
    start = next(_people) * 10_000
    items = [
        {
            "user_id": f"person-{number}",
            "email": f"person.{number}@example.com",
            "phone": f"+1500555{number % 10_000:04}",
            "time_zone": "Europe/Berlin",
            "devices": [{"token": f"token-{number}", "platform": "android"}],
            **fields,
        }
        for number in range(start, start + count)
    ]
    for first in range(0, count, 500):
        results = upsert_recipients(items[first : first + 500])
        assert not any(result.faults for result in results), results
    return list(Recipient.objects.filter(user_id__in=[item["user_id"] for item in items]).order_by("id"))


def make_broadcast(client: Client, *, chunk_size: int = 500, **changes: Any) -> Broadcast:
    """An ordered broadcast with chunks of this size."""
    broadcast = services.create(make_order(client, **changes))
    Broadcast.objects.filter(id=broadcast.id).update(chunk_size=chunk_size)
    broadcast.refresh_from_db()
    return broadcast


def plan() -> None:
    """Plans everything that is due, to the end."""
    planner = Planner()
    while planner.step_each():
        pass


def claim(channel: Channel = Channel.PUSH) -> claiming.Chunk | None:
    """The chunk whose turn it is, as a worker claims it."""
    return claiming.claim_chunk(channel, now=datetime.now(UTC), lease_s=30)


def deliver_all(channel: Channel = Channel.PUSH) -> int:
    """Sends chunks while there are any; returns how many."""
    count = 0
    while (chunk := claim(channel)) is not None and deliver_chunk(chunk):
        count += 1
    return count


def shift(table: str, column: str, seconds: float) -> None:
    """Makes every moment in a column of this table earlier."""
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE {table} SET {column} = {column} - make_interval(secs => %s)", [seconds])


def send_rows() -> None:
    """What the sweep and the workers do about rows that wait, however long."""
    shift("delivery", "next_attempt_at", 1_000_000)
    dispatch.deliver(list(Delivery.objects.exclude(ring_at=None).values_list("id", flat=True)))


def state_of(broadcast: Broadcast) -> State:
    """The state as it is now."""
    return State(Broadcast.objects.values_list("state", flat=True).get(id=broadcast.id))


def counts_of(broadcast: Broadcast) -> dict[str, int]:
    """The broadcast's deliveries by status."""
    wanted = id_range(Broadcast.objects.get(id=broadcast.id))
    rows = Delivery.objects.filter(id__range=(wanted.low, wanted.high)).values_list("status", flat=True)
    return dict(Counter(Status(status).label for status in rows))

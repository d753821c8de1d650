"""The idempotency keys, and the statement that writes what was accepted under one together with it."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import msgspec
from django.db import connection
from django.db.utils import OperationalError
from psycopg.errors import LockNotAvailable

from apps.channels import Channel, Lane
from apps.delivery.content import Content, seal_content
from apps.delivery.drafting import Draft
from apps.delivery.orders import Order, order_hash_of
from apps.pg_prepared import run_prepared
from apps.problems import Problem

_IN_PROGRESS = "idempotency-key-in-progress"
DOORBELL_GRACE_S = 10.0  # how long the sweep leaves a row to its doorbell


class Key(NamedTuple):
    """A key is its client's own."""

    client_id: int
    key: str


class StoredAnswer(NamedTuple):
    """What was answered under a key, to the request with this fingerprint."""

    fingerprint: bytes
    body: bytes


class KeyBusyError(Exception):
    """Another transaction has been writing one of the keys for longer than ``lock_timeout``. Nothing was written."""


def key_of(order: Order) -> Key:
    return Key(order.client_id, order.idempotency_key)


def find_answers(keys: Collection[Key]) -> dict[Key, StoredAnswer]:
    """What has been answered under these keys; one query."""
    if not keys:
        return {}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT client_id, key, fingerprint, response FROM idempotency_key WHERE (client_id, key) IN "
            "(SELECT * FROM unnest(%s::bigint[], %s::text[]))",
            [[key.client_id for key in keys], [key.key for key in keys]],
        )
        return {Key(row[0], row[1]): StoredAnswer(bytes(row[2]), bytes(row[3])) for row in cursor.fetchall()}


class _DeliveryRow(msgspec.Struct):
    """``grace_s`` is how long the sweep leaves it to its doorbell."""

    id: UUID
    device_id: int | None
    not_before: datetime | None
    channel: int
    status: int
    reason: int
    grace_s: float


class _Row(msgspec.Struct):
    """What a draft writes. As JSON, bytes are in base64."""

    place: int
    client_id: int
    key: str
    fingerprint: bytes
    response: bytes
    id: UUID
    recipient_id: int
    version: int | None
    send_at: datetime | None
    expires_at: datetime | None
    lane: int
    user_id: str
    type: str
    category: str
    trace_id: str
    content: bytes
    order_hash: int | None
    deliveries: list[_DeliveryRow]


# An item goes in if its recipient is still as it was when it was decided about (a version of null: whatever) and its
# key is new. Keys are taken in one order by everybody, so that two batches never wait for each other in a circle.
# Ordered deliveries draw their numbers in the order of the items: PostgreSQL calls nextval after the ORDER BY inside.
# One JSON document, as psycopg takes 5 µs to make an array of even one value, and there would be 23. PostgreSQL cannot
# know how many items are in it: OFFSET 0 has it look up each recipient by its key, whatever it guesses, and the CASE
# has it look up each item in a hash table of the keys taken, where a join compared each with each.
_WRITE = """
WITH item AS MATERIALIZED (
    SELECT i.* FROM jsonb_to_recordset(%s::jsonb) AS i(
        place int, client_id bigint, key text, fingerprint text, response text, id uuid, recipient_id bigint,
        version bigint, send_at timestamptz, expires_at timestamptz, lane smallint, user_id text, type text,
        category text, trace_id text, content text, order_hash bigint, deliveries jsonb
    )
    CROSS JOIN LATERAL (SELECT version FROM preferences_recipient WHERE id = i.recipient_id OFFSET 0) AS r
    WHERE r.version = COALESCE(i.version, r.version)
), taken AS (
    INSERT INTO idempotency_key (client_id, key, created_at, fingerprint, response)
    SELECT client_id, key, now(), decode(fingerprint, 'base64'), decode(response, 'base64')
    FROM item ORDER BY client_id, key
    ON CONFLICT DO NOTHING
    RETURNING client_id, key
), accepted AS MATERIALIZED (
    SELECT * FROM item WHERE CASE WHEN (client_id, key) IN (SELECT client_id, key FROM taken) THEN true ELSE false END
), written AS (
    INSERT INTO notification (id, recipient_id, client_id, send_at, expires_at, lane, user_id, type, category,
                              trace_id, content_ct)
    SELECT id, recipient_id, client_id, send_at, expires_at, lane, user_id, type, category, trace_id,
           decode(content, 'base64')
    FROM accepted
), delivered AS (
    INSERT INTO delivery (id, recipient_id, device_id, next_attempt_at, ring_at, client_id, channel, lane, status,
                          reason, attempts, fence, lapses, order_hash, order_no)
    SELECT id, recipient_id, device_id,
           CASE WHEN status = 1 THEN COALESCE(not_before, now()) END,
           CASE WHEN status = 1 THEN COALESCE(not_before, now() + make_interval(secs => grace_s)) END,
           client_id, channel, lane, status, reason, 0, 0, 0, order_hash,
           CASE WHEN order_hash IS NOT NULL THEN nextval('delivery_order_no') END
    FROM (
        SELECT d.*, a.place, a.recipient_id, a.client_id, a.lane,
               CASE WHEN d.status = 1 THEN a.order_hash END AS order_hash
        FROM accepted AS a
        CROSS JOIN LATERAL jsonb_to_recordset(a.deliveries)
             AS d(id uuid, device_id bigint, not_before timestamptz, channel smallint, status smallint, reason smallint,
                  grace_s float8)
        ORDER BY a.place, d.id
    ) AS in_order
)
SELECT client_id, key FROM taken
"""
_encode = msgspec.json.Encoder().encode


def write_drafts(
    drafts: Sequence[Draft], *, is_checked: bool, unrung: Collection[tuple[Channel, Lane]] = ()
) -> list[Key]:
    """Writes them in one statement, and returns the keys of those that it wrote: not those whose key was used before,
    nor, if ``is_checked``, those whose recipient has changed since they were decided. What goes into the queues of
    ``unrung`` is due for the sweep at once. Waits for others who are writing the same key; raises ``KeyBusyError`` if
    that takes longer than the connection's ``lock_timeout``."""
    if not drafts:
        return []
    try:
        rows = [_row(place, draft, is_checked, unrung) for place, draft in enumerate(drafts)]
        return [Key(*row) for row in run_prepared(_WRITE, [_encode(rows).decode()])]
    except OperationalError as error:
        if isinstance(error.__cause__, LockNotAvailable):
            raise KeyBusyError from None
        raise


def _row(place: int, draft: Draft, is_checked: bool, unrung: Collection[tuple[Channel, Lane]]) -> _Row:
    order = draft.order
    return _Row(
        place=place,
        client_id=order.client_id,
        key=order.idempotency_key,
        fingerprint=order.fingerprint,
        response=draft.body,
        id=draft.notification_id,
        recipient_id=draft.snapshot.recipient_id,
        version=draft.snapshot.version if is_checked else None,
        send_at=order.send_at,
        expires_at=order.expires_at,
        lane=order.lane,
        user_id=order.user_id,
        type=order.type,
        category=order.category,
        trace_id=order.trace_id,
        content=seal_content(_with_ordering_key(order), draft.notification_id),
        order_hash=None if order.ordering_key is None else order_hash_of(order.client_id, order.ordering_key),
        deliveries=[
            _DeliveryRow(
                delivery_id,
                item.device_id,
                item.not_before,
                item.channel,
                item.status,
                item.reason,
                0.0 if (item.channel, order.lane) in unrung else DOORBELL_GRACE_S,
            )
            for delivery_id, item in zip(draft.ids, draft.deliveries, strict=True)
        ],
    )


def _with_ordering_key(order: Order) -> Content:
    if order.ordering_key is None:
        return order.content
    return msgspec.structs.replace(order.content, ordering_key=order.ordering_key)


def forget_idempotency_keys(*, retention_days: int) -> int:
    """Deletes keys older than ``retention_days``, in bites; returns how many."""
    deleted = 0
    while True:
        with connection.cursor() as cursor:
            cursor.execute(
                "DELETE FROM idempotency_key WHERE ctid = ANY(ARRAY(SELECT ctid FROM idempotency_key "
                "WHERE created_at < now() - make_interval(days => %s) LIMIT 10000))",
                [retention_days],
            )
            deleted += int(cursor.rowcount)
            if cursor.rowcount < 10_000:
                return deleted


def key_reused() -> Problem:
    """The key was used for something else."""
    return Problem(
        422,
        "idempotency-key-reused",
        "this X-Idempotency-Key was used for a different request; use a new key for a new notification",
    )


def is_key_in_progress(result: object) -> bool:
    """Whether ``result`` is ``key_in_progress``."""
    return isinstance(result, Problem) and result.code == _IN_PROGRESS


def key_in_progress() -> Problem:
    """Somebody is writing under the key just now."""
    return Problem(
        409,
        _IN_PROGRESS,
        "a request with this X-Idempotency-Key is still being processed; try again",
        headers={"Retry-After": "1"},
    )

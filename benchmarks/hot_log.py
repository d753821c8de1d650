"""A delivery log large enough that a bad plan shows: notifications of two days with a delivery each, a broadcast that
is over and one that runs, receipts; nearly all of it done, as in life."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from django.db import connection

from apps.channels import Channel
from apps.delivery.broadcasts.models import Broadcast, State
from apps.delivery.ids import broadcast_id_base
from apps.delivery.partitions import ensure_partitions

CHUNK = 500
OPEN_CHUNKS = 20
FIRST_RECIPIENT = 1_000_000_000  # above those that there are
TABLES = (
    "preferences_recipient",
    "notification",
    "delivery",
    "attempt",
    "idempotency_key",
    "receipt_event",
    "broadcast",
    "broadcast_chunk",
)

# In 1,000 deliveries: 5 wait and are due, 2 are being sent, 3 are dead, 200 delivered, the others sent.
_NOTIFICATIONS = """
INSERT INTO notification (id, recipient_id, client_id, lane, user_id, type, category, trace_id, content_ct)
SELECT (lpad(to_hex(%(since)s + n::bigint * %(span)s / %(rows)s), 12, '0') || '7'
        || lpad(to_hex((random() * 4095)::int), 3, '0') || '8' || lpad(to_hex((random() * 4095)::int), 3, '0')
        || lpad(to_hex((random() * 1099511627775)::bigint), 10, '0') || '00')::uuid,
       %(first)s + 1 + n %% %(people)s, (%(clients)s)[1 + n %% cardinality(%(clients)s)], 1 + (n %% 4 > 0)::int,
       'hot-' || 1 + n %% %(people)s, 'news', '', md5(n::text), decode(repeat('ab', 100), 'hex')
FROM generate_series(0, %(rows)s - 1) AS n
"""
_DELIVERIES = """
INSERT INTO delivery (id, recipient_id, device_id, client_id, channel, lane, status, reason, attempts, fence, lapses,
                      provider, provider_message_id, sent_at, delivered_at, next_attempt_at, ring_at)
SELECT (left(id::text, 34) || '01')::uuid, recipient_id, recipient_id, client_id, 1, lane, status, 0, 1, 1, 0, 1,
       CASE WHEN status > 2 THEN 'projects/hot/messages/0:' || substr(md5(id::text), 1, 24) END,
       CASE WHEN status IN (3, 4) THEN now() END, CASE WHEN status = 4 THEN now() END,
       CASE WHEN status < 3 THEN now() - interval '1 minute' END,
       CASE WHEN status < 3 THEN now() - interval '1 minute' END
FROM (
    SELECT n.*, CASE WHEN dice < 5 THEN 1 WHEN dice < 7 THEN 2 WHEN dice < 10 THEN 11 WHEN dice < 210 THEN 4 ELSE 3 END
           AS status
    FROM (SELECT *, floor(random() * 1000) AS dice FROM notification) AS n
) AS decided
"""
_PEOPLE = """
INSERT INTO preferences_recipient (id, user_id)
SELECT %(first)s + n, 'hot-' || n FROM generate_series(1, %(people)s) AS n
"""
_KEYS = """
INSERT INTO idempotency_key (client_id, key, created_at, fingerprint, response)
SELECT client_id, id::text, now(), decode(md5(id::text), 'hex'), decode(repeat('7b', 300), 'hex') FROM notification
"""
_RECEIPTS = """
INSERT INTO receipt_event (delivery_id, occurred_at, received_at, applied_at, provider, kind, is_matched, event_id,
                           code)
SELECT id, now(), now(), CASE WHEN row_number() OVER () > 500 THEN now() END, 1, 2, true, id::text, ''
FROM delivery WHERE status = 4
"""
_BROADCAST_ROWS = """
INSERT INTO delivery (id, recipient_id, device_id, client_id, channel, lane, status, reason, attempts, fence, lapses,
                      provider, provider_message_id, sent_at)
SELECT (%(head)s || lpad(to_hex(%(tail)s::bigint | n), 12, '0'))::uuid, n, n, %(client)s, 1, 2, 3, 0, 1, 1, 0, 1,
       'projects/hot/messages/0:' || substr(md5(n::text), 1, 24), now()
FROM generate_series(1, %(rows)s) AS n
"""
_CHUNKS = """
INSERT INTO broadcast_chunk (broadcast_number, no, channel, state, is_canary, fence, lapses, recipients, done_at,
                             recipient_ids, counts)
SELECT %(number)s, n, 1, CASE WHEN n > %(done)s THEN 1 ELSE 3 END, false, 1, 0, %(size)s, now(),
       CASE WHEN n > %(done)s THEN ARRAY(SELECT generate_series(n * %(size)s + 1, (n + 1) * %(size)s)) END,
       CASE WHEN n <= %(done)s THEN jsonb_build_object('sent', %(size)s::int) END
FROM generate_series(1, %(done)s + %(open)s) AS n
"""


@dataclass(frozen=True, slots=True)
class HotLog:
    """What to ask about."""

    client_id: int
    queued: list[UUID]
    sent: list[UUID]
    notifications: list[UUID]
    broadcast: Broadcast
    rows: int


def fill_log(rows: int, client_id: int) -> HotLog:
    """About ``rows`` notifications with their deliveries, and a tenth of that as deliveries of two broadcasts."""
    now = datetime.now(UTC)
    ensure_partitions(today=now.date())
    yesterday = datetime(now.year, now.month, now.day, tzinfo=UTC) - timedelta(days=1)
    since = int(yesterday.timestamp() * 1000)
    everybody = [client_id, *range(900_001, 900_006)]
    with connection.cursor() as cursor:
        span = int(now.timestamp() * 1000) - since - 1
        numbers = {
            "since": since,
            "span": span,
            "rows": rows,
            "people": max(1, rows // 20),
            "first": FIRST_RECIPIENT,
            "clients": everybody,
        }
        cursor.execute(_PEOPLE, numbers)
        cursor.execute(_NOTIFICATIONS, numbers)
        for statement in (_DELIVERIES, _KEYS, _RECEIPTS):
            cursor.execute(statement)
        _add_broadcast(client_id, now, rows // 20, State.COMPLETED)
        broadcast = _add_broadcast(client_id, now, rows // 20, State.RUNNING)
        cursor.execute(f"ANALYZE {', '.join(TABLES)}")
    return HotLog(
        client_id,
        queued=_some("SELECT id FROM delivery WHERE status = 1 AND lane = 2 ORDER BY id DESC LIMIT 500"),
        # The oldest: all of one day, at whatever time of the day this runs.
        sent=_some("SELECT id FROM delivery WHERE status = 3 AND lane = 1 ORDER BY id LIMIT 500"),
        notifications=_some("SELECT id FROM notification ORDER BY id LIMIT 500"),
        broadcast=broadcast,
        rows=rows,
    )


def _some(query: str) -> list[UUID]:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return [row[0] for row in cursor.fetchall()]


def _add_broadcast(client_id: int, now: datetime, rows: int, state: State) -> Broadcast:
    started = now - timedelta(seconds=30 if state is State.RUNNING else 60)
    broadcast = Broadcast.objects.create(
        id=uuid4(),
        client_id=client_id,
        name="hot",
        state=state,
        type="news",
        category="",
        channels=[int(Channel.PUSH)],
        content_ct=b"",
        audience={"everybody": True},
        trace_id="hot",
        created_at=started,
        started_at=started,
        finished_at=None if state is State.RUNNING else now,
        is_planned=True,
        recipients=rows,
    )
    broadcast.refresh_from_db()
    base = broadcast_id_base(int(started.timestamp() * 1000), broadcast.number, int(Channel.PUSH))
    head, tail = f"{base >> 48:020x}", base & ((1 << 48) - 1)
    done = max(1, rows // CHUNK)
    with connection.cursor() as cursor:
        cursor.execute(_BROADCAST_ROWS, {"head": head, "tail": tail, "client": client_id, "rows": rows})
        number = {"number": broadcast.number, "done": done, "size": CHUNK}
        cursor.execute(_CHUNKS, number | {"open": OPEN_CHUNKS if state is State.RUNNING else 0})
    return broadcast

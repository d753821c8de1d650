"""No statement of the hot path compares each row with each, though all they touch is fresher than the statistics."""

from datetime import UTC, datetime

import pytest
from django.db import connection

from apps import pg_arrays
from apps.delivery import outcomes
from apps.delivery.outcomes import Claim, Outcome
from apps.delivery.statuses import Status

pytestmark = pytest.mark.django_db
ROWS = 200
_FILL = """
INSERT INTO delivery (id, recipient_id, client_id, channel, lane, status, reason, attempts, fence, lapses,
                      next_attempt_at, ring_at)
SELECT (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint + %(later)s), 12, '0') || '7000a'
        || lpad(to_hex(g), 15, '0'))::uuid,
       1, 1, 2, 2, %(status)s, 0, 0, 1, 0,
       CASE WHEN %(status)s = 1 THEN now() END, CASE WHEN %(status)s = 1 THEN now() END
FROM generate_series(1, %(n)s) AS g
RETURNING id
"""


@pytest.fixture
def fresh_ids():
    """Rows to be sent, younger than what PostgreSQL knows of its table: many that are done."""
    with connection.cursor() as cursor:
        cursor.execute(_FILL, {"later": 0, "status": int(Status.SENT), "n": 3_000})
        cursor.execute("ANALYZE delivery")
        cursor.execute(_FILL, {"later": 100, "status": int(Status.QUEUED), "n": ROWS})
        return [row[0] for row in cursor.fetchall()]


def explain(statement, values):
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, FORMAT TEXT) {statement}", values)
        return "\n".join(row[0] for row in cursor.fetchall())


def claim(ids):
    values = {"ids": pg_arrays.of_uuids(ids), "low": min(ids), "high": max(ids), "lease_s": 30, "is_its_turn": False}
    return explain(outcomes._CLAIM, values)


def record(ids):
    claims = [Claim(delivery_id, 1, None, 2, 2, 0, 1, 0) for delivery_id in ids]
    with connection.cursor() as cursor:
        cursor.execute("UPDATE delivery SET status = 2 WHERE id = ANY(%s)", [ids])
    return explain(
        outcomes._RECORD, outcomes._fenced_columns([Outcome(one, Status.SENT, has_tried=True) for one in claims])
    )


def apply_receipts(ids):
    with connection.cursor() as cursor:
        cursor.execute("UPDATE delivery SET status = 3 WHERE id = ANY(%s)", [ids])
    values = {
        "ids": ids,
        "times": [datetime.now(UTC)] * len(ids),
        "codes": [""] * len(ids),
        "message_ids": ["m"] * len(ids),
        "sources": [int(Status.SENT)],
        "target": int(Status.DELIVERED),
        "reason": 0,
    }
    return explain(outcomes._APPLY, values)


def revive(ids):
    with connection.cursor() as cursor:
        cursor.execute("UPDATE delivery SET status = 11 WHERE id = ANY(%s)", [ids])
    return explain(outcomes._REVIVE, {"ids": ids, "rate": 10.0, "start": 0, "reason": 0})


@pytest.mark.parametrize("run", [claim, record, apply_receipts, revive], ids=lambda run: run.__name__)
def test_each_row_is_met_once(fresh_ids, run):
    plan = run(fresh_ids)
    assert f"rows={ROWS}" in plan
    assert "Rows Removed by Join Filter" not in plan
    assert f"loops={ROWS}" not in plan
    assert "Seq Scan" not in plan

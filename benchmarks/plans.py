"""How PostgreSQL goes about the hot queries: each is run as the platform runs it, its statements are explained."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from unittest import mock

import psycopg
from django.db import transaction

from apps.channels import Channel
from apps.delivery import dead_letters, doorbell, ranges, receipts, selectors, sweep
from apps.delivery.broadcasts import claiming, progress
from apps.delivery.broadcasts.selectors import id_range
from apps.delivery.dead_letters import DeadLetterFilter
from apps.delivery.keys import Key, find_answers
from apps.delivery.outcomes import Outcome, ReceiptFact, apply_receipts, claim_deliveries, record_outcomes
from apps.delivery.selectors import NotificationFilter
from apps.delivery.statuses import Status
from apps.providers.messages import ReceiptKind
from benchmarks.hot_log import HotLog

_PARTITION = re.compile(r"^(notification|delivery|attempt)_\d{8}$")
_DAY = re.compile(r"_\d{8}")
_GROWING = ("idempotency_key", "receipt_event", "broadcast_chunk")
_VERBS = ("SELECT", "WITH", "INSERT", "UPDATE", "DELETE")
FEW_ROWS = 1_000  # reading a table of so few from end to end is the best one can do


@dataclass(frozen=True, slots=True)
class HotQuery:
    """``run`` is what the platform calls; ``partitions`` how many of one table's it may read, ``None`` for all: there
    is work for whoever was accepted on any day."""

    name: str
    run: Callable[[HotLog], object]
    partitions: int | None = 1


@dataclass(slots=True)
class Statement:
    """A statement with its plan, as ``EXPLAIN (ANALYZE, FORMAT JSON)`` has it."""

    sql: str
    plan: dict[str, Any] = field(default_factory=dict)
    ms: float = 0.0

    def nodes(self) -> Iterator[dict[str, Any]]:
        """Those that were run at least once."""
        waiting = [self.plan]
        while waiting:
            node = waiting.pop()
            waiting += node.get("Plans", [])
            if node.get("Actual Loops", 1):
                yield node

    def sequential(self) -> set[str]:
        """Tables of the log that grow, of which many rows were read from end to end."""
        return {
            node["Relation Name"]
            for node in self.nodes()
            if node["Node Type"].endswith("Seq Scan")
            and is_growing(node["Relation Name"])
            and node["Actual Rows"] + node.get("Rows Removed by Filter", 0) > FEW_ROWS
        }

    def discarded(self) -> int:
        """Rows of growing tables that were read and found to be none of those that were asked for, and pairs of rows
        that were compared and found not to belong together."""
        filtered = sum(
            node.get("Rows Removed by Filter", 0) * node["Actual Loops"]
            for node in self.nodes()
            if is_growing(node.get("Relation Name", ""))
        )
        compared = sum(node.get("Rows Removed by Join Filter", 0) * node["Actual Loops"] for node in self.nodes())
        return round(filtered + compared)

    def partitions(self) -> dict[str, set[str]]:
        """The partitions read or written to, by table."""
        touched: dict[str, set[str]] = {}
        for node in self.nodes():
            if found := _PARTITION.match(node.get("Relation Name", "")):
                touched.setdefault(found[1], set()).add(found[0])
        return touched

    def summary(self) -> str:
        """The nodes that read rows of growing tables, in short; partitions by their table's name."""
        parts = [
            f"{node['Node Type']} {_DAY.sub('', node.get('Index Name') or node['Relation Name'])}"
            for node in self.nodes()
            if is_growing(node.get("Relation Name", ""))
            and "Scan" in node["Node Type"]
            and (node["Actual Rows"] or node.get("Rows Removed by Filter"))
        ]
        return ", ".join(dict.fromkeys(parts)) or str(self.plan["Node Type"])


def is_growing(table: str) -> bool:
    return table in _GROWING or _PARTITION.match(table) is not None


def _record(log: HotLog) -> None:
    claims = claim_deliveries(log.queued, lease_s=30.0)
    record_outcomes([Outcome(c, Status.SENT, has_tried=True, provider_id=1, provider_message_id="m") for c in claims])


def _apply(log: HotLog) -> None:
    now = datetime.now(UTC)
    apply_receipts(ReceiptKind.DELIVERED, [ReceiptFact(id_, now, "", None) for id_ in log.sent])


def _list(log: HotLog, **wanted: Any) -> None:
    page = selectors.select_notification_page(log.client_id, NotificationFilter(**wanted))
    selectors.select_deliveries_of(page)


def _look_up(log: HotLog) -> None:
    selectors.select_notification(log.client_id, log.notifications[0])
    selectors.select_deliveries(log.notifications[0])
    selectors.select_attempts(log.notifications[0])


def _is_complete(log: HotLog) -> object:
    return ranges.has_open(id_range(log.broadcast))


HOT_QUERIES = (
    HotQuery("claim 500 rows", lambda log: claim_deliveries(log.queued, lease_s=30.0), partitions=2),
    HotQuery("record 500 rows", _record, partitions=2),
    HotQuery("content of 500 rows", lambda log: selectors.select_notifications(log.notifications)),
    HotQuery("sweep", lambda log: sweep.sweep(), partitions=None),
    HotQuery("queue ages", lambda log: selectors.queue_ages(), partitions=None),
    HotQuery("apply 500 receipts", _apply),
    HotQuery("pending receipts", lambda log: receipts.apply_pending(), partitions=2),
    HotQuery(
        "claim a chunk",
        lambda log: claiming.claim_chunk(Channel.PUSH, now=datetime.now(UTC), lease_s=30.0),
        partitions=0,
    ),
    HotQuery("progress of a broadcast", lambda log: progress.progress(log.broadcast)),
    HotQuery("is a broadcast complete", _is_complete),
    HotQuery(
        "idempotency key", lambda log: find_answers([Key(log.client_id, str(log.notifications[0]))]), partitions=0
    ),
    HotQuery("list page", lambda log: _list(log), partitions=None),
    HotQuery("list page of a person", lambda log: _list(log, user_id="hot-1"), partitions=None),
    HotQuery("one notification", _look_up),
    HotQuery(
        "dead letters",
        lambda log: dead_letters.select_dead_letters(DeadLetterFilter(client_id=log.client_id), limit=50),
        partitions=None,
    ),
)


def explain(query: HotQuery, log: HotLog) -> list[Statement]:
    """Runs it and takes it back, with each of its statements explained as it is run."""
    with transaction.atomic():
        with _explaining() as statements, mock.patch.object(doorbell, "_publish", return_value=True):
            query.run(log)
        transaction.set_rollback(True)
    return statements


@contextmanager
def _explaining() -> Iterator[list[Statement]]:
    """Each statement on the log is explained right before it is run, in a savepoint that is taken back: it finds what
    the ones before it have left. All cursors are psycopg's in the end, Django's too."""
    statements: list[Statement] = []
    execute = psycopg.Cursor.execute

    def explain_first(cursor: Any, sql: Any, params: Any = None, **options: Any) -> Any:
        text = sql if isinstance(sql, str) else ""
        if text.lstrip().startswith(_VERBS) and re.search(
            r"\b(notification|delivery|attempt|receipt_event|"
            r"idempotency_key|broadcast_chunk)\b",
            text,
        ):
            statements.append(_explain(cursor.connection, execute, text, params))
        return execute(cursor, sql, params, **options)

    with mock.patch.object(psycopg.Cursor, "execute", explain_first):
        yield statements


def _explain(link: Any, execute: Callable[..., Any], sql: str, params: Any) -> Statement:
    with psycopg.ClientCursor(link) as cursor:
        execute(cursor, "SAVEPOINT explaining")
        execute(cursor, f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}", params)
        (found,) = cursor.fetchone() or ([{}],)
        execute(cursor, "ROLLBACK TO SAVEPOINT explaining")
        execute(cursor, "RELEASE SAVEPOINT explaining")
    (tree,) = json.loads(found) if isinstance(found, str) else found
    return Statement(sql, tree["Plan"], tree["Planning Time"] + tree["Execution Time"])

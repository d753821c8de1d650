"""What a broadcast would do, before it is made: how many people match, and what would be decided about some of them.

Every question to the database has a time limit. Where it runs out, an estimate from a part of the table stands in, or
the planner's, and says so.
"""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from django.db import connection, transaction
from django.db.utils import OperationalError
from psycopg.errors import QueryCanceled

from apps.channels import Channel
from apps.delivery.broadcasts.audience import Audience, Query, Upload, compile_audience
from apps.delivery.broadcasts.models import AudienceUpload
from apps.preferences import policy
from apps.preferences.categories import CategoryRules
from apps.preferences.selectors import RecipientSnapshot, load_snapshots, select_versions

SAMPLE: Final = 500
BUDGET_S: Final = 0.6  # for counting and sampling together
_COUNT_SHARE: Final = 0.5
_SORTED_MAX: Final = 20_000  # up to so many are put into a random order; of more a part of the table is read
_ESTIMATE_ROWS: Final = 20_000  # as many rows are read for an estimate
_TELLING: Final = 30  # so many matches among them say more than the planner's statistics
_SHORTEST_MS: Final = 10
_TABLE: Final = "preferences_recipient r"
_SAMPLED: Final = f"{_TABLE} TABLESAMPLE SYSTEM (%s)"


@dataclass(frozen=True, slots=True)
class Figure:
    """A number of people, counted or estimated."""

    count: int
    is_estimate: bool = False


@dataclass(frozen=True, slots=True)
class DecisionCount:
    """How many people of the sample get this decision, and why."""

    action: str
    reason: str
    people: int


@dataclass(frozen=True, slots=True)
class ChannelPreview:
    """``matching`` people are in the audience as seen from the channel; ``reachable`` are those of them who would be
    sent something, at once or later: ``None`` if nobody could be looked at in time."""

    matching: Figure
    reachable: Figure | None
    sample: int
    decisions: list[DecisionCount] = field(default_factory=list)


def preview_audience(
    audience: Audience,
    channels: Sequence[Channel],
    category: CategoryRules,
    *,
    due: datetime,
    expires_at: datetime | None = None,
) -> dict[Channel, ChannelPreview]:
    """The preview on each channel, as if everything were sent at ``due`` (aware). Frequency caps are not looked at."""
    deadline = time.monotonic() + BUDGET_S
    matching: dict[str, Figure] = {}  # channels mostly see the same people: each query is asked once
    samples: dict[str, list[RecipientSnapshot]] = {}
    previews = {}
    for channel in channels:
        query = compile_audience(audience, channel)
        key = repr(query)
        if key not in matching:
            matching[key], user_ids = _choose_people(audience, query, deadline)
            samples[key] = _load(user_ids)
        decisions = Counter(
            _decide(snapshot, channel, category, due, expires_at) for snapshot in samples[key]
        ).most_common()
        previews[channel] = _summarise(matching[key], len(samples[key]), decisions)
    return previews


def _summarise(matching: Figure, sample: int, decisions: Sequence[tuple[tuple[str, str], int]]) -> ChannelPreview:
    counts = [DecisionCount(action, reason, people) for (action, reason), people in decisions]
    is_whole = not matching.is_estimate and sample == matching.count
    sent = sum(count.people for count in counts if count.action in ("send", "defer"))
    if is_whole:
        return ChannelPreview(matching, Figure(sent), sample, counts)
    reachable = Figure(round(matching.count * sent / sample), is_estimate=True) if sample else None
    return ChannelPreview(matching, reachable, sample, counts)


def _decide(
    snapshot: RecipientSnapshot, channel: Channel, category: CategoryRules, due: datetime, expires_at: datetime | None
) -> tuple[str, str]:
    decision = policy.decide(snapshot, channel, category, due, expires_at=expires_at)
    if decision.not_before is not None and expires_at is not None and decision.not_before >= expires_at:
        return "expire", decision.reason.label
    return decision.action.label, decision.reason.label


def _choose_people(audience: Audience, query: Query, deadline: float) -> tuple[Figure, list[str]]:
    """How many match, and the user ids of some of them, taken from everywhere."""
    until = time.monotonic() + _COUNT_SHARE * (deadline - time.monotonic())
    rows = _ask(_select("count(*)", query.sql), query.params, until)
    if rows is None:
        return _estimate(audience, query, deadline)
    count = rows[0][0]
    if count == 0:
        return Figure(0), []
    table, params = _TABLE, query.params
    if count > _SORTED_MAX:
        if isinstance(audience, Upload):
            return Figure(count), _sample_upload(audience, deadline)
        # Some blocks of the table, with twice as many people as are wanted, as they are not alike.
        table, params = _SAMPLED, [200.0 * SAMPLE / count, *params]
    some = _select("r.user_id", query.sql, table) + _in_no_order()
    rows = _ask(some, params, deadline)
    return Figure(count), [user_id for (user_id,) in rows or ()]


def _estimate(audience: Audience, query: Query, deadline: float) -> tuple[Figure, list[str]]:
    if isinstance(audience, Upload):  # how many ids an array holds is not in the planner's statistics
        known = AudienceUpload.objects.filter(id=audience.id).values_list("known", flat=True).first()
        return Figure(known or 0, is_estimate=True), _sample_upload(audience, deadline)
    with connection.cursor() as cursor:
        cursor.execute("SELECT reltuples FROM pg_class WHERE oid = 'preferences_recipient'::regclass")
        total = max(1.0, cursor.fetchone()[0])
    rows = _ask(
        _select(f"count(*), array_agg(r.user_id ORDER BY hashint8(r.id)) FILTER (WHERE {query.sql})", "true", _SAMPLED),
        [*query.params, min(100.0, 100.0 * _ESTIMATE_ROWS / total)],
        deadline,
    )
    read, matches = rows[0] if rows else (0, None)
    if matches and len(matches) >= _TELLING:
        return Figure(round(total * len(matches) / read), is_estimate=True), matches[:SAMPLE]
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (FORMAT JSON) {_select('', query.sql)}", query.params)
        count = int(cursor.fetchone()[0][0]["Plan"]["Plan Rows"])
    found = matches or []
    if read:  # the rule of three: what shows up in none of n is, 19 times in 20, rarer than 3 in n
        count = min(count, round(total * (len(found) + 3) / read))
    return Figure(count, is_estimate=True), found


def _sample_upload(audience: Upload, deadline: float) -> list[str]:
    """Some from the beginning of each part: a million ids would take too long to look up."""
    ids = "SELECT unnest(p.recipient_ids[1:200]) FROM audience_upload_part p WHERE p.upload_id = %s"
    rows = _ask(_select("r.user_id", f"r.id IN ({ids})") + _in_no_order(), [audience.id], deadline)
    return [user_id for (user_id,) in rows or ()]


def _select(what: str, condition: str, table: str = "") -> str:
    return f"SELECT {what} FROM {table or _TABLE} WHERE r.erased_at IS NULL AND {condition}"  # noqa: S608 - see audience


def _in_no_order() -> str:
    return f" ORDER BY hashint8(r.id) LIMIT {SAMPLE}"


def _load(user_ids: Sequence[str]) -> list[RecipientSnapshot]:
    versions = select_versions(user_ids)
    return list(load_snapshots({user_id: version for user_id, (_, version) in versions.items()}).values())


def _ask(sql: str, params: Sequence[Any], until: float) -> list[tuple[Any, ...]] | None:
    """The rows; ``None`` if there were none by ``until`` (of the monotonic clock)."""
    limit_ms = int((until - time.monotonic()) * 1000)
    if limit_ms < _SHORTEST_MS:
        return None
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('statement_timeout')")
            usual = cursor.fetchone()[0]
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", [str(limit_ms)])
            cursor.execute(sql, params)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            cursor.execute("SELECT set_config('statement_timeout', %s, true)", [usual])
    except OperationalError as error:
        if isinstance(error.__cause__, QueryCanceled):
            return None
        raise
    return rows

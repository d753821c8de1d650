"""Accepting notifications, one or a thousand: decide per channel, write everything in one statement, ring.

Nothing is half-written: idempotency keys, notifications and deliveries go into the database in a single statement, and
an order that fails writes nothing. Once the statement has returned the notification is never lost, whatever happens to
the broker.

Most orders take one round trip to PostgreSQL: they are decided by the cached snapshot of the recipient, and the
statement writes them only if that is the recipient's latest version and the key is new. What it leaves out is looked at
again, with what PostgreSQL says.
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import structlog
from django.db import connection
from django.db.utils import DatabaseError

from apps import metrics
from apps.channels import Channel, Lane
from apps.delivery.doorbell import is_crowded, ring_deliveries
from apps.delivery.drafting import Draft, draft_all
from apps.delivery.grouping import Grouping, alone_after_failure
from apps.delivery.keys import (
    Key,
    KeyBusyError,
    find_answers,
    is_key_in_progress,
    key_in_progress,
    key_of,
    key_reused,
    write_drafts,
)
from apps.delivery.orders import Answer, Order, fingerprint_of
from apps.delivery.statuses import Status
from apps.delivery.sweep import ring_soon
from apps.delivery.wording import reason_label
from apps.preferences.selectors import load_snapshots, peek_snapshots, select_versions
from apps.problems import Problem

__all__ = ["Answer", "Order", "accept", "accept_all", "fingerprint_of"]

NAMED_NOTIFICATIONS = 10  # so many have a line each in the log
log = structlog.get_logger("notify.delivery.intake")


def accept(order: Order, *, now: datetime) -> Answer:
    """Accepts a notification or raises a ``Problem``; ``now`` is aware. With the same key and body it answers what it
    answered before."""
    # Whoever has a transaction open means to write within it.
    outcome = None if connection.in_atomic_block else _grouping.run((order, now))
    if outcome is None:
        (outcome,) = _accept_together([order], now)
    if outcome.written is not None:
        _tell([outcome.written])
    if isinstance(outcome.result, Problem):
        raise outcome.result
    return outcome.result


def accept_all(orders: Sequence[Order], *, now: datetime) -> list[Answer | Problem]:
    """The same for many, each on its own: a result for each, in their order. Orders of one key are taken one after the
    other. Raises only if the database is dead; nothing is written then."""
    outcomes = _accept_together(orders, now)
    _tell([outcome.written for outcome in outcomes if outcome.written is not None])
    return [outcome.result for outcome in outcomes]


class _Outcome(NamedTuple):
    result: Answer | Problem
    written: Draft | None


def _accept_together(orders: Sequence[Order], now: datetime) -> list[_Outcome]:
    book = _Book(orders, _find_unrung(orders))
    drafts = book.draft_from_cache(now)
    book.write(drafts, is_checked=True)
    book.answer_repeated(drafts)
    if book.open_places():
        book.write(book.draft_afresh(now), is_checked=False)
        book.answer_repeated(book.open_places())
    _announce(book, now)
    return book.outcomes()


@alone_after_failure
def _accept_calls(calls: Sequence[tuple[Order, datetime]]) -> Sequence[_Outcome | None]:
    """Accepts what several calls asked for at the same time; None for whoever has to try alone."""
    orders, moments = zip(*calls, strict=True)
    outcomes = _accept_together(orders, max(moments))
    if len(calls) == 1:
        return outcomes
    return [None if is_key_in_progress(outcome.result) else outcome for outcome in outcomes]


# As many as there are threads at most. In an idle process nobody is ever in the way of anybody.
_grouping = Grouping(_accept_calls, max_size=64, patience_s=0.05)


def _find_unrung(orders: Sequence[Order]) -> set[tuple[Channel, Lane]]:
    lanes = {order.lane for order in orders}
    return {(channel, lane) for lane in lanes for channel in Channel if is_crowded(channel, lane)}


class _Book:
    """The orders of one call and what became of each, by their places."""

    def __init__(self, orders: Sequence[Order], unrung: Collection[tuple[Channel, Lane]]) -> None:
        self._orders = orders
        self.unrung = unrung  # queues that are the sweep's to ring for
        self._results: dict[int, Answer | Problem] = {}
        self._refusals: dict[int, Problem] = {}  # they count once it is known that the key is new
        self._written: dict[int, Draft] = {}

    def open_places(self) -> list[int]:
        return [place for place in range(len(self._orders)) if place not in self._results]

    @property
    def written(self) -> list[Draft]:
        return list(self._written.values())

    def outcomes(self) -> list[_Outcome]:
        """One for each order. Of a key that is neither free nor known, somebody is just taking back the use."""
        return [
            _Outcome(self._results.get(place) or key_in_progress(), self._written.get(place))
            for place in range(len(self._orders))
        ]

    def draft_from_cache(self, now: datetime) -> dict[int, Draft]:
        """Those that can be decided without asking PostgreSQL first."""
        snapshots = peek_snapshots({order.user_id for order in self._orders if not order.is_dry_run})
        places = [
            place for place, order in enumerate(self._orders) if not order.is_dry_run and order.user_id in snapshots
        ]
        drafts = draft_all([self._orders[place] for place in places], snapshots, now)
        return {place: draft for place, draft in zip(places, drafts, strict=True) if isinstance(draft, Draft)}

    def draft_afresh(self, now: datetime) -> dict[int, Draft]:
        """The open ones, decided by what PostgreSQL says now."""
        places = self.open_places()
        orders = [self._orders[place] for place in places]
        versions = select_versions(list({order.user_id for order in orders}))
        snapshots = load_snapshots({user_id: version for user_id, (_, version) in versions.items()})
        drafts: dict[int, Draft] = {}
        for place, draft in zip(places, draft_all(orders, snapshots, now), strict=True):
            if isinstance(draft, Problem):
                self._refusals[place] = draft
            elif draft.order.is_dry_run:
                self._results[place] = Answer(draft.body)
            else:
                drafts[place] = draft
        return drafts

    def write(self, drafts: Mapping[int, Draft], *, is_checked: bool) -> None:
        """Writes the first of each key, as far as the key is new."""
        firsts: dict[Key, int] = {}
        for place, draft in drafts.items():
            firsts.setdefault(key_of(draft.order), place)
        try:
            written = write_drafts(
                [drafts[place] for place in firsts.values()], is_checked=is_checked, unrung=self.unrung
            )
        except KeyBusyError:
            self._results |= {place: key_in_progress() for place in drafts}
            return
        for key in written:
            place = firsts[key]
            self._written[place] = drafts[place]
            self._results[place] = Answer(drafts[place].body)

    def answer_repeated(self, places: Iterable[int]) -> None:
        """Answers those whose key was used before, and refuses those that were to be refused."""
        wanted = [place for place in places if place not in self._results]
        orders = {place: self._orders[place] for place in wanted}
        stored = find_answers([key_of(order) for order in orders.values() if not order.is_dry_run])
        for place, order in orders.items():
            answer = None if order.is_dry_run else stored.get(key_of(order))
            if answer is not None:
                is_same = answer.fingerprint == order.fingerprint
                self._results[place] = Answer(answer.body, is_replay=True) if is_same else key_reused()
            elif place in self._refusals:
                self._results[place] = self._refusals[place]


def _announce(book: _Book, now: datetime) -> None:
    """Rings for what is due now, and counts."""
    drafts = book.written
    due = [
        (delivery_id, int(item.channel), int(draft.order.lane))
        for draft in drafts
        for delivery_id, item in zip(draft.ids, draft.deliveries, strict=True)
        if item.status is Status.QUEUED
        and (item.not_before is None or item.not_before <= now)
        and (item.channel, draft.order.lane) not in book.unrung
    ]
    if due and not ring_deliveries(due):
        _ask_sweep([delivery_id for delivery_id, _, _ in due])
    _count(drafts)


def _tell(drafts: Sequence[Draft]) -> None:
    if not log.is_enabled_for(logging.INFO):
        return
    if len(drafts) <= NAMED_NOTIFICATIONS:
        for draft in drafts:
            log.info("accepted", trace_id=draft.order.trace_id, **_describe(draft))
    else:
        log.info("accepted", **_summarise(drafts))


def _describe(draft: Draft) -> dict[str, Any]:
    return {
        "notification_id": str(draft.notification_id),
        "client_id": draft.order.client_id,
        "lane": draft.order.lane.label,
        "deliveries": [
            f"{item.channel.label}:{reason_label(item.reason) or item.status.label}" for item in draft.deliveries
        ],
    }


def _summarise(drafts: Sequence[Draft]) -> dict[str, Any]:
    """One line for many: their ids lie between the first and the last but for what others got at the same time."""
    ids = [draft.notification_id for draft in drafts]
    return {
        "n": len(drafts),
        "client_id": drafts[0].order.client_id,
        "first_notification_id": str(min(ids)),
        "last_notification_id": str(max(ids)),
        "trace_ids": sorted({draft.order.trace_id for draft in drafts}),
    }


def _count(drafts: Sequence[Draft]) -> None:
    counts = Counter(
        (item.channel, item.status, item.reason, draft.order.lane) for draft in drafts for item in draft.deliveries
    )
    for (channel, status, reason, lane), count in counts.items():
        metrics.accepted(channel.label, lane.label, count)
        if status is not Status.QUEUED:
            metrics.deliveries(status.label, channel.label, lane.label, "", count)
        if status is Status.SUPPRESSED:
            metrics.suppressed(reason_label(reason) or "", channel.label, count)


def _ask_sweep(ids: Sequence[UUID]) -> None:
    try:
        ring_soon(ids)
    except DatabaseError as error:  # it was accepted; the sweep finds it after the grace period
        log.warning("sweep_not_asked", error=type(error).__name__)

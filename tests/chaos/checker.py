"""Joins the ledgers: what the client was promised, what the database says, what the providers took on.

Pure: no I/O. One *delivery* is what is counted throughout, as one notification may have several.

- *lost*: promised, but no provider took it and no end that says why is on record. Whether its row is gone, waits for
  ever or claims to have been sent makes no difference to the person who did not get it.
- *stuck*: not in a terminal status although the time to settle is over.
- *duplicate*: every time beyond the first that a provider took a delivery.
- *refused*: ended without having been sent for a reason other than ``dead``; no scenario's people give one.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from apps.delivery.statuses import OPEN_STATUSES, Status
from tests.chaos.ledger import Accepted, Answer, GivenUp

SENT = frozenset({Status.SENT, Status.DELIVERED})
REFUSED = frozenset({Status.FAILED, Status.BOUNCED, Status.SUPPRESSED, Status.EXPIRED, Status.CANCELLED})
ACCEPTED = frozenset({202, 207})  # answers
EXPLAINED = REFUSED | {Status.DEAD, Status.UNKNOWN}


class Fault(NamedTuple):
    """From when to when something was broken (Unix seconds). It ends when the broken part takes connections again."""

    name: str
    began_at: float
    ended_at: float


class ProviderAccept(NamedTuple):
    """A line of the sandbox's ledger; ``at`` is Unix seconds."""

    delivery_id: str
    at: float
    provider: str


class Evidence(NamedTuple):
    """All there is to judge by. ``rows`` is the database's status of every delivery id; ``promised_elsewhere`` are
    delivery ids that were accepted otherwise than by a call of the client (broadcasts); ``in_flight`` those that were
    being sent when something was killed, and wait for their lease to run out."""

    accepted: Sequence[Accepted]
    given_up: Sequence[GivenUp]
    answers: Sequence[Answer]
    rows: Mapping[str, int]
    accepts: Sequence[ProviderAccept]
    faults: Sequence[Fault]
    promised_elsewhere: frozenset[str] = frozenset()
    in_flight: frozenset[str] = frozenset()


class Latency(msgspec.Struct, frozen=True):
    """Of a set of answers, in ms."""

    count: int
    p50: float
    p99: float
    max: float


class Recovery(msgspec.Struct, frozen=True):
    """Seconds from the end of a fault: until a notification accepted after it reached a provider, until the last one
    accepted before its end did, and the last one that was in flight. ``None``: that did not happen, or there was
    nothing to wait for. ``watched_s`` is until the next fault, ``None`` if it was the last."""

    fault: str
    watched_s: float | None
    first_new_s: float | None
    backlog_s: float | None
    in_flight_s: float | None


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What the evidence says. ``accepted`` counts notifications, broadcast deliveries included one by one."""

    accepted: int
    deliveries: int
    lost: int
    stuck: int
    duplicates: int
    dead: int
    refused: int
    unknown: int
    accept_errors: int
    misordered: int
    strangers: int
    statuses: dict[str, int]
    overall: Latency | None
    during_fault: Latency | None
    refusals_during_fault: Latency | None
    errors_during_fault: dict[str, int]
    recoveries: tuple[Recovery, ...]
    examples: dict[str, list[str]]


def check(evidence: Evidence) -> Tally:
    """Counts. ``strangers`` are deliveries a provider took that nobody was promised: of a request whose 202 was lost on
    the way, and that was given up."""
    promised = {one for record in evidence.accepted for one in record.delivery_ids} | evidence.promised_elsewhere
    taken = Counter(accept.delivery_id for accept in evidence.accepts)
    status_of = {one: evidence.rows.get(one) for one in promised}
    lost = [one for one, status in status_of.items() if not taken[one] and status not in EXPLAINED]
    stuck = [one for one, status in status_of.items() if status is None or status in OPEN_STATUSES]
    doubled = [one for one in promised if taken[one] > 1]
    misordered = find_misordered(evidence.accepted, evidence.accepts)
    during = [answer for answer in evidence.answers if is_within(answer.at, evidence.faults)]
    of_status = Counter("missing" if status is None else Status(status).label for status in status_of.values())
    return Tally(
        accepted=len(evidence.accepted) + len(evidence.promised_elsewhere),
        deliveries=len(promised),
        lost=len(lost),
        stuck=len(stuck),
        duplicates=sum(taken[one] - 1 for one in doubled),
        dead=of_status[Status.DEAD.label],
        refused=sum(of_status[status.label] for status in REFUSED),
        unknown=of_status[Status.UNKNOWN.label],
        accept_errors=len(evidence.given_up),
        misordered=len(misordered),
        strangers=len(taken.keys() - promised),
        statuses=dict(of_status),
        overall=measure(answer for answer in evidence.answers if answer.status in ACCEPTED),
        during_fault=measure(answer for answer in during if answer.status in ACCEPTED),
        refusals_during_fault=measure(answer for answer in during if answer.status not in ACCEPTED),
        errors_during_fault=dict(Counter(str(answer.status) for answer in during if answer.status not in ACCEPTED)),
        recoveries=tuple(recover(evidence, fault) for fault in evidence.faults),
        examples={"lost": lost[:5], "stuck": stuck[:5], "doubled": doubled[:5], "misordered": misordered[:5]},
    )


def is_within(moment: float, faults: Iterable[Fault]) -> bool:
    return any(fault.began_at <= moment <= fault.ended_at for fault in faults)


def measure(answers: Iterable[Answer]) -> Latency | None:
    """``None`` if there are no answers."""
    ms = sorted(answer.latency_s * 1000 for answer in answers)
    if not ms:
        return None
    return Latency(len(ms), round(percentile(ms, 0.5), 1), round(percentile(ms, 0.99), 1), round(ms[-1], 1))


def percentile(ordered: Sequence[float], share: float) -> float:
    """Nearest rank."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def recover(evidence: Evidence, fault: Fault) -> Recovery:
    """How long after its end a fault was felt."""
    first_taken: dict[str, float] = {}
    for accept in evidence.accepts:
        first_taken[accept.delivery_id] = min(accept.at, first_taken.get(accept.delivery_id, accept.at))
    later = [one.began_at for one in evidence.faults if one.began_at > fault.ended_at]
    watched_s = min(later) - fault.ended_at if later else None
    new: list[float] = []
    backlog: list[float] = []
    in_flight: list[float] = []
    for record in evidence.accepted:
        for one in record.delivery_ids:
            after_s = first_taken.get(one, 0.0) - fault.ended_at
            if (
                not 0 < after_s < (watched_s or float("inf"))
            ):  # what is left when the next fault begins is that one's backlog
                continue
            if record.at > fault.ended_at:
                new.append(after_s)
            else:
                (in_flight if one in evidence.in_flight else backlog).append(after_s)
    return Recovery(fault.name, watched_s, _rounded(new, min), _rounded(backlog, max), _rounded(in_flight, max))


def _rounded(seconds: Sequence[float], choose: Callable[[Sequence[float]], float]) -> float | None:
    return round(choose(seconds), 2) if seconds else None


def find_misordered(accepted: Iterable[Accepted], accepts: Iterable[ProviderAccept]) -> list[str]:
    """Delivery ids that a provider took (for the first time) after a later one of their stream."""
    place_of = {
        one: (record.stream, record.place) for record in accepted if record.stream for one in record.delivery_ids
    }
    reached: dict[str, int] = defaultdict(lambda: -1)
    seen: set[str] = set()
    late = []
    for accept in accepts:
        if accept.delivery_id not in place_of or accept.delivery_id in seen:
            continue
        seen.add(accept.delivery_id)
        stream, place = place_of[accept.delivery_id]
        if place < reached[stream]:
            late.append(accept.delivery_id)
        reached[stream] = max(reached[stream], place)
    return late

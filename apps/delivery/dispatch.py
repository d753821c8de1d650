"""Sending a batch of deliveries: claim, prepare, call the providers, record.

No transaction is open while a provider is called. A worker that dies anywhere in here loses nothing: its rows' leases
run out and the sweep rings for them again.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import UUID

import structlog
from django.conf import settings
from django.db.utils import InterfaceError, OperationalError
from psycopg_pool import PoolTimeout
from structlog.contextvars import bound_contextvars

from apps.channels import Channel, Lane
from apps.delivery import ordering
from apps.delivery.doorbell import ring_deliveries
from apps.delivery.hygiene import retire_addresses
from apps.delivery.mishaps import put_back
from apps.delivery.outcomes import Claim, claim_deliveries, claim_next
from apps.delivery.preparation import dead, load_sources, prepare
from apps.delivery.recording import record
from apps.delivery.sending import Sending
from apps.delivery.sources import Source, SourceKey
from apps.trace import bind_trace
from apps.yielding import note_urgent

NAMED_DELIVERIES = 10
SUSPECT_LAPSES = 2  # a row whose worker died this often is tried alone: it, or one beside it, may be what kills
MAX_LAPSES = 10  # a row whose worker died this often is what kills them
FOLLOW_S = 0.25  # longer would keep the thread from what is rung for meanwhile
log = structlog.get_logger("notify.delivery.dispatch")


def deliver(ids: Sequence[UUID]) -> None:
    """Sends those of ``ids`` that are due and nobody else's; then, for ``FOLLOW_S``, who comes next in their lines.
    Raises only if the database is dead."""
    until = time.monotonic() + FOLLOW_S
    claims = claim_deliveries(ids, lease_s=settings.DELIVERY_LEASE_S)
    while claims:
        lanes = {claim.lane for claim in claims}
        with ordering.stepping_forward() as found:
            _deliver(claims)
        is_late = time.monotonic() >= until
        ordering.ring_first([one for one in found if is_late or one.lane not in lanes])
        ours = [one for one in found if not is_late and one.lane in lanes]
        claims = claim_next(ours, lease_s=settings.DELIVERY_LEASE_S)


def _deliver(claims: Sequence[Claim]) -> None:
    killers = [claim for claim in claims if claim.lapses >= MAX_LAPSES]
    if killers:  # before anything of theirs is loaded: that may be what kills
        record([dead(claim, f"{MAX_LAPSES} workers died over it") for claim in killers], {})
        claims = [claim for claim in claims if claim.lapses < MAX_LAPSES]
    suspects = [claim for claim in claims if claim.lapses >= SUSPECT_LAPSES]
    if suspects and len(claims) > 1:
        _try_alone(suspects)
        claims = [claim for claim in claims if claim.lapses < SUSPECT_LAPSES]
    if claims:
        _deliver_claimed(claims)


def _try_alone(claims: Sequence[Claim]) -> None:
    """Puts each back to be sent by itself at once. Rows that were together when their worker died are due together
    again: without this the one that kills would take the others along until all of them count as killers."""
    record([put_back(claim, is_its_fault=False) for claim in claims], {})
    for claim in claims:
        ring_deliveries([(claim.id, claim.channel, claim.lane)])


def _deliver_claimed(claims: Sequence[Claim]) -> None:
    started, now = time.monotonic(), datetime.now(UTC)
    sending = Sending(read_at=now)
    sources: dict[SourceKey, Source] = {}
    try:
        sources = load_sources(claim.id for claim in claims)
        with name_batch(claims, sources.values()):
            log.info("claimed", n=len(claims))
            parcels, refused = prepare(claims, sources, now)
            sending.outcomes += refused
            sending.run(parcels)
            record(sending.outcomes, sources)
            retire_addresses(sending.dead_addresses)
        if _is_urgent(claims) and sending.called_s:
            note_urgent(Channel(claims[0].channel).label, time.monotonic() - started - sending.called_s)
    except Exception as error:
        _rescue(claims, sending, sources, error)


def _is_urgent(claims: Sequence[Claim]) -> bool:
    return len(claims) == 1 and claims[0].lane == Lane.HIGH


def _rescue(claims: Sequence[Claim], sending: Sending, sources: Mapping[SourceKey, Source], error: Exception) -> None:
    """After something broke: what providers answered is recorded all the same, the rest goes back. A database that is
    away is nobody's fault. A bug of ours costs the row an attempt if it was alone; in a batch each row is tried on its
    own next, so that the one that hurts does not take the others along."""
    is_outage = isinstance(error, OperationalError | InterfaceError | PoolTimeout)
    log.error("dispatch_failed", n=len(claims), is_outage=is_outage, exc_info=error)
    settled = {outcome.claim.id for outcome in sending.outcomes}
    rest = [claim for claim in claims if claim.id not in settled]
    is_alone = len(claims) == 1 and not is_outage
    record([*sending.outcomes, *(put_back(claim, is_its_fault=is_alone) for claim in rest)], sources)
    retire_addresses(sending.dead_addresses)
    if not is_outage and not is_alone:
        for claim in rest:
            ring_deliveries([(claim.id, claim.channel, claim.lane)])


@contextmanager
def name_batch(claims: Sequence[Claim], sources: Iterable[Source]) -> Iterator[None]:
    """Within the block every log line, the provider call's included, carries the trace ids of the batch, so that one
    of them finds the whole story; a small batch's lines carry the delivery ids as well."""
    traces = sorted({source.trace_id for source in sources})
    names: dict[str, list[str]] = {} if len(traces) == 1 else {"trace_ids": traces}
    if len(claims) <= NAMED_DELIVERIES:
        names["delivery_ids"] = [str(claim.id) for claim in claims]
    with bind_trace(traces[0] if len(traces) == 1 else ""), bound_contextvars(**names):
        yield

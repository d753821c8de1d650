"""Sending a chunk: read its recipients afresh, decide, call the providers, and write everything down at once.

A worker that dies anywhere before the end has written nothing: the chunk's lease runs out and somebody else takes it.
What no provider could be given stays in the chunk, so that a throttled provider does not turn a broadcast into rows
that wait; what failed or was put off becomes an ordinary row, and the sweep's."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import structlog
from django.conf import settings
from django.db import connection
from django.db.utils import InterfaceError, OperationalError
from psycopg_pool import PoolTimeout

from apps.channels import Channel, Lane
from apps.delivery.broadcasts.claiming import Chunk
from apps.delivery.broadcasts.ending import Ending, bisect_chunk, count_outcomes, end_chunk
from apps.delivery.broadcasts.selectors import select_sources
from apps.delivery.dispatch import name_batch
from apps.delivery.hygiene import retire_addresses
from apps.delivery.ids import broadcast_address_id, broadcast_id_base
from apps.delivery.outcomes import Claim, Outcome
from apps.delivery.preparation import Candidate, dead, sift
from apps.delivery.recording import RETRY_S, report
from apps.delivery.sending import Sending
from apps.delivery.sources import Source, Standing
from apps.delivery.statuses import Reason, Status
from apps.preferences.loading_by_id import load_snapshots_by_id
from apps.preferences.snapshots import RecipientSnapshot
from apps.yielding import yielding

MAX_LAPSES = 10  # a chunk over which workers died, or stumbled, so often is cut in two
UNAVAILABLE_S = 1.0  # at least so long a chunk rests that no provider could be given
FAULT_S = 5.0
_OUTAGES = (OperationalError, InterfaceError, PoolTimeout)
log = structlog.get_logger("notify.delivery.broadcasts.chunks")


def deliver_chunk(chunk: Chunk) -> bool:
    """Sends a claimed chunk and records what became of it. Returns whether the next one is worth trying at once: not
    if there was no provider for this one. Raises only if the database is dead."""
    if chunk.lapses >= MAX_LAPSES:  # before anything of it is loaded: that may be what kills
        return _cut_poison(chunk)
    started = time.monotonic()
    now = datetime.now(UTC)
    sending = Sending(read_at=now)
    source: Source | None = None
    candidates: list[Candidate] = []
    try:
        source = select_sources([chunk.number]).get(chunk.number)
        if source is None or source.standing is not Standing.GOING:
            return _put_down(chunk)
        snapshots = load_snapshots_by_id(chunk.recipient_ids, chunk.channel)
        candidates = make_candidates(chunk, source, snapshots)
        with name_batch([candidate.claim for candidate in candidates], [source]), yielding():
            parcels, refused = sift(candidates, now)
            sending.outcomes += refused
            sending.run(parcels)
        ending = _end(chunk, candidates, sending.outcomes, now)
    except Exception as error:
        ending = _rescue(chunk, candidates, sending.outcomes, error)
    is_mine = _end_patiently(chunk, ending)
    if is_mine and source is not None:
        report(ending.outcomes, {chunk.number: source})
    retire_addresses(sending.dead_addresses)
    _log(chunk, ending, is_mine=is_mine, seconds=time.monotonic() - started)
    return not ending.rest


def make_candidates(chunk: Chunk, source: Source, snapshots: dict[int, RecipientSnapshot]) -> list[Candidate]:
    """What is to be decided about: for a push one for each device, otherwise one for each recipient; one without a
    device for a person who has none left, so that the log says so."""
    started_ms = round(chunk.started_at.timestamp() * 1000)
    base = broadcast_id_base(started_ms, chunk.number, int(chunk.channel))
    nobody = broadcast_id_base(started_ms, chunk.number, 0)
    channel, lane = int(chunk.channel), int(Lane.BULK)
    is_push = chunk.channel is Channel.PUSH
    candidates = []
    for recipient_id in chunk.recipient_ids:
        snapshot = snapshots.get(recipient_id)
        if is_push and snapshot is not None and snapshot.devices:
            for device in snapshot.devices:
                claim = Claim(broadcast_address_id(base, device.id), recipient_id, device.id, channel, lane, 0, 1, 0)
                candidates.append(Candidate(claim, source, snapshot))
        else:
            delivery_id = broadcast_address_id(nobody if is_push else base, recipient_id)
            claim = Claim(delivery_id, recipient_id, None, channel, lane, 0, 1, 0)
            candidates.append(Candidate(claim, source, snapshot))
    return candidates


def _end(chunk: Chunk, candidates: Sequence[Candidate], outcomes: Sequence[Outcome], now: datetime) -> Ending:
    """Everything is recorded, but for recipients whom no provider could be given: they stay in the chunk."""
    waiting = [outcome for outcome in outcomes if _is_untried(outcome)]
    if not waiting or _is_old(chunk, now):
        return Ending(outcomes)
    # A person with two devices of which one has had it is not to have it there again: the other becomes a row.
    begun = {outcome.claim.recipient_id for outcome in outcomes if not _is_untried(outcome)}
    rest = sorted({outcome.claim.recipient_id for outcome in waiting} - begun)
    kept = set(rest)
    delay_s = max(UNAVAILABLE_S, min(outcome.delay_s or 0.0 for outcome in waiting))
    return Ending([outcome for outcome in outcomes if outcome.claim.recipient_id not in kept], rest, delay_s)


def _is_untried(outcome: Outcome) -> bool:
    return outcome.status is Status.QUEUED and outcome.reason == Reason.PROVIDER_UNAVAILABLE and not outcome.has_tried


def _is_old(chunk: Chunk, now: datetime) -> bool:
    """Whether it has waited for a provider for longer than a row would: then rows it becomes, which give up."""
    return now - chunk.started_at > timedelta(seconds=settings.DELIVERY_MAX_AGE_S)


def _rescue(chunk: Chunk, candidates: Sequence[Candidate], outcomes: Sequence[Outcome], error: Exception) -> Ending:
    """After something broke: what providers answered is recorded all the same, the others stay in the chunk. A database
    that is away is nobody's fault."""
    is_outage = isinstance(error, _OUTAGES)
    log.error("chunk_failed", broadcast_id=str(chunk.broadcast_id), chunk=chunk.no, is_outage=is_outage, exc_info=error)
    settled = {outcome.claim.id for outcome in outcomes}
    begun = {outcome.claim.recipient_id for outcome in outcomes}
    half_done = [
        Outcome(candidate.claim, Status.QUEUED, Reason.RETRY_AFTER_FAILURE, delay_s=0.0)
        for candidate in candidates
        if candidate.claim.recipient_id in begun and candidate.claim.id not in settled
    ]
    rest = [recipient_id for recipient_id in chunk.recipient_ids if recipient_id not in begun]
    return Ending([*outcomes, *half_done], rest, 0.0 if is_outage else FAULT_S, is_its_fault=not is_outage)


def _put_down(chunk: Chunk) -> bool:
    """Its broadcast was paused, cancelled or removed since the claim."""
    end_chunk(chunk, Ending((), chunk.recipient_ids))
    return False


def _cut_poison(chunk: Chunk) -> bool:
    """Half of it is tried on its own next; who is alone in it is given up."""
    log.error("chunk_poisoned", broadcast_id=str(chunk.broadcast_id), chunk=chunk.no, n=len(chunk.recipient_ids))
    if len(chunk.recipient_ids) > 1:
        bisect_chunk(chunk, lapses=MAX_LAPSES - 1)
        return True
    base = broadcast_id_base(round(chunk.started_at.timestamp() * 1000), chunk.number, 0)
    why = f"{MAX_LAPSES} workers died over it"
    claims = [
        Claim(broadcast_address_id(base, recipient_id), recipient_id, None, int(chunk.channel), int(Lane.BULK), 0, 1, 0)
        for recipient_id in chunk.recipient_ids
    ]
    return _end_patiently(chunk, Ending([dead(claim, why) for claim in claims]))


def _end_patiently(chunk: Chunk, ending: Ending) -> bool:
    """Records although the database is away for a moment: the messages have left. Gives up well before the lease is
    over, as the chunk is somebody else's then."""
    deadline = time.monotonic() + settings.DELIVERY_LEASE_S / 2
    while True:
        try:
            return end_chunk(chunk, ending)
        except _OUTAGES as error:
            if time.monotonic() > deadline:
                raise
            log.warning("record_delayed", error=type(error).__name__, n=len(ending.outcomes))
            connection.close()
            time.sleep(RETRY_S)


def _log(chunk: Chunk, ending: Ending, *, is_mine: bool, seconds: float) -> None:
    log.info(
        "chunk_ended" if is_mine else "chunk_fenced_off",
        broadcast_id=str(chunk.broadcast_id),
        channel=chunk.channel.label,
        chunk=chunk.no,
        counts=dict(count_outcomes(ending.outcomes)),
        put_back=len(ending.rest),
        ms=round(seconds * 1000, 1),
    )

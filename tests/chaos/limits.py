"""What must hold in a scenario, and whether it did. Pure."""

from dataclasses import dataclass

import msgspec

from tests.chaos.checker import Tally

ANSWER_P99_MS = 1_000.0
RECOVERY_S = 15.0


class Kill(msgspec.Struct, frozen=True):
    """Something that may make a delivery go out twice, and how many it may at most: the rows that were in flight. A row
    is in flight from its claim until its outcome is recorded, that is while its status is ``sending`` (and, for a
    broadcast, the recipients of a claimed chunk). They are counted in the database right after the kill."""

    what: str
    at: float
    rows_in_flight: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of one scenario; lost, stuck, refused and misordered are 0 in all of them. ``dead`` and ``unknown``
    are how many deliveries may end so, ``None`` any number. ``answer_p99_ms`` holds while something is broken, and then
    every answer must be a 202 too; with ``refusal_p99_ms`` answers may also be 503, but as fast as that. ``recovery_s``
    holds after every fault, for what comes new and for the backlog; rows in flight wait for their lease."""

    dead: int | None = 0
    unknown: int | None = 0
    answer_p99_ms: float | None = None
    refusal_p99_ms: float | None = None
    recovery_s: float | None = None


def find_breaches(tally: Tally, kills: tuple[Kill, ...], limits: Limits) -> list[str]:
    """One sentence for every limit that was broken."""
    bounds: dict[str, tuple[float, float | None]] = {
        "lost": (tally.lost, 0),
        "stuck": (tally.stuck, 0),
        "refused": (tally.refused, 0),
        "misordered": (tally.misordered, 0),
        "accept errors": (tally.accept_errors, 0),
        "dead": (tally.dead, limits.dead),
        "unknown": (tally.unknown, limits.unknown),
        "duplicates": (tally.duplicates, sum(kill.rows_in_flight for kill in kills)),
    }
    if limits.answer_p99_ms is not None:
        during = tally.during_fault
        bounds["p99 of 202s while it was broken, ms"] = (during.p99 if during else float("inf"), limits.answer_p99_ms)
        bounds["other answers than 202 while it was broken"] = (sum(tally.errors_during_fault.values()), 0)
    if limits.refusal_p99_ms is not None:
        refusals = tally.refusals_during_fault
        bounds["p99 of 503s while it was broken, ms"] = (refusals.p99 if refusals else 0.0, limits.refusal_p99_ms)
        others = sum(count for status, count in tally.errors_during_fault.items() if status != "503")
        bounds["answers other than 202 and 503 while it was broken"] = (others, 0)
    if limits.recovery_s is not None:
        for recovery in tally.recoveries:
            first_s = recovery.first_new_s
            if first_s is None:  # unless the next fault came before anybody could say
                is_over = recovery.watched_s is None or recovery.watched_s > limits.recovery_s
                first_s = float("inf") if is_over else 0.0
            bounds[f"recovery after {recovery.fault}, s"] = (first_s, limits.recovery_s)
            bounds[f"backlog after {recovery.fault}, s"] = (recovery.backlog_s or 0.0, limits.recovery_s)
    breaches = [
        f"{name}: {value:g}, at most {bound:g}"
        for name, (value, bound) in bounds.items()
        if bound is not None and value > bound
    ]
    if tally.accepted == 0:
        breaches.append("nothing was accepted")
    return breaches

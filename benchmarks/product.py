"""The platform as a contestant: it is asked through its API, like anybody asks it, and watched from outside."""

import time
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from benchmarks.accounting import peak_bytes, reset_peaks
from benchmarks.contestants import TEXT, Run
from benchmarks.stage import Stage

PROVIDERS = {"push": "fcm", "email": "sendgrid"}
POLL_S = 0.25
TIMEOUT_S = 1_800.0


@dataclass(frozen=True, slots=True)
class Ordered:
    """A broadcast that was asked for: its id, and when (Unix time)."""

    id: str
    at: float


def order_broadcast(stage: Stage, first: int, last: int, channel: str = "push", **extra: Any) -> Ordered:
    """``POST /v1/broadcasts`` to the people numbered ``first`` to ``last``."""
    body = {
        "name": f"bench {last - first + 1} {channel}",
        "type": "news",
        "channels": [channel],
        "content": TEXT,
        "audience": {"filter": {"attribute": "bench", "at_least": first, "below": last + 1}},
        **extra,
    }
    at = time.time()
    answer = stage.call("POST", "/v1/broadcasts", json=body, headers={"X-Idempotency-Key": uuid.uuid4().hex})
    return Ordered(answer["id"], at)


def look_at(stage: Stage, broadcast_id: str) -> dict[str, Any]:
    found: dict[str, Any] = stage.call("GET", f"/v1/broadcasts/{broadcast_id}")
    return found


def wait_for_end(stage: Stage, ordered: Ordered, *, is_gentle: bool = False) -> dict[str, Any]:
    """Polls until it is completed; raises if it stops otherwise. ``is_gentle`` looks less often."""
    deadline = time.time() + TIMEOUT_S
    while (found := look_at(stage, ordered.id))["state"] != "completed":
        if found["state"] in {"halted", "paused", "cancelled"} or time.time() > deadline:
            raise RuntimeError(f"the broadcast did not end: {found}")
        time.sleep(POLL_S * (4 if is_gentle else 1))
    return found


def recorded_at(stage: Stage, broadcast_id: str) -> float:
    """When its last delivery had been recorded (Unix time): ``completed`` is noticed a moment later."""
    query = (
        "SELECT max(c.done_at) FROM broadcast_chunk c JOIN broadcast b ON b.number = c.broadcast_number WHERE b.id = %s"
    )
    with stage.connect() as connection:
        row = connection.execute(query, [broadcast_id]).fetchone()
    moment = row[0] if row else None
    assert isinstance(moment, datetime)
    return moment.timestamp()


def run_product(stage: Stage, count: int, channel: str = "push", **extra: Any) -> Run:
    """From the POST until every delivery is recorded."""
    provider = PROVIDERS[channel]
    stage.checkpoint()
    accepted, before = stage.accepted(provider), stage.counters()
    reset_peaks(stage.worker_pids())
    meter = stage.meter()
    ordered = order_broadcast(stage, 1, count, channel, **extra)
    found = wait_for_end(stage, ordered, is_gentle=count > 20_000)
    usage = meter.read()
    peaks = peak_bytes(stage.worker_pids())
    seconds = recorded_at(stage, ordered.id) - ordered.at
    sent, deliveries = stage.accepted(provider) - accepted, found["progress"]["deliveries"]
    if not sent == count == deliveries.get("sent", 0) + deliveries.get("delivered", 0):
        raise RuntimeError(f"{count} messages asked for, {sent} accepted by the sandbox, recorded: {deliveries}")
    return Run(
        pushes=count,
        seconds=seconds,
        cpu_us=usage.per_item_us(count),
        per_item=stage.counted_since(before, count),
        peaks_mib=[round(size / 2**20, 1) for size in peaks.values()],
        details={"completed_s": datetime.fromisoformat(found["finished_at"]).timestamp() - ordered.at},
    )

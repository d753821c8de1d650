"""``make bench-dispatch``: what a worker spends on a push or an e-mail, step by step.

A batch of 500 goes the way of the worker: rows (claim, sources, recipients and decisions, providers, record) and chunks
of a broadcast (recipients, decisions, providers, insert), against the sandbox in another process, on a PostgreSQL and a
Valkey of its own. Counts the CPU time of this process only, system calls included. Prints a table and writes
``benchmarks/results/dispatch.json``. Ends with 1 if a target is missed.
"""

import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.table import Table

from apps.providers.authorities import ca_bundle
from benchmarks.bench_preferences import Stages, django_on_own_stores
from benchmarks.bench_transport import BareLoop, build_requests, sandbox

BATCH = 500
EMAIL_BATCH = 1_000
BARE = "bare libcurl push"
# In pushes of a bare libcurl loop of the same run: microseconds depend on what else the machine does, these hardly.
MOST = {"push rows": 3.1, "push chunk": 2.1, "email chunk": 1.4}
WARM_UP = 3
RESULTS = Path(__file__).resolve().parent / "results" / "dispatch.json"
BODY = "The council has decided: the bridge opens on Monday, two months early. Read what changes for you."


@contextmanager
def bench_site() -> Iterator[dict[str, str]]:
    """Stores, Django and a sandbox whose accounts the settings name."""
    with tempfile.TemporaryDirectory() as folder, sandbox(Path(folder)) as values:
        # A busy machine shall not make outcomes other than "sent".
        os.environ |= {**values, "PROVIDER_TIMEOUT_S": "15", "PROVIDER_CONNECT_TIMEOUT_S": "5"}
        with django_on_own_stores():
            yield values


def make_recipients(count: int) -> list[int]:
    """People with a device and an e-mail address each; returns their ids."""
    from apps.preferences.bulk import upsert_recipients  # noqa: PLC0415 - Django is set up by now
    from apps.preferences.models import Recipient  # noqa: PLC0415

    for start in range(0, count, BATCH):
        people = [
            {
                "user_id": f"bench-{number}",
                "email": f"user.{number}@example.com",
                "locale": "en-US",
                "time_zone": "Europe/Berlin",
                "devices": [{"token": f"token-{number}-" + "c3D4" * 35, "platform": "android"}],
            }
            for number in range(start, start + BATCH)
        ]
        assert not any(result.faults for result in upsert_recipients(people))
    return list(Recipient.objects.order_by("id").values_list("id", flat=True))


class Site:
    """What the measured steps need: people, a broadcast, and a fresh batch each time."""

    def __init__(self, recipients: int) -> None:
        from apps.channels import Channel  # noqa: PLC0415
        from apps.clients.services import create_client  # noqa: PLC0415
        from apps.delivery.content import Content  # noqa: PLC0415

        self.recipient_ids = make_recipients(recipients)
        self.client = create_client(name="bench", scopes=[])
        self.content = Content(title="The bridge opens on Monday", body=BODY, data={"story": "10234", "kind": "news"})
        self.channels = Channel
        self._turn = 0

    def next_recipients(self, size: int) -> list[int]:
        self._turn += 1
        start = self._turn * size % len(self.recipient_ids)
        return (self.recipient_ids * 2)[start : start + size]

    def make_rows(self, size: int) -> list[UUID]:
        """Notifications with one push each, as intake writes them; returns the deliveries' ids."""
        from django.db import connection  # noqa: PLC0415

        from apps.delivery.content import seal_content  # noqa: PLC0415
        from apps.delivery.ids import delivery_ids, new_notification_id  # noqa: PLC0415
        from apps.preferences.models import Device, Recipient  # noqa: PLC0415

        people = self.next_recipients(size)
        users = dict(Recipient.objects.filter(id__in=people).values_list("id", "user_id"))
        devices = dict(Device.objects.filter(recipient_id__in=people).values_list("recipient_id", "id"))
        notifications = [new_notification_id() for _ in people]
        ids = [delivery_ids(notification_id, 1)[0] for notification_id in notifications]
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO notification (id, recipient_id, client_id, lane, user_id, type, category, trace_id, "
                "content_ct) VALUES (%s, %s, %s, 2, %s, 'bench', '', 'trace', %s)",
                [
                    (
                        notification_id,
                        person,
                        self.client.id,
                        users[person],
                        seal_content(self.content, notification_id),
                    )
                    for notification_id, person in zip(notifications, people, strict=True)
                ],
            )
            cursor.executemany(
                "INSERT INTO delivery (id, recipient_id, device_id, client_id, channel, lane, status, reason, "
                "attempts, fence, lapses, next_attempt_at, ring_at) "
                "VALUES (%s, %s, %s, %s, 1, 2, 1, 0, 0, 0, 0, now(), now())",
                [
                    (delivery_id, person, devices[person], self.client.id)
                    for delivery_id, person in zip(ids, people, strict=True)
                ],
            )
        return ids

    def make_chunk(self, channel: Any, size: int) -> None:
        """A broadcast of one chunk, ready to be claimed."""
        from uuid import uuid4  # noqa: PLC0415

        import msgspec  # noqa: PLC0415

        from apps.delivery.broadcasts.models import Broadcast, Chunk, State  # noqa: PLC0415
        from apps.delivery.broadcasts.selectors import content_aad  # noqa: PLC0415
        from apps.preferences import cipher  # noqa: PLC0415

        people = self.next_recipients(size)
        broadcast_id, now = uuid4(), datetime.now(UTC)
        row = Broadcast.objects.create(
            id=broadcast_id,
            client=self.client,
            name="bench",
            state=State.RUNNING,
            type="news",
            category="",
            channels=[int(channel)],
            content_ct=cipher.encrypt(msgspec.json.encode(self.content), content_aad(broadcast_id)),
            audience={},
            trace_id="trace",
            created_at=now,
            started_at=now.replace(microsecond=0),
        )
        row.refresh_from_db()
        Chunk.objects.create(
            broadcast_number=row.number, no=1, channel=int(channel), recipients=size, recipient_ids=people
        )


class TransportClock:
    """Counts the CPU time spent in the transport, which is libcurl, TLS and HTTP/2 for the greater part."""

    def __init__(self) -> None:
        from apps.providers.transport import Transport  # noqa: PLC0415

        self.spent_s = 0.0
        inner = Transport.send_all

        def send_all(transport: Any, requests: Any) -> Any:
            before = time.thread_time()
            try:
                return inner(transport, requests)
            finally:
                self.spent_s += time.thread_time() - before

        Transport.send_all = send_all  # type: ignore[method-assign]

    def take(self) -> float:
        spent, self.spent_s = self.spent_s, 0.0
        return spent


def send_rows(ids: Sequence[UUID], clock: Stages) -> int:
    """One batch of rows, as ``dispatch.deliver`` has it, with a look at the clock after each step."""
    from apps.delivery.outcomes import claim_deliveries  # noqa: PLC0415
    from apps.delivery.preparation import load_sources, prepare  # noqa: PLC0415
    from apps.delivery.recording import record  # noqa: PLC0415
    from apps.delivery.sending import Sending  # noqa: PLC0415

    claims = claim_deliveries(ids, lease_s=30)
    clock.lap("claim")
    sources = load_sources(claim.id for claim in claims)
    clock.lap("sources")
    now = datetime.now(UTC)
    parcels, refused = prepare(claims, sources, now)
    clock.lap("decide")
    sending = Sending(read_at=now)
    sending.outcomes += refused
    sending.run(parcels)
    clock.lap("send")
    record(sending.outcomes, sources)
    clock.lap("record")
    return _count_sent(sending.outcomes)


def send_chunk(channel: Any, clock: Stages) -> int:
    """One chunk of a broadcast, as ``deliver_chunk`` has it, with a look at the clock after each step."""
    from apps.delivery.broadcasts.chunks import make_candidates  # noqa: PLC0415
    from apps.delivery.broadcasts.claiming import claim_chunk  # noqa: PLC0415
    from apps.delivery.broadcasts.ending import Ending, end_chunk  # noqa: PLC0415
    from apps.delivery.broadcasts.selectors import select_sources  # noqa: PLC0415
    from apps.delivery.preparation import sift  # noqa: PLC0415
    from apps.delivery.recording import report  # noqa: PLC0415
    from apps.delivery.sending import Sending  # noqa: PLC0415
    from apps.preferences.loading_by_id import load_snapshots_by_id  # noqa: PLC0415

    now = datetime.now(UTC)
    chunk = claim_chunk(channel, now=now, lease_s=30)
    assert chunk is not None
    clock.lap("claim")
    source = select_sources([chunk.number])[chunk.number]
    clock.lap("sources")
    candidates = make_candidates(chunk, source, load_snapshots_by_id(chunk.recipient_ids, channel))
    clock.lap("audience")
    parcels, refused = sift(candidates, now)
    clock.lap("decide")
    sending = Sending(read_at=now)
    sending.outcomes += refused
    sending.run(parcels)
    clock.lap("send")
    assert end_chunk(chunk, Ending(sending.outcomes))
    report(sending.outcomes, {chunk.number: source})
    clock.lap("record")
    return _count_sent(sending.outcomes)


def _count_sent(outcomes: Sequence[Any]) -> int:
    from apps.delivery.statuses import Status  # noqa: PLC0415

    return sum(1 for outcome in outcomes if outcome.status is Status.SENT)


def measure(site: Site, wire: TransportClock, bare: Callable[[], Any], rounds: int) -> dict[str, dict[str, float]]:
    """CPU µs a message of every step; the first rounds only warm up. The paths and the bare loop take turns."""
    laps: dict[str, list[dict[str, float]]] = {name: [] for name in (*MOST, BARE)}
    for number in range(rounds + WARM_UP):
        found = {name: _measure_once(site, wire, name) for name in MOST}
        started = time.process_time()
        bare()
        found[BARE] = {"transport": (time.process_time() - started) / BATCH * 1e6}
        if number >= WARM_UP:
            for name, spent in found.items():
                laps[name].append(spent)
    results = {name: summarise(of_path) for name, of_path in laps.items()}
    for name in MOST:
        ratios = [_sum(ours) / _sum(theirs) for ours, theirs in zip(laps[name], laps[BARE], strict=True)]
        results[name]["times_bare"] = round(statistics.median(ratios), 2)
    return results


def _measure_once(site: Site, wire: TransportClock, name: str) -> dict[str, float]:
    size = EMAIL_BATCH if name == "email chunk" else BATCH
    channel = site.channels.EMAIL if name == "email chunk" else site.channels.PUSH
    ids: list[UUID] = []
    if name == "push rows":
        ids = site.make_rows(size)
    else:
        site.make_chunk(channel, size)
    wire.take()
    clock = Stages(time.process_time)
    sent = send_rows(ids, clock) if ids else send_chunk(channel, clock)
    assert sent == size, f"{name}: {sent} of {size} were sent"
    spent = {step: seconds / size * 1e6 for step, seconds in clock.laps.items()}
    spent["transport"] = wire.take() / size * 1e6
    spent["around it"] = spent.pop("send") - spent["transport"]
    return spent


def summarise(laps: list[dict[str, float]]) -> dict[str, float]:
    """Median of every step and of the whole."""
    steps = {name: statistics.median(lap[name] for lap in laps) for name in laps[0]}
    return {name: round(value, 2) for name, value in {**steps, "total": statistics.median(map(_sum, laps))}.items()}


def _sum(lap: dict[str, float]) -> float:
    return sum(lap.values())


def measure_threads(site: Site, threads: int, batches: int) -> dict[str, float]:
    """CPU µs a push and memory with ``threads`` of them sending batches of rows at once, as a worker process does."""
    from django.db import connection  # noqa: PLC0415

    from apps.delivery.dispatch import deliver  # noqa: PLC0415

    work = [[site.make_rows(BATCH) for _ in range(batches)] for _ in range(threads)]
    ready = threading.Barrier(threads + 1)

    def run(own: list[list[UUID]]) -> None:
        connection.ensure_connection()
        ready.wait()
        for ids in own:
            deliver(ids)
        connection.close()

    workers = [threading.Thread(target=run, args=(own,)) for own in work]
    for worker in workers:
        worker.start()
    ready.wait()
    before_mb, started, wall = _rss_mb(), time.process_time(), time.perf_counter()
    for worker in workers:
        worker.join()
    pushes = threads * batches * BATCH
    return {
        "threads": threads,
        "cpu_us_per_push": round((time.process_time() - started) / pushes * 1e6, 1),
        "pushes_per_s": round(pushes / (time.perf_counter() - wall)),
        "rss_before_mb": before_mb,
        "rss_mb": _rss_mb(),
    }


def _rss_mb() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return round(int(line.split()[1]) / 1024)


def show(results: dict[str, dict[str, float]], crowds: list[dict[str, float]]) -> None:
    """The tables."""
    steps = ("claim", "sources", "audience", "decide", "around it", "transport", "record", "total")
    table = Table(title="CPU µs a message in the worker (median of the batches)")
    for column in ("path", *steps, "× bare", "at most"):
        table.add_column(column, justify="left" if column == "path" else "right")
    for name, figures in results.items():
        cells = [f"{figures[step]:.1f}" if step in figures else "" for step in steps]
        verdict = [f"{figures['times_bare']:.2f}", f"{MOST[name]:.1f}"] if name in MOST else ["1", ""]
        table.add_row(name, *cells, *verdict)
    console = Console(width=130)
    console.print(table)
    for crowd in crowds:
        console.print(
            f"{crowd['threads']:.0f} threads: {crowd['cpu_us_per_push']:.1f} µs a push, "
            f"{crowd['pushes_per_s']:.0f} pushes/s, memory of the process {crowd['rss_mb']:.0f} MB "
            f"({crowd['rss_before_mb']:.0f} MB before)"
        )


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--recipients", type=int, default=5_000, help="a multiple of 1,000")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 4, 8])
    options = parser.parse_args()
    with bench_site() as values:
        batch, loop = build_requests(values), BareLoop(ca_bundle(values["PROVIDER_CA_FILE"]))
        site = Site(options.recipients)
        results = measure(site, TransportClock(), lambda: loop.send_all(batch), options.rounds)
        crowds = [measure_threads(site, threads, 4) for threads in options.threads]
    show(results, crowds)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "machine": platform.machine()},
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "unit": "CPU microseconds per message, worker process",
        "batch": {"push": BATCH, "email": EMAIL_BATCH},
        "rounds": options.rounds,
        "at_most_times_bare": MOST,
        "results": results,
        "threads": crowds,
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    return int(any(results[name]["times_bare"] > most for name, most in MOST.items()))


if __name__ == "__main__":
    sys.exit(main())

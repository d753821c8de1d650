"""Who sends pushes in ``bench-broadcast``, each behind the same face: so many pushes, and what that took."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from benchmarks import extras
from benchmarks.accounting import peak_bytes, reset_peaks
from benchmarks.stage import Stage
from benchmarks.starting_line import ROOT, Contestant

TEXT = {"title": "Breaking news", "body": "A body of a usual length, as an editor would write it on a busy day."}
PLAIN_START_S = 60.0
PLAIN_WARM_UP = 50  # imports, connections, the access token


@dataclass(frozen=True, slots=True)
class Run:
    """What one turn of a contestant took. ``cpu_us`` is per push and by group of processes, ``per_item`` what
    the stores did for a push (``Stage.counters``), ``peaks_mib`` of each worker process."""

    pushes: int
    seconds: float
    cpu_us: dict[str, float]
    per_item: dict[str, float] = field(default_factory=dict)
    peaks_mib: list[float] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        return self.pushes / self.seconds


@contextmanager
def other_process(stage: Stage, argv: Sequence[str], env: Mapping[str, str], name: str) -> Iterator[Contestant]:
    with Contestant(argv, env=env, log=stage.home / f"{name}.log") as contestant:
        yield contestant


def run_limit_probe(stage: Stage, count: int, processes: int) -> Run:
    """The bare program of the same work."""
    argv = [sys.executable, "-m", "benchmarks.limit_probe", f"--processes={processes}"]
    with stage.product_resting(), other_process(stage, argv, stage.stack.environment, "limit-probe") as probe:
        return _measure(stage, probe, count, worker=[probe.pid])


def run_firebase(stage: Stage, count: int, processes: int) -> Run:
    """Google's SDK."""
    argv = [str(extras.python()), "-m", "benchmarks.firebase_send_each", f"--processes={processes}"]
    env = stage.stack.environment | {"REQUESTS_CA_BUNDLE": stage.stack.environment["PROVIDER_CA_FILE"]}
    with stage.product_resting(), other_process(stage, argv, env, "firebase") as sdk:
        return _measure(stage, sdk, count, worker=[sdk.pid])


def run_plain_celery(stage: Stage, count: int, pool: str, concurrency: int) -> Run:
    """The application of the tutorials."""
    env = stage.plain_environment()
    sender = [sys.executable, "-m", "benchmarks.plain_celery.broadcast"]
    with stage.product_resting(), other_process(stage, sender, env, "plain-sender") as plain:
        order = {"count": count, "text": TEXT}
        plain.run(step="prepare", **order)
        with plain_worker(stage, env, pool, concurrency) as worker_pid:
            plain.run(step="go", count=min(count, PLAIN_WARM_UP), text=TEXT)
            plain.run(step="prepare", **order)
            return _measure(stage, plain, count, worker=[worker_pid], client=[plain.pid], is_prepared=True)


@contextmanager
def plain_worker(stage: Stage, env: Mapping[str, str], pool: str, concurrency: int) -> Iterator[int]:
    """The plain application's worker; its PID."""
    command = [sys.executable, "-m", "celery", "--app=benchmarks.plain_celery", "worker", f"--pool={pool}"]
    command += [f"--concurrency={concurrency}", "--hostname=plain@%h", "--loglevel=WARNING"]
    log_path = stage.home / "plain-worker.log"
    with log_path.open("ab") as log:
        worker = subprocess.Popen(
            command, env=dict(env) | {"PYTHONPATH": str(ROOT)}, cwd=stage.home, stdout=log, stderr=log
        )
        try:
            _wait_for_plain_worker(env)
            yield worker.pid
        finally:
            worker.terminate()
            try:
                worker.wait(15)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()


def _wait_for_plain_worker(env: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", "celery", "--app=benchmarks.plain_celery", "inspect", "ping", "--timeout=5"]
    command.append(f"--destination=plain@{socket.gethostname()}")  # others may share the broker and answer as well
    deadline = time.monotonic() + PLAIN_START_S
    while (asked := subprocess.run(command, env=dict(env), cwd=ROOT, capture_output=True, check=False)).returncode:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the plain application's worker did not start: {asked.stderr.decode()[-300:]}")


def _measure(
    stage: Stage,
    contestant: Contestant,
    count: int,
    *,
    worker: Sequence[int],
    client: Sequence[int] = (),
    is_prepared: bool = False,
) -> Run:
    stage.checkpoint()
    order = {"count": count, "text": TEXT}
    if not is_prepared:
        contestant.run(step="prepare", **order)
    accepted, before = stage.accepted("fcm"), stage.counters()
    reset_peaks(worker)
    meter = stage.meter({"worker": worker, "client": client})
    result = contestant.run(step="go", **order)
    usage = meter.read()
    peaks = peak_bytes(worker)
    sent = stage.accepted("fcm") - accepted
    if not result["recorded"] == sent == count:
        raise RuntimeError(f"{count} pushes asked for, {sent} accepted by the sandbox, {result['recorded']} recorded")
    return Run(
        pushes=count,
        seconds=result["seconds"],
        cpu_us=usage.per_item_us(count),
        per_item=stage.counted_since(before, count),
        peaks_mib=[round(size / 2**20, 1) for size in peaks.values()],
    )

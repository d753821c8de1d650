"""One scenario from its first call to its verdict."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import msgspec

from apps.delivery.statuses import AttemptOutcome
from tests.chaos import faults
from tests.chaos.checker import Evidence, Fault, Tally, check
from tests.chaos.client import Load, Script
from tests.chaos.ledger import Accepted, Answer, GivenUp, read_records
from tests.chaos.limits import Kill, Limits, find_breaches
from tests.chaos.rig import LANES, HarnessError, Rig, new_label, wait_for

PROJECT_DIR = Path(__file__).resolve().parents[2]
LEAD_S = 2.0  # traffic before anything breaks
TAIL_S = 4.0  # and after everything is well again
PATIENCE_S = 60.0
BROADCAST_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A named way to break things. ``act`` breaks them while traffic flows; what it returns is called when everything
    has settled, for limits of the scenario's own. ``rig`` names the kind of stack it needs. ``settle_s`` is how long
    after the traffic's end everything must be at its end."""

    number: int
    name: str
    title: str
    act: Callable[["Run"], Callable[[], None] | None]
    rig: str = "plain"
    brokers: tuple[str, ...] = ("valkey", "rabbitmq")
    limits: Limits = field(default_factory=Limits)
    load: Load = field(default_factory=Load)
    seconds: float = 30.0
    settle_s: float = 75.0


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a scenario; ``breaches`` is empty if it kept its limits. ``notes`` are figures of its own."""

    number: int
    name: str
    title: str
    broker: str
    seed: str
    took_s: float
    settled_s: float
    tally: Tally
    kills: tuple[Kill, ...]
    breaches: tuple[str, ...]
    notes: dict[str, float] = {}

    @property
    def duplicates_allowed(self) -> int:
        return sum(kill.rows_in_flight for kill in self.kills)


@dataclass
class Run:
    """What a scenario's ``act`` works with: the rig, dice of its own, and how long it shall take."""

    rig: Rig
    dice: random.Random
    scale: float
    seconds: float
    label: str
    client: "ClientProcess"
    faults: list[Fault] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    breaches: list[str] = field(default_factory=list)
    notes: dict[str, float] = field(default_factory=dict)
    promised_elsewhere: set[str] = field(default_factory=set)
    in_flight: set[str] = field(default_factory=set)
    broadcasts: list[str] = field(default_factory=list)
    _next_broadcast: float = 0.0
    started_at: float = field(default_factory=time.monotonic)
    first_id: UUID = field(default_factory=lambda: UUID(int=int((time.time() - 1) * 1000) << 80))

    def times(self, count: int) -> range:
        """As often as that, in a run of the usual length."""
        return range(max(1, round(count * self.scale)))

    @property
    def has_time(self) -> bool:
        return time.monotonic() < self.started_at + self.seconds

    def pause(self, low_s: float, high_s: float | None = None) -> None:
        time.sleep(low_s if high_s is None else self.dice.uniform(low_s, high_s))

    @contextmanager
    def broken(self, name: str) -> Iterator[None]:
        """Within the block something is broken."""
        began_at = time.time()
        yield
        self.faults.append(Fault(name, began_at, time.time()))

    def kill_worker(self, role: str) -> None:
        """SIGKILL; what it was sending may go out once more. It is started again at once."""
        with self.broken(f"SIGKILL of {role}"):
            faults.kill_now(self.rig, role)
        if role in LANES:
            self.note_in_flight(f"SIGKILL of {role}", [LANES[role]])
        self.rig.stack.start_role(role)

    def note_in_flight(self, what: str, lanes: Iterable[int] = (1, 2)) -> None:
        """What is being sent in these lanes just now may go out once more, and waits for its lease to run out."""
        kill, ids = self.rig.count_in_flight(what, lanes)
        self.kills.append(kill)
        self.in_flight |= ids

    def expect(self, is_so: bool, otherwise: str) -> None:
        """A limit of the scenario's own."""
        if not is_so:
            self.breaches.append(otherwise)

    def broadcast(self) -> None:
        """Writes to everybody, unless it did so a moment ago. It takes about as long as until the next time."""
        if time.monotonic() < self._next_broadcast:
            return
        self._next_broadcast = time.monotonic() + BROADCAST_S
        body = {
            "name": self.label,
            "type": self.label,
            "channels": ["push"],
            "content": {"title": "Chaos", "body": "To all"},
            "audience": {"filter": {"attribute": "group", "exists": True}},
            "rate_per_s": max(1, round(self.rig.options.people / BROADCAST_S)),
        }
        key = f"{self.label}.broadcast-{len(self.broadcasts)}"
        wait_for(lambda: self._is_broadcast_accepted(body, key), timeout_s=PATIENCE_S, poll_s=0.5)

    def _is_broadcast_accepted(self, body: dict[str, object], key: str) -> bool:
        """A caller like any other: tries again with the same key."""
        try:
            self.broadcasts.append(self.rig.call("POST", "/v1/broadcasts", body, key=key).json()["id"])
        except HarnessError:
            return False
        return True

    def note_unanswered_calls(self) -> None:
        """Provider calls that left and got no answer in time, as the attempts say: the provider may have taken each of
        them, and unless the category says otherwise we try again. On a machine that is overloaded there are some
        though no provider is ill."""
        ((count,),) = self.rig.query(
            "SELECT count(*) FROM attempt WHERE delivery_id >= %s AND outcome = %s",
            self.first_id,
            int(AttemptOutcome.UNKNOWN),
        )
        if count:
            self.kills.append(Kill("calls without an answer", time.time(), int(count)))

    def accepted_so_far(self) -> list[Accepted]:
        return read_records(self.client.ledger, Accepted)


class ClientProcess:
    """``client.py`` at work, its files in ``home``."""

    def __init__(self, rig: Rig, home: Path, *, label: str, seed: str, load: Load) -> None:
        home.mkdir(parents=True)
        self.ledger, self.answers, self.given_up = (home / name for name in ("ledger", "answers", "given-up"))
        self._log = home / "client.log"
        script = Script(
            url=rig.stack.urls["web"],
            api_key=rig.stack.credentials["api_key"],
            ledger=str(self.ledger),
            answers=str(self.answers),
            given_up=str(self.given_up),
            label=label,
            seed=seed,
            people=rig.options.people,
            load=load,
            patience_s=PATIENCE_S,
        )
        path = home / "script.json"
        path.write_bytes(msgspec.json.encode(script))
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.client", str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=PROJECT_DIR,
            )

    def begin_stop(self) -> None:
        """No new request from now on."""
        if self._process.stdin is not None:
            self._process.stdin.close()
            self._process.stdin = None  # communicate() would flush it

    def stop(self) -> None:
        """Lets it come to its end. Raises if its own count is not what it wrote down."""
        try:
            output, _ = self._process.communicate(timeout=PATIENCE_S + 30)
        except subprocess.TimeoutExpired:
            self.kill()
            raise HarnessError("the client did not come to its end") from None
        if self._process.returncode != 0:
            raise HarnessError(f"the client failed: {self._log.read_text()[-500:]}")
        counted = json.loads(output)["accepted"]
        written = len(read_records(self.ledger, Accepted))
        if counted != written:
            raise HarnessError(f"the client counted {counted} and wrote down {written}")

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


def execute(scenario: Scenario, rig: Rig, home: Path, *, seed: str, scale: float = 1.0) -> Verdict:
    """Runs a scenario and judges it. ``scale`` stretches its time."""
    label = new_label(scenario.name)
    rig.new_accepts()  # of before
    began = time.monotonic()
    client = ClientProcess(rig, home, label=label, seed=seed, load=scenario.load)
    run = Run(rig, random.Random(seed), scale, scenario.seconds * scale, label, client)
    try:
        time.sleep(LEAD_S)
        run.started_at = time.monotonic()
        look_closer = scenario.act(run)
        time.sleep(TAIL_S)
        client.stop()
    except BaseException:
        client.kill()
        raise
    finally:
        rig.calm_sandbox()
    ended = time.monotonic()
    wait_for(lambda: rig.open_since(run.first_id) == 0, timeout_s=scenario.settle_s)
    settled_s = time.monotonic() - ended
    if look_closer is not None:
        look_closer()
    run.note_unanswered_calls()
    tally = check(_gather(run, client))
    breaches = find_breaches(tally, tuple(run.kills), scenario.limits)
    return Verdict(
        number=scenario.number,
        name=scenario.name,
        title=scenario.title,
        broker=rig.broker,
        seed=seed,
        took_s=round(time.monotonic() - began, 1),
        settled_s=round(settled_s, 1),
        tally=tally,
        kills=tuple(run.kills),
        breaches=(*breaches, *run.breaches),
        notes=run.notes,
    )


def _gather(run: Run, client: ClientProcess) -> Evidence:
    accepted = read_records(client.ledger, Accepted)
    for broadcast in run.broadcasts:
        run.promised_elsewhere |= run.rig.deliveries_of_broadcast(broadcast)
    promised = {one for record in accepted for one in record.delivery_ids} | run.promised_elsewhere
    return Evidence(
        accepted=accepted,
        given_up=read_records(client.given_up, GivenUp),
        answers=read_records(client.answers, Answer),
        rows=run.rig.statuses_of(promised),
        accepts=run.rig.new_accepts(),
        faults=run.faults,
        promised_elsewhere=frozenset(run.promised_elsewhere),
        in_flight=frozenset(run.in_flight),
    )

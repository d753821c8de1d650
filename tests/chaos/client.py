"""A product team's system, as a process of its own: sends by a script, tries again with the same key until it has a
202, and writes that down, on disk, before it counts.

``python -m tests.chaos.client script.json`` runs until its standard input ends, lets what is under way come to its end
and prints one JSON line: how many notifications were accepted, and how many given up.
"""

import http.client
import itertools
import json
import random
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import msgspec

from tests.chaos.ledger import Accepted, Answer, GivenUp, LedgerWriter

NOBODY_ANSWERED = 0
# What a client may send again with the same key. 422 and its kin are bugs of the harness: given up at once.
RETRYABLE = frozenset({NOBODY_ANSWERED, 408, 409, 425, 429, *range(500, 600)})
GOOD = frozenset({200, 202})  # of a batch's item; 200: it was accepted before
CHANNELS = ("push", "push", "push", "sms", "email")


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent: single calls and batches a second, and ``streams``, each of which sends a person one notification
    after the other under one ordering key. A share ``high`` of it travels in the high lane; with ``is_fanned`` every
    tenth goes to all of the person's channels."""

    singles_per_s: float = 20.0
    batches_per_s: float = 2.0
    batch_size: int = 100
    streams: int = 2
    stream_pause_s: float = 0.2
    high: float = 0.3
    category: str = ""
    channels: tuple[str, ...] = CHANNELS
    is_fanned: bool = True


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """What a client process needs. ``label`` becomes the notifications' type, ``people`` is how many there are."""

    url: str
    api_key: str
    ledger: str
    answers: str
    given_up: str
    label: str
    seed: str
    people: int
    load: Load
    threads: int = 16
    timeout_s: float = 5.0
    patience_s: float = 60.0


def user_id(number: int) -> str:
    return f"chaos-{number}"


@dataclass(frozen=True, slots=True)
class Item:
    """One notification to be sent."""

    key: str
    body: dict[str, Any]
    stream: str = ""
    place: int = 0


class Planner:
    """What is sent, reproducible from the seed: the same numbers make the same notifications."""

    def __init__(self, script: Script) -> None:
        self._script = script

    def item(self, number: str, *, is_high: bool | None = None, user: int | None = None) -> Item:
        script, load = self._script, self._script.load
        dice = random.Random(f"{script.seed}:{number}")
        high = dice.random() < load.high if is_high is None else is_high
        is_fanned = load.is_fanned and dice.random() < 0.1
        body: dict[str, Any] = {
            "user_id": user_id(dice.randrange(script.people) if user is None else user),
            "type": script.label,
            "priority": "high" if high else "bulk",
            "content": {"title": "Chaos", "body": f"Number {number}"},
        }
        if not is_fanned:
            body["channels"] = [dice.choice(load.channels)]
        if load.category:
            body["category"] = load.category
        return Item(f"{script.label}.{script.seed}.{number}", body)

    def ordered_item(self, stream: int, place: int) -> Item:
        plain = self.item(f"s{stream}.{place}", is_high=stream % 2 == 0, user=stream)
        body = plain.body | {"ordering_key": f"stream-{stream}", "channels": ["push"]}
        return Item(plain.key, body, stream=f"{self._script.label}:{stream}", place=place)


class Caller:
    """One thread's connection to the API; ``call`` answers (status, body)."""

    def __init__(self, script: Script, answers: LedgerWriter) -> None:
        self._address = urlsplit(script.url)
        self._authorization = f"Api-Key {script.api_key}"
        self._timeout_s = script.timeout_s
        self._answers = answers
        self._connection: http.client.HTTPConnection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._hang_up()

    def call(self, path: str, body: Any, *, key: str | None, items: int) -> tuple[int, bytes]:
        headers = {"Authorization": self._authorization, "Content-Type": "application/json"}
        if key is not None:
            headers["X-Idempotency-Key"] = key
        at, started = time.time(), time.monotonic()
        try:
            status, content = self._exchange(path, msgspec.json.encode(body), headers)
        except (OSError, http.client.HTTPException):
            self._hang_up()
            status, content = NOBODY_ANSWERED, b""
        self._answers.append([Answer(at=at, latency_s=time.monotonic() - started, status=status, items=items)])
        return status, content

    def _exchange(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        if self._connection is None:
            host, port = self._address.hostname or "", self._address.port
            self._connection = http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        self._connection.request("POST", path, body, headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if answer.will_close:
            self._hang_up()
        return answer.status, content

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Pace:
    """Numbers, ``per_s`` of them a second, for several threads. What nobody had time for is not caught up on."""

    def __init__(self, per_s: float, is_over: threading.Event) -> None:
        self._interval_s = 1.0 / per_s
        self._is_over = is_over
        self._lock = threading.Lock()
        self._due = time.monotonic()
        self._number = itertools.count()

    def take(self) -> int | None:
        """The next number, once it is due; ``None`` when the client is to stop."""
        with self._lock:
            due = max(self._due, time.monotonic() - 1.0)
            self._due = due + self._interval_s
            number = next(self._number)
        return None if self._is_over.wait(max(0.0, due - time.monotonic())) else number


class Client:
    """Threads that send as the script says. Bounded: while all of them wait for answers nothing new is begun."""

    def __init__(self, script: Script) -> None:
        self.accepted = 0
        self.given_up = 0
        self._script = script
        self._plan = Planner(script)
        self._ledger = LedgerWriter(Path(script.ledger), is_synced=True)
        self._given_up = LedgerWriter(Path(script.given_up), is_synced=True)
        self._answers = LedgerWriter(Path(script.answers), is_synced=False)
        self._is_over = threading.Event()
        self._lock = threading.Lock()

    def run(self) -> None:
        """Sends until ``stop``; returns when everything begun has come to its end."""
        load = self._script.load
        threads = [threading.Thread(target=self._stream, args=(number,)) for number in range(load.streams)]
        if load.singles_per_s:
            singles = Pace(load.singles_per_s, self._is_over)
            threads += [threading.Thread(target=self._singles, args=(singles,)) for _ in range(self._script.threads)]
        if load.batches_per_s:
            batches = Pace(load.batches_per_s, self._is_over)
            threads += [threading.Thread(target=self._batches, args=(batches,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for writer in (self._ledger, self._given_up, self._answers):
            writer.close()

    def stop(self) -> None:
        self._is_over.set()

    def _singles(self, pace: Pace) -> None:
        with Caller(self._script, self._answers) as caller:
            while (number := pace.take()) is not None:
                self._send_one(caller, self._plan.item(str(number)))

    def _batches(self, pace: Pace) -> None:
        with Caller(self._script, self._answers) as caller:
            while (number := pace.take()) is not None:
                items = [self._plan.item(f"b{number}.{place}") for place in range(self._script.load.batch_size)]
                self._send_batch(caller, items)

    def _stream(self, stream: int) -> None:
        with Caller(self._script, self._answers) as caller:
            for place in itertools.count():
                if self._is_over.wait(self._script.load.stream_pause_s):
                    return
                self._send_one(caller, self._plan.ordered_item(stream, place))

    def _send_one(self, caller: Caller, item: Item) -> None:
        for attempt in self._attempts():
            status, content = caller.call("/v1/notifications", item.body, key=item.key, items=1)
            if status == 202:
                self._note([(item, json.loads(content))], attempt)
                return
            if status not in RETRYABLE:
                break
        self._give_up([item], f"{status} {content[:200].decode(errors='replace')}")

    def _send_batch(self, caller: Caller, items: list[Item]) -> None:
        open_items, why = items, ""
        for attempt in self._attempts():
            body = {"items": [{"idempotency_key": item.key, **item.body} for item in open_items]}
            status, content = caller.call("/v1/notifications/batch", body, key=None, items=len(open_items))
            if status == 207:
                results = json.loads(content)["results"]
                pairs = list(zip(open_items, results, strict=True))
                self._note(
                    [(item, result["notification"]) for item, result in pairs if result["status"] in GOOD], attempt
                )
                refused = [item for item, result in pairs if result["status"] not in GOOD | RETRYABLE]
                if refused:
                    self._give_up(refused, content[:200].decode(errors="replace"))
                open_items = [item for item, result in pairs if result["status"] in RETRYABLE]
            elif status not in RETRYABLE:
                why = f"{status} {content[:200].decode(errors='replace')}"
                break
            if not open_items:
                return
        self._give_up(open_items, why or "patience ended")

    def _attempts(self) -> Iterator[int]:
        """1, 2, 3, … with growing pauses in between, until the client's patience ends."""
        ends = time.monotonic() + self._script.patience_s
        for attempt in itertools.count(1):
            yield attempt
            pause_s = min(1.0, 0.1 * 2 ** min(attempt, 5)) * random.uniform(0.5, 1.0)
            if time.monotonic() + pause_s > ends:
                return
            time.sleep(pause_s)

    def _note(self, answers: list[tuple[Item, Any]], attempt: int) -> None:
        now = time.time()
        self._ledger.append(
            Accepted(
                key=item.key,
                notification_id=answer["id"],
                delivery_ids=tuple(one["id"] for one in answer["deliveries"]),
                at=now,
                requests=attempt,
                stream=item.stream,
                place=item.place,
            )
            for item, answer in answers
        )
        with self._lock:
            self.accepted += len(answers)

    def _give_up(self, items: list[Item], reason: str) -> None:
        self._given_up.append(GivenUp(key=item.key, reason=reason) for item in items)
        with self._lock:
            self.given_up += len(items)


def main() -> None:
    script = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Script)
    client = Client(script)
    sending = threading.Thread(target=client.run)
    sending.start()
    sys.stdin.buffer.read()  # ends with the harness, however that ends
    client.stop()
    sending.join()
    sys.stdout.write(json.dumps({"accepted": client.accepted, "given_up": client.given_up}) + "\n")


if __name__ == "__main__":
    main()

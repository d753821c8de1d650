"""``make bench-faults``: does one ill provider slow the other channels down?

Brings up a stack of its own, sends a steady mix of high-priority pushes, SMS and e-mails, and makes the SMS provider
fail in three ways (half of the calls answer 503; every call takes 10 s; every call answers 429), with a healthy phase
before and after each. Prints how the p95 (accept → provider) of the *other* channels moved, when the breaker opened,
what went over to the second provider, and that nothing was lost. Writes ``benchmarks/results/faults.json``.
"""

import argparse
import json
import tempfile
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import requests

from notify_project.demo.report import percentiles_ms
from notify_project.demo.traffic import OPEN_STATUSES
from notify_project.local.stack import Stack, StackOptions

RESULTS = Path(__file__).parent / "results" / "faults.json"
FAULTS: dict[str, dict[str, Any]] = {
    "50 % 503": {"mode": "error", "status": 503, "error_rate": 0.5},
    "10 s latency": {"mode": "delay", "latency_ms": 10_000},
    "429": {"mode": "throttle", "retry_after_s": 2},
}
CHANNELS = ("push", "sms", "email")
PEOPLE = 40


class Bench:
    """One stack and its caller."""

    def __init__(self, stack: Stack, *, rate_per_s: float, seconds: float) -> None:
        self.stack, self.rate_per_s, self.seconds = stack, rate_per_s, seconds
        self.session = requests.Session()
        self.session.headers["Authorization"] = f"Api-Key {stack.credentials['api_key']}"
        self.session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=32))

    def call(self, method: str, path: str, **options: Any) -> Any:
        response = self.session.request(method, self.stack.urls["web"] + path, timeout=15, **options)
        response.raise_for_status()
        return response.json() if response.content else None

    def prepare(self) -> None:
        for number in range(PEOPLE):
            user = f"bench-{number}"
            body = {"email": f"{user}@example.com", "phone": f"+1500555{3000 + number}"}
            self.call("PUT", f"/v1/users/{user}", json=body)
            token = {"token": f"bench-device-{number}-" + "e5F6" * 30, "platform": "android"}
            self.call("POST", f"/v1/users/{user}/devices", json=token)

    def switch(self, rule: dict[str, Any] | None) -> None:
        url = f"{self.stack.urls['inbox'].rstrip('/')}/_sandbox/faults/twilio"
        response = requests.delete(url, timeout=5) if rule is None else requests.put(url, json=[rule], timeout=5)
        response.raise_for_status()

    def breaker(self) -> str:
        providers = self.call("GET", "/v1/providers")["providers"]
        return str(next(one["breaker"]["state"] for one in providers if one["alias"] == "twilio"))

    def send(self, kind: str, number: int) -> None:
        body = {
            "user_id": f"bench-{number % PEOPLE}",
            "type": kind,
            "priority": "high",
            "channels": [CHANNELS[number % 3]],
            "content": {"title": "Bench", "body": f"Message {number}"},
        }
        self.call("POST", "/v1/notifications", json=body, headers={"X-Idempotency-Key": uuid.uuid4().hex})

    def phase(self, rule: dict[str, Any] | None) -> dict[str, Any]:
        """Traffic for some seconds under ``rule``; what became of it."""
        kind = f"bench.{uuid.uuid4().hex[:12]}"
        opened: list[float] = []
        over = threading.Event()
        if rule is not None:
            self.switch(rule)
        started = time.monotonic()
        watcher = threading.Thread(target=self._watch, args=(started, opened, over))
        watcher.start()
        count = int(self.rate_per_s * self.seconds)
        with ThreadPoolExecutor(16) as pool:
            for number in range(count):
                pause = started + number / self.rate_per_s - time.monotonic()
                if pause > 0:
                    time.sleep(pause)
                pool.submit(self.send, kind, number)
        if rule is not None:
            self.switch(None)
        over.set()
        watcher.join()
        found = self._settle(kind, count)
        return self._summarise(found, count, opened)

    def _watch(self, started: float, opened: list[float], over: threading.Event) -> None:
        while not over.wait(0.25):
            if not opened and self.breaker() == "open":
                opened.append(time.monotonic() - started)

    def _settle(self, kind: str, count: int) -> list[dict[str, Any]]:
        deadline = time.monotonic() + 90
        while True:
            found = self._look(kind)
            statuses = [d["status"] for one in found for d in one["deliveries"]]
            if (len(found) >= count and not OPEN_STATUSES & set(statuses)) or time.monotonic() > deadline:
                return found
            time.sleep(0.5)

    def _look(self, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page = self.call("GET", f"/v1/notifications?type={kind}&limit=100{cursor}")
            found += page["results"]
            if page["next"] is None:
                return found
            cursor = f"&cursor={page['next']}"

    def _summarise(self, found: list[dict[str, Any]], count: int, opened: list[float]) -> dict[str, Any]:
        pairs = [(one, d) for one in found for d in one["deliveries"]]
        spans = {
            channel: [_span(one, d) for one, d in pairs if d["channel"] == channel and d["sent_at"]]
            for channel in CHANNELS
        }
        sms = [d for _, d in pairs if d["channel"] == "sms"]
        return {
            "sent": count,
            "lost": count - len(found),
            "not_terminal": sum(1 for _, d in pairs if d["status"] in OPEN_STATUSES),
            "dead": sum(1 for _, d in pairs if d["status"] == "dead"),
            "p95_ms": {channel: (percentiles_ms(of) or {}).get("p95") for channel, of in spans.items()},
            "p50_ms": {channel: (percentiles_ms(of) or {}).get("p50") for channel, of in spans.items()},
            "breaker_opened_after_s": round(opened[0], 2) if opened else None,
            "sms_by_provider": dict(Counter(f"{d['provider']}:{d['status']}" for d in sms)),
            "sms_attempts_max": max((d["attempt_count"] for d in sms), default=0),
        }

    def recover(self) -> None:
        """Waits until the breaker is closed again; it takes traffic to find out."""
        deadline = time.monotonic() + 90
        number = 1
        while self.breaker() != "closed" and time.monotonic() < deadline:
            self.send("bench.recover", number)
            number += 3
            time.sleep(0.5)


def _span(notification: dict[str, Any], delivery: dict[str, Any]) -> float:
    sent, created = (datetime.fromisoformat(text) for text in (delivery["sent_at"], notification["created_at"]))
    return max(0.0, (sent - created).total_seconds())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=30.0, help="notifications a second, a third per channel")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each phase")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, Stack(StackOptions(data_dir=Path(home))) as stack:
        bench = Bench(stack, rate_per_s=options.rate, seconds=options.seconds)
        bench.prepare()
        bench.phase(None)  # warm-up
        rounds = []
        for _ in range(options.rounds):
            before = bench.phase(None)
            for name, rule in FAULTS.items():
                during = bench.phase(rule)
                bench.recover()
                after = bench.phase(None)
                rounds.append({"fault": name, "before": before, "during": during, "after": after})
                _print(rounds[-1])
                before = after
    record = {
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "rate_per_s": options.rate,
        "seconds": options.seconds,
        "rounds": rounds,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=2) + "\n")
    print(f"written to {RESULTS.relative_to(Path.cwd()) if RESULTS.is_relative_to(Path.cwd()) else RESULTS}")


def _print(row: dict[str, Any]) -> None:
    before, during, after = (row[name] for name in ("before", "during", "after"))
    print(f"\nSMS provider: {row['fault']}")
    for channel in ("push", "email"):
        healthy = (before["p95_ms"][channel] + after["p95_ms"][channel]) / 2
        moved = 100 * (during["p95_ms"][channel] / healthy - 1)
        print(
            f"  {channel:<6} p95 {during['p95_ms'][channel]:7.1f} ms, healthy {healthy:7.1f} ms: moved {moved:+.1f} %"
        )
    print(f"  sms    p95 {during['p95_ms']['sms']} ms, through {during['sms_by_provider']}")
    print(
        f"  breaker open after {during['breaker_opened_after_s']} s; lost {during['lost']}, "
        f"not terminal {during['not_terminal']}, dead {during['dead']}, most attempts {during['sms_attempts_max']}"
    )


if __name__ == "__main__":
    main()

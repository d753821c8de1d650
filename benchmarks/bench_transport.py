"""CPU per push of our transport against a bare libcurl-multi loop, side by side against the sandbox.

Both send the same requests, HTTP/2 multiplexed over TLS, with the same number in flight, in one process and turn by
turn, so that what the machine does at the time meets both. Only the client's CPU counts; the server is another
process. Must hold: at most 0.6 times the bare loop (the median over the rounds).
"""

import argparse
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pycurl
import requests

from apps.providers.adapters.fcm import FcmAdapter
from apps.providers.allowance import MOST as MOST_IN_FLIGHT
from apps.providers.authorities import ca_bundle
from apps.providers.grants import AccessToken
from apps.providers.http2 import STREAMS
from apps.providers.limits import Limits
from apps.providers.messages import BuildContext, Message, ProviderRequest, ProviderResponse
from apps.providers.transport import Transport
from notify_project.local.ports import free_port

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "transport.json"
MOST = 0.6
BATCH = 500  # what a task of the platform carries


@contextmanager
def sandbox(data_dir: Path) -> Iterator[dict[str, str]]:
    """A sandbox process; yields the lines of its credentials.env."""
    port = free_port()
    command = [sys.executable, "-m", "apps.providers.sandbox"]
    place = ["--data-dir", str(data_dir), "--port", str(port)]
    subprocess.run([*command, "init", *place], cwd=ROOT, check=True)
    process = subprocess.Popen([*command, "serve", *place], cwd=ROOT, stdout=subprocess.DEVNULL)
    lines = (data_dir / "credentials.env").read_text().splitlines()
    try:
        _wait_for(port)
        yield dict(line.split("=", 1) for line in lines)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=10)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit("the sandbox did not come up")


def build_requests(values: dict[str, str]) -> list[ProviderRequest]:
    """A batch of pushes, with a real access token."""
    options = {
        "base_url": values["FCM_BASE_URL"],
        "service_account": Path(values["FCM_SERVICE_ACCOUNT_FILE"]).read_text(),
        "address_field": "token",
        "ack_key": "bench",
    }
    adapter = FcmAdapter("fcm", options)
    now = datetime.now(UTC)
    asked = adapter.grant.build(now)
    assert not isinstance(asked, AccessToken)
    answer = requests.post(
        asked.url, data=asked.body, headers=dict(asked.headers), verify=values["PROVIDER_CA_FILE"], timeout=5
    )
    token = adapter.grant.parse(ProviderResponse(answer.status_code, {}, answer.content)).value
    messages = [
        Message(f"00000000-0000-7000-8000-{number:012x}", f"device-{number}", "Title", "A body of a usual length.")
        for number in range(BATCH)
    ]
    return adapter.build(messages, BuildContext(now=now, access_token=token))


class BareLoop:
    """As little as it takes to send requests through libcurl's multi interface and to have status and body."""

    def __init__(self, ca_file: str) -> None:
        self._multi: Any = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_MULTIPLEX)
        self._multi.setopt(pycurl.M_MAX_CONCURRENT_STREAMS, STREAMS)
        self._handles = [self._make_handle(ca_file) for _ in range(MOST_IN_FLIGHT)]

    def _make_handle(self, ca_file: str) -> Any:
        easy: Any = pycurl.Curl()
        easy.setopt(pycurl.CAINFO, ca_file)
        easy.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2TLS)
        easy.setopt(pycurl.PIPEWAIT, 1)
        easy.setopt(pycurl.NOSIGNAL, 1)
        easy.setopt(pycurl.TIMEOUT_MS, 10_000)
        easy.chunks = []
        easy.setopt(pycurl.WRITEFUNCTION, easy.chunks.append)
        return easy

    def send_all(self, batch: Sequence[ProviderRequest]) -> list[tuple[int, bytes]]:
        multi, idle = self._multi, list(self._handles)
        outcomes: list[tuple[int, bytes]] = []
        position, in_flight = 0, 0
        while position < len(batch) or in_flight:
            while position < len(batch) and idle:
                request, easy = batch[position], idle.pop()
                easy.setopt(pycurl.URL, request.url)
                easy.setopt(pycurl.POSTFIELDS, request.body)
                easy.setopt(pycurl.HTTPHEADER, [f"{name}: {value}" for name, value in request.headers])
                multi.add_handle(easy)
                position, in_flight = position + 1, in_flight + 1
            multi.perform()
            queued = 1
            while queued:
                queued, done, failed = multi.info_read()
                assert not failed, failed
                for easy in done:
                    outcomes.append((easy.getinfo(pycurl.RESPONSE_CODE), b"".join(easy.chunks)))
                    easy.chunks.clear()
                    multi.remove_handle(easy)
                    idle.append(easy)
                    in_flight -= 1
            if in_flight:
                multi.select(0.1)
        return outcomes

    def close(self) -> None:
        for easy in self._handles:
            easy.close()
        self._multi.close()


def measure(send: Callable[[], Any], batches: int) -> tuple[float, float]:
    """CPU and wall-clock µs a push."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(batches):
        send()
    pushes = batches * BATCH
    return (time.process_time() - cpu) / pushes * 1e6, (time.perf_counter() - wall) / pushes * 1e6


def run(rounds: int, batches: int) -> dict[str, Any]:
    """Turn by turn, each side first in half of the rounds; the first round of each only warms up."""
    with tempfile.TemporaryDirectory() as folder, sandbox(Path(folder)) as values:
        ca_file = ca_bundle(values["PROVIDER_CA_FILE"])
        batch = build_requests(values)
        transport = Transport(limits=Limits(connect_s=5.0, total_s=10.0, call_s=60.0), ca_file=ca_file)
        bare = BareLoop(ca_file)
        sides: dict[str, Callable[[], Any]] = {
            "transport": lambda: transport.send_all(batch),
            "bare": lambda: bare.send_all(batch),
        }
        assert {getattr(outcome, "status", None) for outcome in transport.send_all(batch)} == {200}
        assert {status for status, _ in bare.send_all(batch)} == {200}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for number in range(rounds):
            for name in sorted(sides, reverse=bool(number % 2)):
                found[name].append(measure(sides[name], batches))
        transport.close()
        bare.close()
    ratios = [ours[0] / theirs[0] for ours, theirs in zip(found["transport"], found["bare"], strict=True)]
    return {
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "must_hold": MOST,
        **{
            name: {
                "cpu_us_per_push": round(statistics.median(cpu for cpu, _ in pairs), 1),
                "wall_us_per_push": round(statistics.median(wall for _, wall in pairs), 1),
            }
            for name, pairs in found.items()
        },
        "rounds": rounds,
        "pushes_per_round": batches * BATCH,
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "libcurl": pycurl.version},
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21, help="turns of each side")
    parser.add_argument("--batches", type=int, default=3, help=f"batches of {BATCH} pushes a turn")
    options = parser.parse_args()
    result = run(options.rounds, options.batches)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    verdict = "holds" if result["ratio"] <= MOST else "DOES NOT HOLD"
    print(f"transport : bare libcurl = {result['ratio']:.2f} : 1   (at most {MOST}: {verdict})")
    print(f"{'':12}{'CPU µs/push':>14}{'wall µs/push':>14}")
    for name in ("transport", "bare"):
        print(f"{name:12}{result[name]['cpu_us_per_push']:>14}{result[name]['wall_us_per_push']:>14}")
    print(f"rounds: {', '.join(map(str, result['ratios']))}")
    return 0 if result["ratio"] <= MOST else 1


if __name__ == "__main__":
    sys.exit(main())

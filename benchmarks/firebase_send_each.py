"""Contestant: Google's own SDK, ``firebase_admin.messaging.send_each``, 500 messages a call, as its manual shows.

It is told the sandbox's address in the place of Google's; nothing else of it is touched. It keeps no record of what it
sent, which the others do. Runs in the benchmarks' own environment.
"""

import argparse
import json
import multiprocessing
import os
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import firebase_admin
from firebase_admin import credentials, messaging

from benchmarks.names import token_of
from benchmarks.starting_line import run_when_told

BATCH = 500
TIMEOUT_S = 900.0


def work(numbers: list[int], text: dict[str, str], barrier: Barrier, accepted: Any) -> None:
    """One process."""
    base = os.environ["FCM_BASE_URL"].rstrip("/")
    messaging._MessagingService.FCM_URL = base + "/v1/projects/{0}/messages:send"
    firebase_admin.initialize_app(credentials.Certificate(os.environ["FCM_SERVICE_ACCOUNT_FILE"]))
    messaging.send(_message("warm-up", token_of(0), text))
    barrier.wait()
    barrier.wait()
    for start in range(0, len(numbers), BATCH):
        batch = numbers[start : start + BATCH]
        answer = messaging.send_each([_message(f"firebase-{number}", token_of(number), text) for number in batch])
        with accepted.get_lock():
            accepted.value += answer.success_count
    barrier.wait()


def _message(name: str, token: str, text: dict[str, str]) -> messaging.Message:
    notification = messaging.Notification(title=text["title"], body=text["body"])
    return messaging.Message(token=token, notification=notification, data={"notify_delivery_id": name})


class Sender:
    """Takes ``{"step": "prepare", "count", "text"}``, then ``{"step": "go"}``."""

    def __init__(self, processes: int) -> None:
        self._processes = processes

    def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        return self._go() if order["step"] == "go" else self._prepare(order["count"], order["text"])

    def _prepare(self, count: int, text: dict[str, str]) -> dict[str, Any]:
        self._barrier = multiprocessing.Barrier(self._processes + 1, timeout=TIMEOUT_S)
        self._accepted = multiprocessing.Value("q", 0)
        numbers = list(range(1, count + 1))
        share = -(-count // self._processes)
        self._crew = [
            multiprocessing.Process(
                target=work, args=(numbers[start : start + share], text, self._barrier, self._accepted)
            )
            for start in range(0, share * self._processes, share)
        ]
        for member in self._crew:
            member.start()
        self._barrier.wait()
        return {}

    def _go(self) -> dict[str, Any]:
        started = time.perf_counter()
        self._barrier.wait()
        self._barrier.wait()
        seconds = time.perf_counter() - started
        for member in self._crew:
            member.join()
        return {"seconds": seconds, "recorded": self._accepted.value}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    account = json.loads(Path(os.environ["FCM_SERVICE_ACCOUNT_FILE"]).read_text())
    assert account["type"] == "service_account"
    run_when_told(Sender(parser.parse_args().processes).obey)


if __name__ == "__main__":
    main()

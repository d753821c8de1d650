"""A whole stack per broker, and a caller of its API."""

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from notify_project.local.errors import LocalError
from notify_project.local.stack import Stack, StackOptions

TERMINAL_TIMEOUT_S = 60.0
OPEN = {"queued", "sending"}


class Caller:
    """A product team: talks HTTP to the stack and knows nothing else about it."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.headers = {"Authorization": f"Api-Key {stack.credentials['api_key']}"}

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        headers = {**self.headers, **options.pop("headers", {})}
        return requests.request(method, self.stack.urls["web"] + path, headers=headers, timeout=15, **options)

    def send(
        self, *, key: str | None = None, headers: dict[str, str] | None = None, **changes: Any
    ) -> requests.Response:
        body = {
            "user_id": "demo-1",
            "type": "welcome",
            "priority": "high",
            "content": {"title": "Hello", "body": "It works"},
            **changes,
        }
        all_headers = {"X-Idempotency-Key": key or uuid.uuid4().hex, **(headers or {})}
        return self.request("POST", "/v1/notifications", json=body, headers=all_headers)

    def look(self, notification_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.request("GET", f"/v1/notifications/{notification_id}").json()
        return answer

    def wait_for(self, notification_id: str, status: str = "delivered") -> dict[str, Any]:
        wait_until(
            lambda: {one["status"] for one in self.look(notification_id)["deliveries"]} == {status},
            lambda: self.look(notification_id),
        )
        return self.look(notification_id)


def wait_until(
    condition: Callable[[], bool], explain: Callable[[], object] = lambda: "", timeout_s: float = TERMINAL_TIMEOUT_S
) -> None:
    """Polls until ``condition`` holds; fails with what ``explain`` says."""
    deadline = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, explain()
        pause.wait(0.1)


@pytest.fixture(scope="module", params=["valkey", "rabbitmq"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    options = StackOptions(data_dir=tmp_path_factory.mktemp(request.param), broker=request.param)
    try:
        running = Stack(options)
    except LocalError as error:
        if "CI" in os.environ or "abbit" not in str(error):
            raise
        pytest.skip(str(error))
    with running:
        yield running


@pytest.fixture
def caller(stack: Stack) -> Caller:
    return Caller(stack)

"""A client of the public API that sends mixed notifications and looks what became of them. It knows no model."""

import itertools
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

PEOPLE = 40
OPTED_OUT = 4  # of everything
NO_SMS = 6  # of SMS
OPEN_STATUSES = frozenset({"queued", "sending"})
TIMEOUT_S = 10.0

# Channels asked for in turn; None leaves the choice to the platform.
_CHANNELS: tuple[list[str] | None, ...] = (["push"], ["sms"], ["email"], None, ["push", "email"])


class DemoError(Exception):
    """The demo cannot go on; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One accepted notification: its id and how long the answer took, in seconds."""

    id: str
    accept_s: float


class Traffic:
    """One run of the demo: ``run`` is its notifications' type, by which they are found again."""

    def __init__(self, *, api_url: str, api_key: str, sandbox_url: str) -> None:
        self.run = f"demo.{uuid.uuid4().hex[:12]}"
        self._api_url = api_url
        self._sandbox_url = sandbox_url
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Api-Key {api_key}"
        # The same idempotency key again is safe: that is what it is for.
        retry = Retry(total=6, backoff_factor=0.2, status_forcelist=(409, 429, 503), allowed_methods=None)
        self._session.mount("http", HTTPAdapter(pool_maxsize=16, max_retries=retry))

    def prepare_people(self) -> list[str]:
        """Registers the demo's people with their preferences; returns their user ids."""
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(self._prepare_person, range(PEOPLE)))

    def _prepare_person(self, number: int) -> str:
        user_id = f"demo-crowd-{number}"
        self._call(
            "PUT",
            f"/v1/users/{user_id}",
            {"email": f"{user_id}@example.com", "phone": f"+1500555{2000 + number}", "time_zone": "Europe/London"},
        )
        token = f"demo-crowd-device-{number}-" + "c3D4" * 30
        self._call("POST", f"/v1/users/{user_id}/devices", {"token": token, "platform": "android"})
        is_sms_on = not OPTED_OUT <= number < OPTED_OUT + NO_SMS
        preferences = {"opted_out": number < OPTED_OUT, "channels": {"push": True, "sms": is_sms_on, "email": True}}
        self._call("PUT", f"/v1/users/{user_id}/preferences", preferences)
        return user_id

    def switch_fault(self, *, is_on: bool) -> None:
        """Makes the sandbox's SMS providers answer 503 to a third of the calls, or well again. What one refuses goes
        to the next, and what all refuse is tried again later."""
        try:
            for provider in ("twilio", "vonage", "telnyx"):
                url = f"{self._sandbox_url}/_sandbox/faults/{provider}"
                if is_on:
                    rule = {"mode": "error", "status": 503, "error_rate": 0.33}
                    response = requests.put(url, json=[rule], timeout=TIMEOUT_S)
                else:
                    response = requests.delete(url, timeout=TIMEOUT_S)
                response.raise_for_status()
        except requests.RequestException as error:
            raise DemoError(f"the sandbox at {self._sandbox_url} does not answer; is `make run` running?") from error

    def send(self, people: list[str], count: int, on_accepted: Callable[[], None]) -> list[Sent]:
        """Sends ``count`` notifications to ``people`` in turn, eight at a time; each must be accepted."""
        with ThreadPoolExecutor(8) as pool:
            accepted = []
            for sent in pool.map(lambda number: self._send_one(people, number), range(count)):
                accepted.append(sent)
                on_accepted()
            return accepted

    def _send_one(self, people: list[str], number: int) -> Sent:
        body: dict[str, Any] = {
            "user_id": people[number % len(people)],
            "type": self.run,
            "priority": "high" if number % 3 == 0 else "bulk",
            "content": {"title": f"Demo {number}", "body": f"This is message {number} of the demo."},
        }
        channels = _CHANNELS[number % len(_CHANNELS)]
        if channels is not None:
            body["channels"] = channels
        response = self._call("POST", "/v1/notifications", body, {"X-Idempotency-Key": f"{self.run}-{number}"})
        return Sent(response.json()["id"], response.elapsed.total_seconds())

    def look(self) -> list[dict[str, Any]]:
        """The run's notifications as the API shows them now."""
        return list(self._pages())

    def _pages(self) -> Iterator[dict[str, Any]]:
        cursor = ""
        for _ in itertools.count():
            page = self._call("GET", f"/v1/notifications?type={self.run}&limit=100{cursor}").json()
            yield from page["results"]
            if page["next"] is None:
                return
            cursor = f"&cursor={page['next']}"

    def _call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> requests.Response:
        try:
            response = self._session.request(
                method, self._api_url + path, json=body, headers=headers, timeout=TIMEOUT_S
            )
        except requests.RequestException as error:
            raise DemoError(f"the API at {self._api_url} does not answer; is `make run` running?") from error
        if response.status_code >= 400:
            raise DemoError(f"{method} {path} answered {response.status_code}: {response.text[:300]}")
        return response

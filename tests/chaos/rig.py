"""A stack to be hurt: its people, its sandbox, and looking into its database past everything that is under test."""

import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from uuid import UUID

import psycopg
import redis
import requests

from apps.channels import Channel
from apps.delivery.ids import broadcast_delivery_id
from apps.delivery.statuses import OPEN_STATUSES, Status
from notify_project.local import roles
from notify_project.local.stack import Stack, StackOptions
from tests.chaos.checker import ProviderAccept
from tests.chaos.client import user_id
from tests.chaos.limits import Kill

PEOPLE = 4_000
POLL_S = 0.1
PROVIDERS = ("fcm", "twilio", "vonage", "telnyx", "sendgrid", "ses", "smtp")
LANES = {roles.HIGH: 1, roles.BULK: 2}
# Retries as in production, but for their longest pauses: a scenario settles within a minute.
SETTINGS = {"DELIVERY_BACKOFF_MAX_S": "10"}


class HarnessError(Exception):
    """The harness itself failed; says nothing about the platform."""


@dataclass(frozen=True, kw_only=True)
class RigOptions:
    """What the stack of some scenarios is like."""

    broker: str
    home: Path
    counts: roles.Counts = field(default_factory=roles.Counts)
    settings: Mapping[str, str] = field(default_factory=dict)
    role_settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    without: frozenset[str] = frozenset({roles.FLOWER})
    people: int = PEOPLE
    say: Callable[[str], None] = lambda line: None


class Rig:
    """A running stack with ``people`` to write to. ``database_url`` leads to the database directly."""

    stack: Stack

    def __init__(self, options: RigOptions) -> None:
        self.options = options
        self._exit = ExitStack()
        self._ledger_read = 0
        self._claims_counted: set[tuple[object, ...]] = set()

    def __enter__(self) -> Self:
        self.stack = self._make_stack()
        with ExitStack() as exit_stack:
            exit_stack.enter_context(self.stack)
            self._register_people()
            self._exit = exit_stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def _make_stack(self) -> Stack:
        options = self.options
        return Stack(
            StackOptions(
                data_dir=options.home / "stack",
                broker=options.broker,
                counts=options.counts,
                settings=SETTINGS | dict(options.settings),
                role_settings=options.role_settings,
                without=options.without,
                say=options.say,
            )
        )

    # --- places -------------------------------------------------------------------------------------------------------
    @property
    def broker(self) -> str:
        return self.options.broker

    @property
    def database_url(self) -> str:
        return self.stack.environment["DATABASE_URL"]

    @property
    def broker_url(self) -> str:
        return self.stack.environment["BROKER_URL"]

    @property
    def cache_url(self) -> str:
        return self.stack.environment["CACHE_URL"]

    # --- the API and the sandbox --------------------------------------------------------------------------------------
    def call(self, method: str, path: str, body: Any = None, *, key: str | None = None) -> requests.Response:
        """A request as the product team; raises if it is answered with an error."""
        headers = {"Authorization": f"Api-Key {self.stack.credentials['api_key']}"}
        if key is not None:
            headers["X-Idempotency-Key"] = key
        response = requests.request(method, self.stack.urls["web"] + path, json=body, headers=headers, timeout=30)
        if not response.ok:
            raise HarnessError(f"{method} {path}: {response.status_code} {response.text[:300]}")
        return response

    def sandbox(self, method: str, path: str, body: Any = None) -> Any:
        url = f"{self.stack.urls['inbox'].rstrip('/')}/_sandbox/{path}"
        response = requests.request(method, url, json=body, timeout=30)
        response.raise_for_status()
        return response

    def calm_sandbox(self) -> None:
        """No faults, receipts as usual."""
        for provider in PROVIDERS:
            self.sandbox("DELETE", f"faults/{provider}")
            self.sandbox("DELETE", f"receipts/{provider}")

    def dropped(self) -> int:
        """Calls whose connection the sandbox cut after taking the message."""
        providers = self.sandbox("GET", "stats").json()["providers"]
        return sum(provider["dropped"] for provider in providers.values())

    def new_accepts(self) -> list[ProviderAccept]:
        """What the providers took on since the last call."""
        accepts: list[ProviderAccept] = []
        while lines := self.sandbox("GET", f"ledger?after={self._ledger_read}&limit=100000").content.splitlines():
            for line in lines:
                entry = json.loads(line)
                accepts.append(ProviderAccept(entry["delivery_id"], entry["at"] / 1000, entry["provider"]))
                self._ledger_read = entry["n"]
        return accepts

    # --- the database -------------------------------------------------------------------------------------------------
    def query(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database_url, connect_timeout=5, autocommit=True) as connection:
            return connection.execute(sql, parameters).fetchall()

    def execute(self, sql: str, *parameters: object) -> None:
        with psycopg.connect(self.database_url, connect_timeout=5, autocommit=True) as connection:
            connection.execute(sql, parameters)

    def statuses_of(self, delivery_ids: Iterable[str]) -> dict[str, int]:
        ids = [UUID(one) for one in delivery_ids]
        return {str(row[0]): row[1] for row in self.query("SELECT id, status FROM delivery WHERE id = ANY(%s)", ids)}

    def open_since(self, first_id: UUID) -> int:
        """How many deliveries from ``first_id`` on are not at their end, and broadcasts."""
        ((rows,),) = self.query(
            "SELECT count(*) FROM delivery WHERE id >= %s AND status = ANY(%s)",
            first_id,
            [int(one) for one in OPEN_STATUSES],
        )
        ((broadcasts,),) = self.query("SELECT count(*) FROM broadcast WHERE finished_at IS NULL")
        return int(rows) + int(broadcasts)

    def deliveries_of_broadcast(self, broadcast_id: str) -> set[str]:
        """The ids its deliveries must have: one for the device of each person of ours. Not read from its deliveries.
        Raises ``HarnessError`` if it never started."""
        ((started_at, number),) = self.query(
            "SELECT started_at, number FROM broadcast WHERE id = %s", UUID(broadcast_id)
        )
        if started_at is None:
            raise HarnessError(f"broadcast {number} was accepted and never started")
        devices = self.query(
            "SELECT device.id FROM preferences_device device JOIN preferences_recipient recipient "
            "ON recipient.id = device.recipient_id WHERE recipient.attributes ->> 'group' IS NOT NULL"
        )
        started_ms = round(started_at.timestamp() * 1000)
        return {str(broadcast_delivery_id(started_ms, number, Channel.PUSH, device)) for (device,) in devices}

    def count_in_flight(self, what: str, lanes: Iterable[int] = (1, 2)) -> tuple[Kill, set[str]]:
        """The rows in flight in ``lanes`` that were not counted before (see ``Kill``), and their ids as far as they
        have one already."""
        rows = self.query(
            "SELECT id, fence FROM delivery WHERE status = %s AND lane = ANY(%s)", int(Status.SENDING), list(lanes)
        )
        claimed: dict[tuple[object, ...], int] = dict.fromkeys(rows, 1)
        if 2 in lanes:
            for number, no, fence, recipients in self.query(
                "SELECT broadcast_number, no, fence, recipients FROM broadcast_chunk WHERE state = 2"
            ):
                claimed[number, no, fence] = recipients
        new = {claim: rows for claim, rows in claimed.items() if claim not in self._claims_counted}
        self._claims_counted |= new.keys()
        return Kill(what, time.time(), sum(new.values())), {str(delivery_id) for delivery_id, _ in rows}

    # --- stores, past the platform ------------------------------------------------------------------------------------
    def cache(self) -> "redis.Redis":
        return redis.Redis.from_url(self.cache_url, socket_timeout=5)

    def _register_people(self) -> None:
        for start in range(0, self.options.people, 1_000):
            numbers = range(start, min(start + 1_000, self.options.people))
            self.call("PUT", "/v1/users:bulk", {"users": [_person(number) for number in numbers]})


def _person(number: int) -> dict[str, Any]:
    """Reachable on every channel, by addresses at which the sandbox does nothing special."""
    user = user_id(number)
    return {
        "user_id": user,
        "email": f"{user}@example.com",
        "phone": f"+1500555{2000 + number}",
        "attributes": {"group": str(number % 10)},
        "devices": [{"token": f"{user}-device-" + "c7D8" * 30, "platform": "android"}],
    }


def new_label(name: str) -> str:
    """A type for the notifications of one run."""
    return f"chaos.{name}.{secrets.token_hex(4)}"


def wait_for(condition: Callable[[], bool], *, timeout_s: float, poll_s: float = POLL_S) -> bool:
    """Whether ``condition`` came true in time. One that cannot be asked (a store is down) is not true yet."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if condition():
                return True
        except (psycopg.Error, redis.RedisError, requests.RequestException, OSError):
            pass
        if time.monotonic() > deadline:
            return False
        time.sleep(poll_s)

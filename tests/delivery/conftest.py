"""A client with a key, an API to call with it, and a wire that answers as the test wishes.

Only the wire is fake: PostgreSQL, Valkey, the cipher, the adapters and the broker are the real ones.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from celery import current_app
from django_redis import get_redis_connection
from rest_framework.test import APIClient

from apps.clients.models import Client
from apps.delivery import doorbell
from apps.preferences import cache
from apps.providers import gateway
from apps.providers.messages import ProviderRequest, ProviderResponse, TransportFailure
from tests.clients.factories import make_api_key, make_client

Answer = ProviderResponse | TransportFailure
ACCEPTED = {
    "fcm": ProviderResponse(200, {"content-type": "application/json"}, b'{"name": "projects/p/messages/1"}'),
    "twilio": ProviderResponse(
        201, {"content-type": "application/json"}, b'{"sid": "SM00000000000000000000000000000001", "status": "queued"}'
    ),
    "sendgrid": ProviderResponse(202, {"x-message-id": "sg-1"}, b""),
}
REFUSED = ProviderResponse(503, {"content-type": "text/html"}, b"<html>busy</html>")
NO_ANSWER = TransportFailure(has_left=True, detail="timeout")
NEVER_LEFT = TransportFailure(has_left=False, detail="connect")


@dataclass
class Wire:
    """What providers see. ``answer`` decides the answer to a request; by default everything is accepted."""

    answer: Callable[[str, ProviderRequest], Answer] = lambda provider, request: ACCEPTED[provider]
    requests: list[tuple[str, ProviderRequest]] = field(default_factory=list)

    def send_all(self, requests: Sequence[ProviderRequest]) -> list[Answer]:
        return [self._send(request) for request in requests]

    def _send(self, request: ProviderRequest) -> Answer:
        provider = next(name for name in ACCEPTED if name in request.url)
        self.requests.append((provider, request))
        return self.answer(provider, request)

    @property
    def addresses(self) -> list[str]:
        return [message.address for _, request in self.requests for message in request.messages]


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Wire:
    fake = Wire()
    monkeypatch.setattr(gateway, "thread_transport", lambda: fake)  # the wire is what these tests fake
    monkeypatch.setattr(gateway, "get_token", lambda alias, grant, now: "access-token")  # its control plane too
    return fake


@pytest.fixture(autouse=True)
def _clean_stores() -> Iterator[None]:
    get_redis_connection("default").flushdb()
    cache.availability.reset()
    doorbell.reset()
    with current_app.connection_for_write() as connection:
        connection.default_channel.client.flushdb()
    yield
    doorbell.reset()


@pytest.fixture
def client_row(db: None) -> Client:
    return make_client()


@pytest.fixture
def api(client_row: Client) -> APIClient:
    """A caller with every scope."""
    return APIClient(headers={"Authorization": f"Api-Key {make_api_key(client_row)}"})

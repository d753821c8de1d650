"""A client with a key, an API to call with it, and a wire that answers as the test wishes.

Only the wire is fake: PostgreSQL, Valkey, the cipher, the adapters and the broker are the real ones.
"""

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from celery import current_app
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from django_redis import get_redis_connection
from rest_framework.test import APIClient

from apps.clients.models import Client
from apps.delivery import doorbell
from apps.preferences import cache, catalogue
from apps.providers import gateway
from apps.providers.messages import ProviderRequest, ProviderResponse, TransportFailure
from tests.brokers import broker as broker
from tests.clients.factories import make_api_key, make_client

Answer = ProviderResponse | TransportFailure
ACCEPTED = {
    "fcm": ProviderResponse(200, {"content-type": "application/json"}, b'{"name": "projects/p/messages/1"}'),
    "twilio": ProviderResponse(
        201, {"content-type": "application/json"}, b'{"sid": "SM00000000000000000000000000000001", "status": "queued"}'
    ),
    "vonage": ProviderResponse(
        200,
        {"content-type": "application/json"},
        b'{"message-count": "1", "messages": [{"to": "1", "message-id": "V1", "status": "0"}]}',
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
def wire(monkeypatch: pytest.MonkeyPatch, accounts: None) -> Wire:
    fake = Wire()
    monkeypatch.setattr(gateway, "thread_transport", lambda: fake)  # the wire is what these tests fake
    monkeypatch.setattr(gateway, "get_token", lambda alias, grant, now: "access-token")  # its control plane too
    return fake


@pytest.fixture(autouse=True)
def _clean_stores() -> Iterator[None]:
    get_redis_connection("default").flushdb()
    cache.availability.reset()
    catalogue.forget_categories()
    doorbell.reset()
    with current_app.connection_for_write() as connection:
        connection.default_channel.client.flushdb()
    yield
    catalogue.forget_categories()
    doorbell.reset()


@pytest.fixture
def client_row(db: None) -> Client:
    return make_client()


@pytest.fixture
def api(client_row: Client) -> APIClient:
    """A caller with every scope."""
    return APIClient(headers={"Authorization": f"Api-Key {make_api_key(client_row)}"})


@pytest.fixture(scope="session")
def service_account(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a Google service account file with a key of its own."""
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    account = {
        "type": "service_account",
        "project_id": "demo-project",
        "private_key_id": "1",
        "private_key": pem,
        "client_email": "notify@demo-project.example.com",
        "token_uri": "https://fcm.invalid/token",
    }
    path = tmp_path_factory.mktemp("fcm") / "service-account.json"
    path.write_text(json.dumps(account))
    return str(path)


@pytest.fixture(scope="session")
def sendgrid_key() -> ec.EllipticCurvePrivateKey:
    """What SendGrid signs its events with."""
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def accounts(settings: Any, service_account: str, sendgrid_key: ec.EllipticCurvePrivateKey) -> None:
    """Working credentials for some providers, none of which is ever called,
    and routes over the first of each channel."""
    public = sendgrid_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    given = {
        "fcm": {"base_url": "https://fcm.invalid", "service_account_file": service_account},
        "twilio": {
            "base_url": "https://twilio.invalid",
            "account_sid": "AC" + "0" * 32,
            "auth_token": "twilio-token",
            "sender": "+15005550006",
        },
        "vonage": {
            "base_url": "https://vonage.invalid",
            "api_key": "abcd1234",
            "api_secret": "Secret0123456789",
            "sender": "15005550006",
        },
        "sendgrid": {
            "base_url": "https://sendgrid.invalid",
            "api_key": "SG.test",
            "from_email": "noreply@example.com",
            "webhook_public_key": base64.b64encode(public).decode(),
        },
    }
    settings.ROUTES = {"push": ["fcm"], "sms": ["twilio"], "email": ["sendgrid"]}
    settings.PROVIDERS = {
        alias: {**entry, "options": {**entry["options"], **given.get(alias, {})}}
        for alias, entry in settings.PROVIDERS.items()
    }

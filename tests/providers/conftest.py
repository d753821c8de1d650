from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django_redis import get_redis_connection
from pytest_django.fixtures import Settings

from apps.providers import tokens
from tests.providers.accounts import fcm_options, sendgrid_options, service_account, twilio_options
from tests.providers.wire import Action, WireServer, issue_certificate

StartServer = Callable[..., WireServer]


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate that vouches for itself, and its key."""
    return issue_certificate(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def start_server(authority: tuple[Path, Path]) -> Iterator[StartServer]:
    servers: list[WireServer] = []

    def start(decide: Callable[[bytes], Action], *, offers_h2: bool = True) -> WireServer:
        servers.append(WireServer(*authority, decide, offers_h2=offers_h2))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def configure(settings: Settings, authority: tuple[Path, Path]) -> Callable[[str], None]:
    """Point every provider account at ``base_url``, over the tests' own authority."""

    def configure(base_url: str) -> None:
        accounts: dict[str, tuple[int, str, dict[str, Any]]] = {
            "fcm": (1, "fcm.FcmAdapter", fcm_options(service_account=service_account(token_uri=f"{base_url}/token"))),
            "twilio": (3, "twilio.TwilioAdapter", twilio_options()),
            "sendgrid": (5, "sendgrid.SendGridAdapter", sendgrid_options()),
        }
        settings.PROVIDERS = {
            alias: {
                "id": number,
                "adapter": f"apps.providers.adapters.{adapter}",
                "options": {**options, "base_url": base_url},
            }
            for alias, (number, adapter, options) in accounts.items()
        }
        settings.PROVIDER_CA_FILE = str(authority[0])
        settings.PROVIDER_TIMEOUT_S = 1.5

    return configure


@pytest.fixture
def no_tokens() -> None:
    """Neither this process nor the cache holds an access token."""
    tokens._held.clear()
    get_redis_connection("default").flushdb()

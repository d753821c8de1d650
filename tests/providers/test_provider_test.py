"""``manage.py provider_test``: one message, and what came of it in plain words."""

from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pytest_django.fixtures import Settings

from apps.providers import orders
from apps.providers.errors import (
    InvalidRecipient,
    NotSent,
    OutcomeUnknown,
    PermanentError,
    ProviderError,
    RateLimited,
    TransientError,
    UnsupportedFeature,
)
from apps.providers.messages import Result
from apps.providers.models import ForcedState
from apps.providers.registry import get_provider
from apps.providers.trial import explain
from tests.providers.accounts import twilio_options
from tests.providers.wire import Reply, WireServer

pytestmark = pytest.mark.django_db
ADDRESS = "+15005550006"


@pytest.fixture(autouse=True)
def _no_orders() -> Iterator[None]:
    orders.orders.forget()
    yield
    orders.orders.forget()


@pytest.fixture
def account(settings: Settings, authority: tuple[Path, Path]) -> Callable[..., None]:
    def account(**changes: object) -> None:
        settings.PROVIDERS = {
            "twilio": {
                "id": 3,
                "adapter": "apps.providers.adapters.twilio.TwilioAdapter",
                "credentials": ("account_sid", "auth_token", "sender"),
                "options": twilio_options(**changes),
            }
        }
        settings.PROVIDER_CA_FILE = str(authority[0])

    return account


def run(*arguments: str, status: int = 0) -> str:
    out = StringIO()
    if status:
        with pytest.raises(SystemExit) as ended:
            call_command("provider_test", *arguments, stdout=out)
        assert ended.value.code == status
    else:
        call_command("provider_test", *arguments, stdout=out)
    return out.getvalue()


def test_an_accepted_message_is_not_yet_one_that_arrived(account: Any, start_server: Any):
    server: WireServer = start_server(lambda body: Reply(201, b'{"sid": "SM1", "status": "queued"}'))
    account(base_url=server.origin)
    said = run("twilio", "--to", ADDRESS)
    assert "twilio accepted the message" in said
    assert "SM1" in said
    assert "not yet the arrival" in said
    assert ADDRESS not in said


def test_refused_credentials_name_what_to_compare(account: Any, start_server: Any):
    server: WireServer = start_server(lambda body: Reply(401, b'{"code": 20003}'))
    account(base_url=server.origin)
    said = run("twilio", "--to", ADDRESS, status=1)
    assert "20003" in said
    assert "account_sid, auth_token, sender" in said


def test_a_server_that_is_not_there(account: Any):
    account(base_url="https://127.0.0.1:1")
    said = run("twilio", "--to", ADDRESS, status=1)
    assert "Nothing left this machine" in said
    assert "Nothing answers there" in said


def test_every_missing_option_is_listed(account: Any):
    account(account_sid="", auth_token="")
    said = run("twilio", "--to", ADDRESS, status=1)
    assert "nothing was sent" in said
    assert "  - account_sid must be" in said
    assert "  - auth_token is missing" in said


def test_a_forced_breaker_is_mentioned(account: Any, start_server: Any):
    server: WireServer = start_server(lambda body: Reply(201, b'{"sid": "SM1", "status": "queued"}'))
    account(base_url=server.origin)
    orders.order_breaker(alias="twilio", state=ForcedState.OPEN, reason="invoice dispute", operator="ada")
    assert "its breaker is open, forced: invoice dispute" in run("twilio", "--to", ADDRESS)


def test_an_address_may_come_from_a_file(account: Any, start_server: Any, tmp_path: Path):
    server: WireServer = start_server(lambda body: Reply(201, b'{"sid": "SM1", "status": "queued"}'))
    account(base_url=server.origin)
    (tmp_path / "address").write_text(f"{ADDRESS}\n")
    assert "accepted" in run("twilio", "--to", f"@{tmp_path / 'address'}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nobody", "--to", ADDRESS), "there is no provider 'nobody'; there are: twilio"),
        (("twilio", "--to", "@/nowhere/at/all"), "cannot be read"),
        (("twilio", "--to", " "), "give an address"),
    ],
)
def test_wrong_arguments_say_what_is_wrong(account: Any, arguments: tuple[str, ...], message: str):
    account()
    with pytest.raises(CommandError, match=message):
        call_command("provider_test", *arguments)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OutcomeUnknown("twilio", "no_answer"), "may have gone out"),
        (InvalidRecipient("twilio", "21211"), "the address does not"),
        (UnsupportedFeature("twilio", "21617"), "would not be asked again"),
        (PermanentError("twilio", "21606"), "often it is the sender"),
        (RateLimited("twilio", "20429", retry_after_s=7.0), "asks for 7 s"),
        (TransientError("twilio", "503"), "trouble of its own"),
        (NotSent("twilio", "oauth_invalid_grant"), "clock is wrong"),
        (NotSent("twilio", "oauth_unreachable"), "cannot be reached"),
        (NotSent("twilio", "not_sent", "curl 60: certificate not trusted"), "PROVIDER_CA_FILE"),
    ],
)
def test_every_kind_of_answer_is_explained(account: Any, error: ProviderError, expected: str):
    account()
    verdict = explain(get_provider("twilio"), Result("1", error=error, latency_s=0.1))
    assert not verdict.is_accepted
    assert expected in " ".join(verdict.lines)

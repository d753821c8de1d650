import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from pytest_django.fixtures import Settings

from apps.providers import transport
from apps.providers.adapters.sendgrid import SendGridAdapter
from apps.providers.errors import (
    InvalidRecipient,
    NotSent,
    OutcomeUnknown,
    PermanentError,
    TransientError,
    Unauthorized,
)
from apps.providers.gateway import send_messages
from apps.providers.messages import Message, Result
from apps.providers.registry import Provider, get_provider
from tests.providers.accounts import message
from tests.providers.conftest import StartServer
from tests.providers.wire import Action, Close, Reply

Configure = Callable[[str], None]
TOKEN = Reply(200, json.dumps({"access_token": "token", "expires_in": 3_600}).encode())
PUSH_ACCEPTED = Reply(200, b'{"name": "projects/example-project/messages/1"}')
MAIL_ACCEPTED = Reply(202, b"", (("x-message-id", "m1"),))
pytestmark = pytest.mark.usefixtures("no_tokens")


def is_token_request(body: bytes) -> bool:
    return body.startswith(b"grant_type=")


def recipients(body: bytes) -> list[str]:
    return [each["to"][0]["email"] for each in json.loads(body)["personalizations"]]


def pushes(count: int) -> list[Message]:
    return [message(number, address=f"token:{number}") for number in range(count)]


def mails(count: int) -> list[Message]:
    return [message(number, address=f"person{number}@example.com") for number in range(count)]


def errors(results: list[Result]) -> list[type | None]:
    return [None if result.error is None else type(result.error) for result in results]


class TestSending:
    def test_every_message_has_one_result_in_its_order(self, start_server: StartServer, configure: Configure):
        configure(start_server(lambda body: TOKEN if is_token_request(body) else PUSH_ACCEPTED).origin)
        messages = pushes(250)
        results = send_messages(get_provider("fcm"), messages)
        assert [result.delivery_id for result in results] == [each.delivery_id for each in messages]
        assert errors(results) == [None] * 250
        assert all(0 < result.latency_s < 1 for result in results)

    def test_no_messages_need_no_provider(self, settings: Settings):
        settings.PROVIDERS = {**settings.PROVIDERS}
        assert send_messages(get_provider("fcm"), []) == []

    def test_a_rejected_message_does_not_cost_the_others(self, start_server: StartServer, configure: Configure):
        server = start_server(lambda _: Reply(201, b'{"sid": "SM1"}'), offers_h2=False)
        configure(server.origin)
        messages = [
            message(1, address="+15005550001"),
            message(2, address="nobody"),
            message(3, address="+15005550003"),
        ]
        results = send_messages(get_provider("twilio"), messages)
        assert errors(results) == [None, InvalidRecipient, None]
        assert len(server.bodies) == 2

    def test_a_lost_answer_is_an_unknown_outcome(self, start_server: StartServer, configure: Configure):
        configure(start_server(lambda _: Close()).origin)
        assert errors(send_messages(get_provider("sendgrid"), mails(3))) == [OutcomeUnknown] * 3

    def test_a_provider_out_of_reach_is_a_passing_failure(self, configure: Configure):
        configure("https://127.0.0.1:1")
        assert errors(send_messages(get_provider("sendgrid"), mails(3))) == [NotSent] * 3

    def test_an_unconfigured_provider_keeps_the_messages(self, settings: Settings):
        results = send_messages(get_provider("twilio"), [message(1, address="+15005550001")])
        assert errors(results) == [NotSent]
        assert results[0].error is not None
        assert results[0].error.code == "not_configured"


class TestSplitting:
    def test_a_named_bad_address_costs_itself_only(self, start_server: StartServer, configure: Configure):
        accepted: Counter[str] = Counter()

        def decide(body: bytes) -> Action:
            people = recipients(body)
            if "person3@example.com" in people:
                position = people.index("person3@example.com")
                error = {"message": "bad", "field": f"personalizations.{position}.to.0.email"}
                return Reply(400, json.dumps({"errors": [error]}).encode())
            accepted.update(people)
            return MAIL_ACCEPTED

        configure(start_server(decide).origin)
        results = send_messages(get_provider("sendgrid"), mails(8))
        assert errors(results) == [InvalidRecipient if number == 3 else None for number in range(8)]
        assert accepted == {f"person{number}@example.com": 1 for number in range(8) if number != 3}

    @pytest.mark.parametrize("bad", [{0}, {7}, {3, 4}, set(range(8))])
    def test_an_unnamed_bad_address_is_found_by_halving(
        self, start_server: StartServer, configure: Configure, bad: set[int]
    ):
        accepted: Counter[str] = Counter()
        refused = {f"person{number}@example.com" for number in bad}

        def decide(body: bytes) -> Action:
            people = recipients(body)
            if refused & set(people):
                return Reply(400, b'{"errors": [{"message": "bad", "field": null}]}')
            accepted.update(people)
            return MAIL_ACCEPTED

        configure(start_server(decide).origin)
        results = send_messages(get_provider("sendgrid"), mails(8))
        assert errors(results) == [PermanentError if number in bad else None for number in range(8)]
        assert accepted == {f"person{number}@example.com": 1 for number in range(8) if number not in bad}

    def test_a_provider_that_refuses_everything_is_not_asked_for_ever(
        self, start_server: StartServer, configure: Configure
    ):
        server = start_server(lambda _: Reply(400, b"{}"))
        configure(server.origin)
        results = send_messages(get_provider("sendgrid"), mails(500))
        assert len(results) == 500
        assert len(server.bodies) <= 80
        assert all(isinstance(result.error, TransientError) for result in results)


class TestTokens:
    def test_a_refused_token_is_renewed_and_the_refused_messages_sent_again(
        self, start_server: StartServer, configure: Configure
    ):
        seen: Counter[str] = Counter()
        issued: list[bytes] = []

        def decide(body: bytes) -> Action:
            if is_token_request(body):
                issued.append(body)
                return TOKEN
            token = json.loads(body)["message"]["token"]
            seen[token] += 1
            return Reply(401, b'{"error": {"status": "UNAUTHENTICATED"}}') if len(issued) == 1 else PUSH_ACCEPTED

        configure(start_server(decide).origin)
        assert errors(send_messages(get_provider("fcm"), pushes(3))) == [None] * 3
        assert len(issued) == 2
        assert set(seen.values()) == {2}

    def test_an_account_that_is_locked_out_is_asked_twice_only(self, start_server: StartServer, configure: Configure):
        server = start_server(lambda body: TOKEN if is_token_request(body) else Reply(401))
        configure(server.origin)
        assert errors(send_messages(get_provider("fcm"), pushes(2))) == [Unauthorized] * 2
        assert sum(not is_token_request(body) for body in server.bodies) == 4

    def test_without_a_token_nothing_is_sent(self, start_server: StartServer, configure: Configure):
        server = start_server(lambda _: Reply(400, b'{"error": "invalid_grant"}'))
        configure(server.origin)
        results = send_messages(get_provider("fcm"), pushes(3))
        assert errors(results) == [NotSent] * 3
        assert {result.error.code for result in results if result.error} == {"oauth_invalid_grant"}
        assert all(is_token_request(body) for body in server.bodies)


class ClumsyAdapter(SendGridAdapter):
    """Has bugs: cannot build for one address, nor parse what came of another."""

    def build(self, messages: Any, context: Any) -> Any:
        if any(each.address.startswith("person1@") for each in messages):
            raise ZeroDivisionError
        return super().build(messages, context)

    def parse(self, request: Any, response: Any) -> Any:
        if any(each.address.startswith("person2@") for each in request.messages):
            raise ZeroDivisionError
        return super().parse(request, response)[:1]


class TestBugs:
    def test_a_bug_of_an_adapter_costs_only_the_messages_that_meet_it(
        self, start_server: StartServer, configure: Configure, settings: Settings
    ):
        configure(start_server(lambda _: MAIL_ACCEPTED).origin)
        entry = {**settings.PROVIDERS["sendgrid"], "adapter": f"{__name__}.ClumsyAdapter"}
        results = send_messages(Provider("sendgrid", entry), mails(4))
        assert errors(results) == [None, PermanentError, OutcomeUnknown, None]


class TestLog:
    def test_one_line_a_call_and_nothing_personal(self, start_server: StartServer, configure: Configure):
        configure(start_server(lambda _: Reply(201, b'{"sid": "SM1"}'), offers_h2=False).origin)
        messages = [message(1, address="+15005550001", body="Body" * 41), message(2, address="nobody")]
        with structlog.testing.capture_logs() as lines:
            send_messages(get_provider("twilio"), messages)
        [line] = [line for line in lines if line["event"] == "provider_call"]
        assert line["provider"] == "twilio"
        assert (line["messages"], line["accepted"], line["statuses"], line["errors"]) == (
            2,
            1,
            {"201": 1},
            {"not_e164": 1},
        )
        assert line["segments"] == 2
        assert "+1500" not in repr(line)
        assert "Body" not in repr(line)

    def test_a_thread_keeps_its_transport_between_calls(self, start_server: StartServer, configure: Configure):
        server = start_server(lambda _: MAIL_ACCEPTED)
        configure(server.origin)
        for _ in range(3):
            send_messages(get_provider("sendgrid"), mails(1))
        assert len(server.connections) == 1
        assert transport.thread_transport() is transport.thread_transport()

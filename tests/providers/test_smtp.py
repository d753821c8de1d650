"""SMTP: what the adapter builds and reads, and how the transport talks to servers of all tempers."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from pytest_django.fixtures import Settings

from apps.providers.adapters.smtp import SmtpAdapter
from apps.providers.authorities import ca_bundle
from apps.providers.errors import (
    ConfigurationError,
    ForgedReceipt,
    InvalidRecipient,
    NotSent,
    OutcomeUnknown,
    PermanentError,
    TransientError,
    UnsupportedFeature,
)
from apps.providers.gateway import send_messages
from apps.providers.limits import Limits
from apps.providers.messages import (
    BuildContext,
    Message,
    ProviderRequest,
    ProviderResponse,
    Result,
    TransportFailure,
    WebhookCall,
)
from apps.providers.registry import get_provider
from apps.providers.smtp_transport import MESSAGES_PER_CONNECTION, SmtpTransport, close_transports
from tests.providers.accounts import delivery_id, message
from tests.providers.mail_server import CUT, Decide, MailServer
from tests.providers.sandbox.client import SandboxClient
from tests.providers.sandbox.conftest import SandboxProcess

CONTEXT = BuildContext(now=datetime(2026, 11, 22, 12, 0, tzinfo=UTC))
LIMITS = Limits(connect_s=1.0, total_s=1.5)
ANY_TEXT = st.text(st.characters(min_codepoint=0, max_codepoint=0x10FFFF, exclude_categories=()), max_size=60)


def options(**changes: object) -> dict[str, Any]:
    return {
        "host": "smtp.example.com",
        "port": 587,
        "tls": "starttls",
        "user": "user",
        "password": "password",
        "from_email": "news@example.com",
        "from_name": "News",
        **changes,
    }


def make(**changes: object) -> SmtpAdapter:
    return SmtpAdapter("smtp", options(**changes))


def mail(number: int = 1, **fields: Any) -> Message:
    return message(number, **{"address": f"person{number}@example.com", **fields})


def parse_mail(body: bytes) -> EmailMessage:
    parsed = message_from_bytes(body, policy=default)
    assert isinstance(parsed, EmailMessage)
    return parsed


def text_of(parsed: EmailMessage, kind: str) -> str:
    part = parsed.get_body((kind,))
    assert part is not None
    return str(part.get_content())


class TestBuild:
    def test_one_request_carries_one_recipient(self):
        requests = make().build([mail(1), mail(2)], CONTEXT)
        assert [dict(request.headers)["rcpt-to"] for request in requests] == [
            "person1@example.com",
            "person2@example.com",
        ]
        assert {request.url for request in requests} == {"smtp://smtp.example.com:587"}

    def test_the_mail_says_what_was_asked_for(self):
        [request] = make().build([mail(title="Grüße", body="Hallo\n.\nTschüß", html="<p>Hallo</p>")], CONTEXT)
        parsed = parse_mail(request.body)
        assert (parsed["From"], parsed["To"], parsed["Subject"]) == (
            "News <news@example.com>",
            "person1@example.com",
            "Grüße",
        )
        assert parsed["Message-ID"] == f"<{delivery_id(1)}@example.com>"
        assert parsed["Date"] == "Sun, 22 Nov 2026 12:00:00 +0000"
        assert parsed["Auto-Submitted"] == "auto-generated"
        assert parsed.get_content_type() == "multipart/alternative"
        assert text_of(parsed, "plain").splitlines() == ["Hallo", ".", "Tschüß"]
        assert text_of(parsed, "html").strip() == "<p>Hallo</p>"

    @pytest.mark.parametrize(
        ("fields", "kind"), [({"html": None}, "plain"), ({"body": "", "html": "<b>x</b>"}, "html")]
    )
    def test_one_kind_of_text_makes_a_simple_mail(self, fields: dict[str, Any], kind: str):
        [request] = make().build([mail(**fields)], CONTEXT)
        assert parse_mail(request.body).get_content_type() == f"text/{kind}"

    def test_bulk_mail_carries_its_unsubscribe_link(self):
        [request] = make().build([mail(unsubscribe_url="https://notify.example.com/u/1")], CONTEXT)
        parsed = parse_mail(request.body)
        assert parsed["List-Unsubscribe"] == "<https://notify.example.com/u/1>"
        assert parsed["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"

    def test_a_senders_name_may_be_the_messages_own(self):
        [request] = make().build([mail(from_name="Ärzte & Co")], CONTEXT)
        assert parse_mail(request.body)["From"].addresses[0].display_name == "Ärzte & Co"

    def test_the_wire_carries_seven_bits_and_short_lines(self):
        [request] = make().build([mail(title="ü" * 200, body="ü" * 5_000 + "x" * 5_000, html="<p>\0</p>")], CONTEXT)
        assert request.body.isascii()
        assert b"\0" not in request.body
        lines = request.body.split(b"\r\n")
        assert max(map(len, lines)) <= 998  # RFC 5322, 2.1.1
        assert not any(b"\n" in line or b"\r" in line for line in lines)

    @pytest.mark.parametrize(
        ("fields", "error", "code"),
        [
            ({"address": "no address"}, InvalidRecipient, "not_an_address"),
            ({"address": "a@b.example.com>\r\nRCPT TO:<c@example.com"}, InvalidRecipient, "not_an_address"),
            ({"address": "ü@example.com"}, UnsupportedFeature, "not_ascii"),
            ({"address": f"a@{'b' * 250}.de"}, InvalidRecipient, "not_an_address"),
            ({"title": "a\r\nBcc: b@example.com"}, PermanentError, "malformed_subject"),
            ({"body": ""}, PermanentError, "no_text"),
            ({"body": "x" * 10_000_001}, UnsupportedFeature, "text_too_long"),
        ],
    )
    def test_what_no_server_should_see_is_refused(self, fields: dict[str, Any], error: type[Exception], code: str):
        [request] = make().build([mail(**fields)], CONTEXT)
        assert type(request.rejected) is error
        assert request.rejected.code == code

    @settings(deadline=None, max_examples=300)
    @given(data=st.data())
    def test_no_message_makes_it_raise(self, data: st.DataObject):
        hostile = Message(
            delivery_id=delivery_id(1),
            address=data.draw(ANY_TEXT | st.just("person@example.com")),
            title=data.draw(ANY_TEXT | st.just("Title")),
            body=data.draw(ANY_TEXT),
            html=data.draw(st.none() | ANY_TEXT),
            from_name=data.draw(st.none() | ANY_TEXT),
            unsubscribe_url=data.draw(st.none() | ANY_TEXT),
        )
        [request] = make().build([hostile], CONTEXT)
        if request.rejected is None:
            parsed = parse_mail(request.body)
            assert parsed["To"] == "person@example.com"
            assert not set(parsed.keys()) & {"Bcc", "Cc"}


class TestParse:
    @pytest.mark.parametrize(
        ("stage", "status", "text", "error", "code"),
        [
            ("data", 250, b"2.0.0 queued", None, ""),
            ("rcpt", 550, b"5.1.1 no such user", InvalidRecipient, "5.1.1"),
            ("rcpt", 550, b"5.2.1 disabled", InvalidRecipient, "5.2.1"),
            ("data", 550, b"5.1.1 no such user", InvalidRecipient, "5.1.1"),
            ("rcpt", 550, b"no", PermanentError, "550"),
            ("rcpt", 550, b"5.7.1 policy", PermanentError, "5.7.1"),
            ("rcpt", 552, b"5.2.2 mailbox full", UnsupportedFeature, "5.2.2"),
            ("data", 554, b"5.7.1 spam", PermanentError, "5.7.1"),
            ("mail", 552, b"5.3.4 too big", UnsupportedFeature, "5.3.4"),
            ("data", 554, b"5.3.4 too big", UnsupportedFeature, "5.3.4"),
            ("rcpt", 452, b"4.2.2 full", TransientError, "4.2.2"),
            ("rcpt", 450, b"busy", TransientError, "450"),
            ("connect", 421, b"4.3.2 too many connections", TransientError, "4.3.2"),
            ("connect", 554, b"go away", NotSent, "554"),
            ("auth", 535, b"5.7.8 bad credentials", NotSent, "5.7.8"),
            ("auth", 454, b"4.7.0 try later", TransientError, "4.7.0"),
            ("mail", 530, b"5.7.0 authenticate first", NotSent, "5.7.0"),
            ("mail", 553, b"5.1.8 whose address is that", NotSent, "5.1.8"),
            ("ehlo", 550, b"go away", NotSent, "550"),
            ("starttls", 554, b"5.7.0 no", NotSent, "5.7.0"),
            ("mail", 550, b"no such sender here", NotSent, "550"),
            ("rcpt", 530, b"5.7.0 authenticate first", NotSent, "5.7.0"),
            ("data", 550, b"5.7.0 content refused", PermanentError, "5.7.0"),
            ("rcpt", 550, b"4.1.1 a code that does not fit", PermanentError, "550"),
            ("data", 299, b"", OutcomeUnknown, "299"),
            ("data", 0, b"garbage", OutcomeUnknown, "0"),
            ("mail", 354, b"", TransientError, "354"),
        ],
    )
    def test_a_reply_has_its_meaning(
        self, stage: str, status: int, text: bytes, error: type[Exception] | None, code: str
    ):
        [request] = make().build([mail()], CONTEXT)
        [result] = make().parse(request, ProviderResponse(status, {"smtp-stage": stage}, text, 0.1))
        if error is None:
            assert result == Result(delivery_id(1), f"{delivery_id(1)}@example.com", latency_s=0.1)
        else:
            assert type(result.error) is error
            assert result.error.code == code

    @pytest.mark.parametrize(("has_left", "error"), [(True, OutcomeUnknown), (False, NotSent)])
    def test_no_reply(self, has_left: bool, error: type[Exception]):
        [request] = make().build([mail()], CONTEXT)
        [result] = make().parse(request, TransportFailure(has_left, "timed out"))
        assert type(result.error) is error

    @settings(deadline=None, max_examples=300)
    @given(status=st.integers(-1, 999), text=st.binary(max_size=60), stage=ANY_TEXT | st.sampled_from(["rcpt", "data"]))
    def test_no_reply_makes_it_raise(self, status: int, text: bytes, stage: str):
        [request] = make().build([mail()], CONTEXT)
        [result] = make().parse(request, ProviderResponse(status, {"smtp-stage": stage}, text))
        assert (result.error is None) == (status == 250 and stage == "data")

    def test_errors_carry_nothing_of_the_reply_but_codes(self):
        [request] = make().build([mail()], CONTEXT)
        text = b"5.1.1 <person1@example.com>: no such user"
        [result] = make().parse(request, ProviderResponse(550, {"smtp-stage": "rcpt"}, text))
        assert "person1" not in str(result.error)

    def test_there_are_no_receipts(self):
        with pytest.raises(ForgedReceipt):
            make().verify_receipt(WebhookCall("https://notify.example.com/", {}, b""), CONTEXT.now)


class TestConfiguration:
    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"host": ""}, "host"),
            ({"host": "a b"}, "host"),
            ({"port": 0}, "port"),
            ({"port": "smtp"}, "port"),
            ({"tls": "ssl"}, "tls"),
            ({"password": ""}, "user and password"),
            ({"tls": "none"}, "in the clear"),
            ({"from_email": "news"}, "from_email"),
        ],
    )
    def test_a_wrong_option_is_named(self, changes: dict[str, object], named: str):
        with pytest.raises(ConfigurationError, match=named):
            make(**changes)

    @pytest.mark.parametrize(
        "changes", [{"tls": "none", "host": "127.0.0.1"}, {"tls": "none", "user": "", "password": ""}, {"host": "::1"}]
    )
    def test_unusual_but_sound_options_pass(self, changes: dict[str, object]):
        assert make(**changes).build([mail()], CONTEXT)[0].rejected is None


@pytest.fixture
def serve() -> Iterator[Callable[..., MailServer]]:
    servers: list[MailServer] = []

    def serve(decide: Decide = lambda connection, step: None) -> MailServer:
        servers.append(MailServer(decide))
        return servers[-1]

    yield serve
    for server in servers:
        server.stop()


@pytest.fixture
def transport() -> Iterator[SmtpTransport]:
    transport = SmtpTransport(limits=LIMITS, ca_file=ca_bundle(""))
    yield transport
    transport.close()


def requests_to(server: MailServer, count: int = 1, **fields: Any) -> list[ProviderRequest]:
    adapter = make(host="127.0.0.1", port=server.port, tls="none", user="", password="")
    return adapter.build([mail(number, **fields) for number in range(1, count + 1)], CONTEXT)


Serve = Callable[..., MailServer]


class TestTransport:
    def test_a_mail_is_taken_on_as_it_was_built(self, serve: Serve, transport: SmtpTransport):
        server = serve()
        [request] = requests_to(server, body="first\n.\n..second")
        [outcome] = transport.send_all([request])
        assert isinstance(outcome, ProviderResponse)
        assert (outcome.status, outcome.headers) == (250, {"smtp-stage": "data"})
        [taken] = server.mails
        assert taken.replace(b"\r\n..", b"\r\n.") == request.body
        assert b"\r\n.." in taken

    def test_connections_are_kept(self, serve: Serve, transport: SmtpTransport):
        server = serve()
        for _ in range(3):
            transport.send_all(requests_to(server, 2))
        assert len(server.steps) == 1
        assert len(server.mails) == 6

    def test_many_mails_share_several_connections(self, serve: Serve, transport: SmtpTransport):
        server = serve()
        outcomes = transport.send_all(requests_to(server, 3 * MESSAGES_PER_CONNECTION))
        assert {outcome.status for outcome in outcomes if isinstance(outcome, ProviderResponse)} == {250}
        assert len(outcomes) == len(server.mails) == 3 * MESSAGES_PER_CONNECTION
        assert len(server.steps) == 3

    def test_a_refused_recipient_costs_no_other(self, serve: Serve, transport: SmtpTransport):
        refused = iter([None, b"550 5.1.1 no\r\n", None])
        server = serve(lambda connection, step: next(refused) if step == "RCPT" else None)
        outcomes = transport.send_all(requests_to(server, 3))
        statuses = [outcome.status for outcome in outcomes if isinstance(outcome, ProviderResponse)]
        assert statuses == [250, 550, 250]
        assert len(server.steps) == 1

    @pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA"])
    def test_a_line_cut_before_the_content_lost_nothing(self, serve: Serve, transport: SmtpTransport, step: str):
        server = serve(lambda connection, heard: CUT if heard == step else None)
        [outcome] = transport.send_all(requests_to(server))
        assert isinstance(outcome, TransportFailure)
        assert not outcome.has_left

    def test_a_line_cut_after_the_dot_leaves_the_outcome_unknown(self, serve: Serve, transport: SmtpTransport):
        server = serve(lambda connection, step: CUT if step == "content" else None)
        outcomes = transport.send_all(requests_to(server, 2))
        assert [outcome.has_left for outcome in outcomes if isinstance(outcome, TransportFailure)] == [True, True]
        assert len(server.mails) == 2  # each was sent once

    @pytest.mark.parametrize("said", [CUT, b"421 4.4.2 idle for too long\r\n"])
    def test_a_kept_connection_that_died_is_replaced(self, serve: Serve, transport: SmtpTransport, said: bytes):
        heard_mail = [0]

        def decide(connection: int, step: str) -> bytes | None:
            if connection == 0 and step == "MAIL":
                heard_mail[0] += 1
                return said if heard_mail[0] > 1 else None
            return None

        server = serve(decide)
        for _ in range(2):
            [outcome] = transport.send_all(requests_to(server))
            assert isinstance(outcome, ProviderResponse)
            assert outcome.status == 250
        assert len(server.steps) == 2
        assert len(server.mails) == 2

    def test_a_server_that_hangs_up_is_not_asked_for_every_message(self, serve: Serve, transport: SmtpTransport):
        server = serve(lambda connection, step: b"421 too many connections\r\n" if step == "connect" else None)
        outcomes = transport.send_all(requests_to(server, 5))
        assert [outcome.status for outcome in outcomes if isinstance(outcome, ProviderResponse)] == [421] * 5
        assert len(server.steps) == 1

    def test_an_unreachable_server(self, transport: SmtpTransport):
        adapter = make(host="127.0.0.1", port=1, tls="none", user="", password="")
        [outcome] = transport.send_all(adapter.build([mail()], CONTEXT))
        assert isinstance(outcome, TransportFailure)
        assert (outcome.has_left, outcome.detail) == (False, "connection refused or unreachable")

    def test_a_silent_server_costs_the_time_out(self, serve: Serve):
        transport = SmtpTransport(limits=Limits(connect_s=0.2, total_s=0.2), ca_file=ca_bundle(""))
        server = serve(lambda connection, step: b" " if step == "content" else None)
        [outcome] = transport.send_all(requests_to(server))
        assert isinstance(outcome, TransportFailure)
        assert (outcome.has_left, outcome.detail) == (True, "timed out")

    def test_mails_past_the_calls_time_were_not_started(self, serve: Serve):
        limits = Limits(connect_s=1.0, total_s=0.3, call_s=0.1)
        transport = SmtpTransport(limits=limits, ca_file=ca_bundle(""))
        server = serve(lambda connection, step: b" " if step == "content" else None)
        outcomes = transport.send_all(requests_to(server, 3))
        failures = [outcome for outcome in outcomes if isinstance(outcome, TransportFailure)]
        assert [(failure.has_left, failure.was_started) for failure in failures] == [
            (True, True),
            (False, False),
            (False, False),
        ]
        assert len(server.mails) == 1

    def test_a_server_that_dawdles_has_one_time_for_everything(self, serve: Serve):
        transport = SmtpTransport(limits=Limits(connect_s=0.1, total_s=0.3), ca_file=ca_bundle(""))
        started = time.monotonic()
        server = serve(lambda connection, step: time.sleep(0.25))  # a little less than the time-out, at each step
        [outcome] = transport.send_all(requests_to(server))
        assert isinstance(outcome, TransportFailure)
        assert (outcome.has_left, outcome.detail) == (False, "timed out")
        assert time.monotonic() - started < 1.0

    def test_encryption_is_never_given_up(self, serve: Serve, transport: SmtpTransport):
        server = serve()
        adapter = make(host="127.0.0.1", port=server.port)
        [outcome] = transport.send_all(adapter.build([mail()], CONTEXT))
        assert isinstance(outcome, TransportFailure)
        assert outcome.detail == "the server offers no STARTTLS"
        assert "AUTH" not in server.steps[0]

    def test_a_garbled_reply_after_the_dot_is_unknown(self, serve: Serve, transport: SmtpTransport):
        server = serve(lambda connection, step: b"what?\r\n" if step == "content" else None)
        [request] = requests_to(server)
        [outcome] = transport.send_all([request])
        [result] = make().parse(request, outcome)
        assert type(result.error) is OutcomeUnknown

    def test_a_command_cannot_hide_in_an_address(self, serve: Serve, transport: SmtpTransport):
        [request] = requests_to(server := serve())
        headers = tuple(
            (name, "a@b.example.com>\r\nRSET" if name == "rcpt-to" else value) for name, value in request.headers
        )
        [outcome] = transport.send_all([replace(request, headers=headers)])
        assert outcome == TransportFailure(has_left=False, detail="malformed request")
        assert server.steps == []


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxProcess]:
    process = SandboxProcess(tmp_path_factory.mktemp("sandbox"), "http://127.0.0.1:1").start()
    yield process
    assert process.stop() == 0


@pytest.fixture
def sandbox(process: SandboxProcess, settings: Settings) -> Iterator[SandboxClient]:
    """The sandbox's mail server, empty and without faults, as the account ``smtp``."""
    process.client.control("POST", "reset")
    values = process.client.env
    given = {name: values[f"SMTP_{name.upper()}"] for name in ("host", "port", "tls", "user", "password", "from_email")}
    settings.PROVIDERS = {
        "smtp": {
            "id": 7,
            "adapter": "apps.providers.adapters.smtp.SmtpAdapter",
            "timeout_s": 3.0,
            "options": {**given, "from_name": "Notify"},
        }
    }
    settings.PROVIDER_CA_FILE = values["PROVIDER_CA_FILE"]
    yield process.client
    close_transports()


def send(*addresses: str, **fields: Any) -> list[Result]:
    messages = [Message(str(uuid4()), address, "Title", "Body\n.\nend", **fields) for address in addresses]
    return send_messages(get_provider("smtp"), messages)


class TestAgainstSandbox:
    def test_mails_arrive_encrypted_and_authenticated(self, sandbox: SandboxClient):
        results = send(*(f"person{number}@example.com" for number in range(40)), html="<p>Body</p>")
        assert [result.error for result in results] == [None] * 40
        lines = sandbox.ledger()
        assert {line["delivery_id"] for line in lines} == {result.delivery_id for result in results}
        shown = sandbox.inbox()[0]
        assert (shown["provider"], shown["title"], shown["sender"]) == ("smtp", "Title", "Notify <notify@example.com>")
        assert shown["body"].split() == ["Body", ".", "end"]
        assert shown["html"].strip() == "<p>Body</p>"

    @pytest.mark.parametrize(
        ("address", "error", "code"),
        [
            ("bounce@example.com", InvalidRecipient, "5.1.1"),
            ("disabled@example.com", InvalidRecipient, "5.2.1"),
            ("blocked@example.com", PermanentError, "5.7.1"),
            ("rejected@example.com", PermanentError, "550"),
            ("full@example.com", TransientError, "4.2.2"),
            ("greylisted@example.com", TransientError, "4.7.1"),
        ],
    )
    def test_addresses_that_behave(self, sandbox: SandboxClient, address: str, error: type[Exception], code: str):
        refused, accepted = send(address, "person@example.com")
        assert type(refused.error) is error
        assert refused.error.code == code
        assert accepted.error is None

    @pytest.mark.parametrize(
        ("rule", "error", "code"),
        [
            ({"mode": "error"}, TransientError, "4.3.0"),
            ({"mode": "error", "status": 554, "code": "5.7.1"}, PermanentError, "5.7.1"),
            ({"mode": "throttle"}, TransientError, "4.7.0"),
            ({"mode": "outage"}, NotSent, "not_sent"),
            ({"mode": "drop"}, OutcomeUnknown, "no_answer"),
        ],
    )
    def test_faults(self, sandbox: SandboxClient, rule: dict[str, Any], error: type[Exception], code: str):
        sandbox.set_faults("smtp", rule)
        [result] = send("person@example.com")
        assert type(result.error) is error
        assert result.error.code == code
        assert len(sandbox.ledger()) == (rule["mode"] == "drop")

    def test_a_dropped_connection_is_replaced(self, sandbox: SandboxClient):
        sandbox.set_faults("smtp", {"mode": "drop", "times": 1})
        assert [result.error is None for result in send("a@example.com", "b@example.com", "c@example.com")] == [
            False,
            True,
            True,
        ]
        assert len(sandbox.ledger()) == 3

    def test_wrong_credentials_cost_no_message(self, sandbox: SandboxClient, settings: Settings):
        entry = settings.PROVIDERS["smtp"]
        settings.PROVIDERS = {"smtp": {**entry, "options": {**entry["options"], "password": "wrong"}}}
        [result] = send("person@example.com")
        assert type(result.error) is NotSent
        assert result.error.code == "5.7.8"

    def test_an_untrusted_server_is_told_nothing(self, sandbox: SandboxClient, settings: Settings):
        settings.PROVIDER_CA_FILE = ""
        [result] = send("person@example.com")
        assert type(result.error) is NotSent
        assert result.error.message == "certificate not trusted"
        assert sandbox.ledger() == []

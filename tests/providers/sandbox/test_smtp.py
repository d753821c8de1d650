"""The sandbox's mail server, spoken to with Python's own client and by hand."""

import smtplib
import socket
import ssl
import uuid
from collections.abc import Iterator
from email.message import EmailMessage

import pytest

RECIPIENT = "person@example.com"


@pytest.fixture
def tls(sandbox) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=sandbox.env["PROVIDER_CA_FILE"])


@pytest.fixture
def plain(sandbox) -> Iterator[smtplib.SMTP]:
    """A conversation before encryption."""
    host, port = sandbox.env["SMTP_HOST"], int(sandbox.env["SMTP_PORT"])
    with smtplib.SMTP(host, port, local_hostname="test.example.com", timeout=5) as client:
        yield client


@pytest.fixture
def client(sandbox, plain, tls) -> smtplib.SMTP:
    """A conversation past encryption and login."""
    plain.starttls(context=tls)
    plain.login(sandbox.env["SMTP_USER"], sandbox.env["SMTP_PASSWORD"])
    return plain


def mail(delivery_id: str = "", **headers: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "notify@example.com", RECIPIENT, "Hello"
    message["Message-ID"] = f"<{delivery_id or uuid.uuid4()}@example.com>"
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    message.set_content("First\n.\n..third")
    return message


def test_a_mail_is_in_ledger_and_inbox(sandbox, client):
    delivery_id = str(uuid.uuid4())
    assert client.send_message(mail(delivery_id, List_Unsubscribe="<https://example.com/u>")) == {}
    [entry] = sandbox.ledger()
    assert (entry["provider"], entry["delivery_id"]) == ("smtp", delivery_id)
    [shown] = sandbox.inbox()
    assert (shown["to"], shown["sender"], shown["title"]) == (RECIPIENT, "notify@example.com", "Hello")
    assert shown["body"].split() == ["First", ".", "..third"]
    assert shown["extra"]["headers"]["List-Unsubscribe"] == "<https://example.com/u>"


def test_every_recipient_counts(sandbox, client):
    refused = client.send_message(mail(), to_addrs=["a@example.com", "bounce@example.com", "b@example.com"])
    assert refused == {"bounce@example.com": (550, b"5.1.1 No such mailbox")}
    assert len(sandbox.ledger()) == 2


def test_commands_may_be_sent_ahead_of_their_replies(sandbox, client):
    for line in ("MAIL FROM:<notify@example.com>", f"RCPT TO:<{RECIPIENT}>", "DATA"):
        client.putcmd(line)
    assert [client.getreply()[0] for _ in range(3)] == [250, 250, 354]
    client.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
    assert client.getreply()[0] == 250
    assert len(sandbox.ledger()) == 1


@pytest.mark.parametrize(
    ("commands", "code"),
    [
        (["MAIL FROM:<a@example.com>"], 503),
        (["EHLO x", "MAIL FROM:<a@example.com>"], 530),
        (["EHLO x", "AUTH PLAIN AGEAYg=="], 538),
        (["EHLO x", "RCPT TO:<a@example.com>"], 503),
        (["EHLO x", "DATA"], 503),
        (["EHLO"], 501),
        (["NONSENSE"], 500),
        (["NOOP"], 250),
        (["VRFY person"], 252),
        (["QUIT"], 221),
        (["x" * 2_100], 500),
    ],
)
def test_a_stranger_is_answered_as_documented(plain, commands, code):
    replies = [plain.docmd(command)[0] for command in commands]
    assert replies[-1] == code


@pytest.mark.parametrize(
    ("commands", "code"),
    [
        (["STARTTLS"], 503),
        (["AUTH PLAIN AGEAYg=="], 503),
        (["MAIL FROM:notify@example.com"], 501),
        (["MAIL FROM:<notify@example.com> SIZE=99999999"], 552),
        (["MAIL FROM:<notify@example.com>", "MAIL FROM:<notify@example.com>"], 503),
        (["MAIL FROM:<notify@example.com>", "RCPT TO:<nobody>"], 501),
        (["MAIL FROM:<notify@example.com>", "RSET", f"RCPT TO:<{RECIPIENT}>"], 503),
        (["MAIL FROM:<notify@example.com> SIZE=100 BODY=8BITMIME", f"RCPT TO:<{RECIPIENT}>"], 250),
    ],
)
def test_a_client_is_answered_as_documented(client, commands, code):
    client.ehlo()
    replies = [client.docmd(command)[0] for command in commands]
    assert replies[-1] == code


@pytest.mark.parametrize(("user", "password", "code"), [("sandbox", "wrong", 535), ("", "", 535)])
def test_wrong_credentials_are_refused(plain, tls, user, password, code):
    plain.starttls(context=tls)
    with pytest.raises(smtplib.SMTPAuthenticationError) as raised:
        plain.login(user, password)
    assert raised.value.smtp_code == code


def test_what_was_said_before_encryption_does_not_count(plain, tls):
    plain.ehlo()
    plain.starttls(context=tls)
    assert plain.docmd("MAIL FROM:<notify@example.com>")[0] == 503


@pytest.mark.parametrize("content", [b"Subject: x\r\n\r\nbare\nline\r\n", b"Subject: x\r\n\r\nbare\rreturn\r\n"])
def test_bare_line_ends_are_refused(sandbox, client, content):
    client.docmd("MAIL FROM:<notify@example.com>")
    client.docmd(f"RCPT TO:<{RECIPIENT}>")
    client.docmd("DATA")
    client.send(content + b".\r\n")
    assert client.getreply()[0] == 554
    assert sandbox.ledger() == []


def test_too_large_a_mail_is_read_to_its_end_and_refused(sandbox, client):
    client.docmd("MAIL FROM:<notify@example.com>")
    client.docmd(f"RCPT TO:<{RECIPIENT}>")
    client.docmd("DATA")
    client.send(b"x" * 998 + b"\r\n")
    for _ in range(11):
        client.send((b"x" * 998 + b"\r\n") * 1_000)
    client.send(b".\r\n")
    assert client.getreply()[0] == 552
    assert client.noop()[0] == 250
    assert sandbox.ledger() == []


@pytest.mark.parametrize(
    ("rule", "reply"),
    [
        ({"mode": "error"}, (451, b"4.3.0 As told")),
        ({"status": 550, "code": "5.7.1"}, (550, b"5.7.1 As told")),
        ({"mode": "throttle"}, (421, b"4.7.0 Too many messages, try again later")),
    ],
)
def test_faults_are_replies(sandbox, client, rule, reply):
    sandbox.set_faults("smtp", rule)
    client.docmd("MAIL FROM:<notify@example.com>")
    assert client.docmd(f"RCPT TO:<{RECIPIENT}>") == reply
    assert sandbox.stats()["providers"]["smtp"]["errors"] == {str(reply[0]): 1}


def test_a_fault_meets_the_address_it_names(sandbox, client):
    sandbox.set_faults("smtp", {"mode": "error", "match": {"address": "a@example.com"}})
    client.docmd("MAIL FROM:<notify@example.com>")
    assert [client.docmd(f"RCPT TO:<{name}@example.com>")[0] for name in "ab"] == [451, 250]


@pytest.mark.parametrize(("mode", "taken"), [("drop", 1), ("outage", 0)])
def test_a_connection_may_be_cut(sandbox, client, mode, taken):
    sandbox.set_faults("smtp", {"mode": mode})
    with pytest.raises(smtplib.SMTPServerDisconnected):
        client.send_message(mail())
    assert len(sandbox.ledger()) == taken


def test_a_rule_needs_an_enhanced_code(sandbox):
    answer = sandbox.session.put(f"{sandbox.http_url}/_sandbox/faults/smtp", json={"code": "nonsense"}, timeout=5)
    assert answer.status_code == 400
    assert "4.3.0" in answer.json()["error"]


def test_noise_ends_the_conversation_and_nothing_else(sandbox, client):
    address = (sandbox.env["SMTP_HOST"], int(sandbox.env["SMTP_PORT"]))
    for noise in (b"\x16\x03\x01" * 3_000, b"\r\n" * 50, b"EHLO x\r\nSTARTTLS\r\nnot TLS at all\r\n"):
        with socket.create_connection(address, timeout=5) as connection:
            connection.sendall(noise)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4_096):
                pass
    assert client.noop()[0] == 250

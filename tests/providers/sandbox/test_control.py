import hashlib

import pytest

from tests.providers.sandbox.conftest import wait_until


def test_the_ledger_shows_what_was_accepted_without_addresses(sandbox, shared_process):
    sandbox.push_with_ack("d-1", token="device-secret")
    sandbox.text("+15005551234", Body="a secret text")
    sandbox.mail("ada@example.com")
    entries = sandbox.ledger()
    assert [(entry["n"], entry["provider"]) for entry in entries] == [(1, "fcm"), (2, "twilio"), (3, "sendgrid")]
    assert entries[0].keys() == {
        "n", "at", "provider", "delivery_id", "provider_message_id", "address_sha256", "bytes"
    }  # fmt: skip
    assert entries[1]["address_sha256"] == hashlib.sha256(b"+15005551234").hexdigest()
    assert all(entry["bytes"] > 0 for entry in entries)
    on_disk = b"".join(path.read_bytes() for path in shared_process.data_dir.iterdir())
    for personal in (b"device-secret", b"+15005551234", b"ada@example.com", b"a secret text"):
        assert personal not in on_disk


def test_the_ledger_pages_by_number(sandbox):
    for number in range(5):
        sandbox.push_with_ack(f"d-{number}")
    assert [entry["delivery_id"] for entry in sandbox.ledger(after=3)] == ["d-3", "d-4"]
    response = sandbox.session.get(f"{sandbox.http_url}/_sandbox/ledger?after=1&limit=2", timeout=5)
    assert response.headers["Content-Type"] == "application/x-ndjson"
    assert len(response.text.splitlines()) == 2


def test_stats_count_by_provider(sandbox):
    sandbox.push_with_ack("d-1")
    sandbox.push("dead-1", notification={"title": "Hi"})
    sandbox.text("+15005550001")
    stats = sandbox.stats()
    assert stats["providers"]["fcm"] == {"accepted": 1, "rejected": 1, "dropped": 0, "errors": {"UNREGISTERED": 1}}
    assert stats["providers"]["twilio"]["errors"] == {"21211": 1}
    assert stats["ledger"] == {"last": 1}


def test_the_inbox_shows_what_people_see(sandbox):
    sandbox.push(
        "device-1",
        notification={"title": "Hi", "body": "<script>alert(1)</script>"},
        android={"priority": "high", "notification": {"title": "Android title"}},
    )
    sandbox.text(Body="Hello", From="NOTIFY")
    sandbox.mail("ada@example.com")
    push, text, mail = sandbox.inbox()
    assert (push["channel"], push["to"], push["title"], push["body"]) == (
        "push",
        "device-1",
        "Android title",
        "<script>alert(1)</script>",
    )
    assert push["extra"]["is_high"] is True
    assert (text["channel"], text["sender"], text["body"], text["extra"]["segments"]) == ("sms", "NOTIFY", "Hello", 1)
    assert (mail["channel"], mail["sender"], mail["html"]) == ("email", "Notify <notify@example.com>", "<p>Text</p>")
    assert [message["n"] for message in sandbox.inbox(after=1)] == [2, 3]


def test_an_apple_alert_is_shown(sandbox):
    sandbox.push(apns={"payload": {"aps": {"alert": {"title": "A", "body": "B"}}}})
    [push] = sandbox.inbox()
    assert (push["title"], push["body"]) == ("A", "B")


def test_the_inbox_keeps_the_newest_thousand(sandbox):
    sandbox.set_receipts("sendgrid", enabled=False)
    for batch in range(2):
        sandbox.mail(*(f"user{number}@example.com" for number in range(batch * 600, batch * 600 + 600)))
    messages = sandbox.control("GET", "inbox?limit=1000")["messages"]
    assert (len(messages), messages[0]["n"], messages[-1]["n"]) == (1_000, 201, 1_200)


def test_reset_forgets_everything_and_pages_notice(sandbox):
    sandbox.push_with_ack("d-1")
    sandbox.set_faults("fcm", {"mode": "error", "times": 1})
    sandbox.set_receipts("fcm", delay_ms=60_000)
    before = sandbox.control("GET", "inbox")["epoch"]
    sandbox.control("POST", "reset")
    assert sandbox.ledger() == sandbox.inbox() == []
    assert not any(sandbox.control("GET", "faults").values())
    assert not any(sandbox.control("GET", "receipts").values())
    assert sandbox.stats()["receipts"]["fcm"]["scheduled"] == 0
    assert sandbox.control("GET", "inbox")["epoch"] != before


def test_reset_forgets_pending_receipts(sandbox, web):
    sandbox.set_receipts("fcm", delay_ms=50)
    sandbox.push_with_ack("before")
    sandbox.control("POST", "reset")
    sandbox.push_with_ack("after")
    assert [call.json()["delivery_id"] for call in web.wait_for(1)] == ["after"]


def test_reset_waits_for_a_receipt_on_the_wire(sandbox, web):
    web.delay_s = 0.3
    sandbox.push_with_ack("before")
    wait_until(lambda: web.arrived)
    sandbox.control("POST", "reset")
    assert [call.json()["delivery_id"] for call in web.calls] == ["before"]


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "nothing", 404, "no such call"),
        ("PUT", "faults/other", 404, "provider 'other' is unknown; known are fcm, "),
        ("POST", "faults/fcm", 405, "use GET, PUT or DELETE"),
        ("PUT", "faults/fcm", 400, "the body is not JSON"),
        ("GET", "ledger?after=x", 400, "after: must be a whole number"),
        ("GET", "inbox?limit=1001", 400, "limit: must be a whole number from 0 to 1000"),
    ],
)
def test_wrong_control_calls_say_why(sandbox, method, path, status, words):
    response = sandbox.session.request(method, f"{sandbox.http_url}/_sandbox/{path}", timeout=5)
    assert response.status_code == status
    assert response.json()["error"].startswith(words)


def test_control_is_on_the_tls_port_too(sandbox):
    assert sandbox.session.get(f"{sandbox.url}/_sandbox/stats", timeout=5).status_code == 200


def test_a_page_of_another_origin_is_refused(sandbox):
    for origin, status in (("http://example.com", 403), (sandbox.http_url, 200), ("null", 403)):
        response = sandbox.session.post(f"{sandbox.http_url}/_sandbox/reset", headers={"Origin": origin}, timeout=5)
        assert response.status_code == status


def test_the_page_and_its_files_are_served_with_a_strict_policy(sandbox):
    for path, kind in (("/", "text/html"), ("/inbox.js", "text/javascript"), ("/inbox.css", "text/css")):
        response = sandbox.session.get(f"{sandbox.http_url}{path}", timeout=5)
        assert response.headers["Content-Type"].startswith(kind)
        assert "default-src 'none'; script-src 'self';" in response.headers["Content-Security-Policy"]
    assert sandbox.session.get(f"{sandbox.http_url}/other", timeout=5).status_code == 404


def test_the_page_never_writes_markup(sandbox):
    script = sandbox.session.get(f"{sandbox.http_url}/inbox.js", timeout=5).text
    for call in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert call not in script


def test_providers_are_refused_on_the_plain_port(sandbox):
    for provider in ("fcm/token", "twilio/2010-04-01", "sendgrid/v3/mail/send"):
        assert sandbox.session.post(f"{sandbox.http_url}/{provider}", timeout=5).status_code == 403

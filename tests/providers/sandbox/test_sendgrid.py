import base64
import gzip
import json

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key


def verify_events(call, public_key_base64: str) -> list[dict]:
    """The events of a call, its signature checked as SendGrid's documentation says; raises ``InvalidSignature``."""
    key = load_der_public_key(base64.b64decode(public_key_base64))
    assert isinstance(key, ec.EllipticCurvePublicKey)
    signature = base64.b64decode(call.headers["x-twilio-email-event-webhook-signature"])
    timestamp = call.headers["x-twilio-email-event-webhook-timestamp"]
    key.verify(signature, timestamp.encode() + call.body, ec.ECDSA(hashes.SHA256()))
    return call.json()


def collect_events(sandbox, web, count: int) -> list[dict]:
    events: list[dict] = []
    calls = 0
    while len(events) < count:
        calls += 1
        events += verify_events(web.wait_for(calls)[calls - 1], sandbox.env["SENDGRID_WEBHOOK_PUBLIC_KEY"])
    return events


def error_of(response) -> dict:
    [error] = response.json()["errors"]
    assert error.keys() == {"message", "field", "help"}
    return error


class TestSend:
    def test_answers_202_empty_with_a_message_id(self, sandbox):
        response = sandbox.mail("ada@example.com", "ben@example.com")
        assert (response.status_code, response.content) == (202, b"")
        message_id = response.headers["X-Message-Id"]
        entries = sandbox.ledger()
        assert len({entry["delivery_id"] for entry in entries}) == 2
        assert [entry["provider_message_id"] for entry in entries] == [message_id, message_id]

    def test_takes_gzip(self, sandbox):
        mail = {
            "personalizations": [{"to": [{"email": "ada@example.com"}]}],
            "from": {"email": "notify@example.com"},
            "subject": "Hello",
            "content": [{"type": "text/plain", "value": "x" * 10_000}],
        }
        body = gzip.compress(json.dumps(mail).encode())
        assert sandbox.post_mail(body, {"Content-Encoding": "gzip"}).status_code == 202
        assert sandbox.inbox()[0]["body"] == "x" * 10_000
        assert sandbox.post_mail(b"no gzip", {"Content-Encoding": "gzip"}).status_code == 400

    def test_substitutions_reach_each_recipient(self, sandbox):
        people = [
            {"to": [{"email": f"{name}@example.com"}], "substitutions": {"-name-": name}} for name in ("ada", "ben")
        ]
        content = [{"type": "text/plain", "value": "Hi -name-"}, {"type": "text/html", "value": "<b>-name-</b>"}]
        assert sandbox.mail(personalizations=people, subject="For -name-", content=content).status_code == 202
        shown = [(mail["title"], mail["body"], mail["html"]) for mail in sandbox.inbox()]
        assert shown == [("For ada", "Hi ada", "<b>ada</b>"), ("For ben", "Hi ben", "<b>ben</b>")]

    def test_sandbox_mode_delivers_nothing(self, sandbox):
        response = sandbox.mail("ada@example.com", mail_settings={"sandbox_mode": {"enable": True}})
        assert (response.status_code, sandbox.ledger()) == (200, [])

    def test_a_thousand_recipients_fit_and_one_more_does_not(self, sandbox):
        sandbox.set_receipts("sendgrid", enabled=False)
        addresses = [f"user{number}@example.com" for number in range(1_001)]
        assert sandbox.mail(*addresses[:1_000]).status_code == 202
        assert len(sandbox.ledger()) == 1_000
        assert "1001 personalizations" in error_of(sandbox.mail(*addresses))["message"]
        crowd = [{"to": [{"email": address} for address in addresses]}]
        assert "1000 total recipients" in error_of(sandbox.mail(personalizations=crowd))["message"]

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"Authorization": "Bearer SG.wrong"}, 401),
            ({"Authorization": ""}, 401),
            ({"Content-Type": "text/plain"}, 415),
        ],
    )
    def test_refuses_wrong_headers(self, sandbox, headers, status):
        response = sandbox.mail("ada@example.com", http_headers=headers)
        assert response.status_code == status
        assert error_of(response)["field"] is None
        assert sandbox.ledger() == []

    def test_unknown_path_and_method(self, sandbox):
        authorization = {"Authorization": f"Bearer {sandbox.env['SENDGRID_API_KEY']}"}
        base = sandbox.env["SENDGRID_BASE_URL"]
        assert sandbox.session.post(f"{base}/v3/other", headers=authorization, timeout=5).status_code == 404
        assert sandbox.session.get(f"{base}/v3/mail/send", headers=authorization, timeout=5).status_code == 405

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"personalizations": None}, "personalizations"),
            ({"personalizations": []}, "personalizations"),
            ({"personalizations": ["x"]}, "personalizations.0"),
            ({"personalizations": [{}]}, "personalizations.0.to"),
            ({"personalizations": [{"to": {"email": "a@example.com"}}]}, "personalizations.0.to"),
            ({"personalizations": [{"to": [{"email": "nonsense"}]}]}, "personalizations.0.to.0.email"),
            (
                {"personalizations": [{"to": [{"email": "a@example.com"}]}, {"to": [{"email": "b@@example.com"}]}]},
                "personalizations.1.to.0.email",
            ),
            (
                {"personalizations": [{"to": [{"email": "a@example.com"}]}, {"to": [{"email": "A@example.com"}]}]},
                "personalizations",
            ),
            (
                {"personalizations": [{"to": [{"email": "a@example.com"}], "custom_args": {"a": 1}}]},
                "personalizations.0.custom_args",
            ),
            ({"custom_args": ["x"]}, "custom_args"),
            ({"from": None}, "from.email"),
            ({"from": {"email": "nonsense"}}, "from.email"),
            ({"subject": None}, "subject"),
            ({"subject": ""}, "subject"),
            ({"content": None}, "content"),
            ({"content": [{"type": "text/plain", "value": ""}]}, "content.0.value"),
            ({"content": [{"value": "x"}]}, "content.0.type"),
            ({"content": [{"type": "text/html", "value": "x"}, {"type": "text/plain", "value": "x"}]}, "content"),
            ({"headers": {"Subject": "x"}}, "headers"),
        ],
    )
    def test_validation_errors_name_the_field(self, sandbox, changes, field):
        response = sandbox.mail("ada@example.com", **changes)
        assert response.status_code == 400
        assert error_of(response)["field"] == field
        assert error_of(response)["help"].startswith("http://sendgrid.com/docs/")
        assert sandbox.ledger() == []

    def test_no_json_is_a_bad_request(self, sandbox):
        assert error_of(sandbox.post_mail(b"{"))["message"] == "Bad Request"


class TestEvents:
    def test_processed_and_delivered_come_signed_with_our_id(self, sandbox, web):
        message_id = sandbox.mail("ada@example.com").headers["X-Message-Id"]
        events = collect_events(sandbox, web, 2)
        assert {event["event"] for event in events} == {"processed", "delivered"}
        assert {event["delivery_id"] for event in events} == {sandbox.ledger()[0]["delivery_id"]}
        assert len({event["sg_event_id"] for event in events}) == 2
        assert all(event["sg_message_id"].startswith(message_id) for event in events)

    def test_many_events_share_a_call(self, sandbox, web):
        sandbox.set_receipts("sendgrid", delay_ms=50)
        sandbox.mail(*(f"user{number}@example.com" for number in range(100)))
        events = collect_events(sandbox, web, 200)
        assert len(events) == 200
        assert len(web.calls) < 20

    @pytest.mark.parametrize(
        ("local_part", "expected"),
        [
            ("bounce", ["processed", "bounce"]),
            ("blocked", ["processed", "bounce"]),
            ("dropped", ["dropped"]),
            ("deferred", ["processed", "deferred", "delivered"]),
            ("spam", ["processed", "delivered", "spamreport"]),
            ("unsubscribe", ["processed", "delivered", "unsubscribe"]),
        ],
    )
    def test_address_conventions(self, sandbox, web, local_part, expected):
        sandbox.mail(f"{local_part}@example.com")
        events = collect_events(sandbox, web, len(expected))
        assert sorted(event["event"] for event in events) == sorted(expected)

    def test_forged_events_do_not_verify(self, sandbox, web):
        sandbox.set_receipts("sendgrid", delay_ms=1, forge=True)
        sandbox.mail("ada@example.com")
        with pytest.raises(InvalidSignature):
            verify_events(web.wait_for(1)[0], sandbox.env["SENDGRID_WEBHOOK_PUBLIC_KEY"])

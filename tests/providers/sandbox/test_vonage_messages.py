import base64
import hashlib
import hmac
import json
import time
import uuid
from pathlib import Path

import jwt
import pytest

NUMBER, SENDER = "15005551234", "15005550006"


@pytest.fixture(autouse=True)
def quick(sandbox):
    sandbox.set_receipts("vonage_messages", delay_ms=5)


def token(sandbox, key: str | None = None, **changes) -> str:
    now = int(time.time())
    claims = {
        "application_id": sandbox.env["VONAGE_APPLICATION_ID"],
        "iat": now,
        "exp": now + 900,
        "jti": str(uuid.uuid4()),
        **changes,
    }
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, key or Path(sandbox.env["VONAGE_PRIVATE_KEY_FILE"]).read_text(), "RS256")


def send(sandbox, authorization: str | None = None, **changes):
    message = {"channel": "sms", "message_type": "text", "to": NUMBER, "from": SENDER, "text": "Hello", **changes}
    body = {name: value for name, value in message.items() if value is not None}
    headers = {"Authorization": authorization or f"Bearer {token(sandbox)}"}
    url = f"{sandbox.env['VONAGE_MESSAGES_BASE_URL']}/v1/messages"
    return sandbox.session.post(url, json=body, headers=headers, timeout=5)


def read_token(authorization: str, secret: str) -> dict:
    """The claims of a token with a good signature: https://developer.vonage.com/en/messages/concepts/signed-webhooks"""
    header, payload, signature = authorization.removeprefix("Bearer ").split(".")
    mac = hmac.digest(secret.encode(), f"{header}.{payload}".encode(), "sha256")
    assert signature == base64.urlsafe_b64encode(mac).rstrip(b"=").decode()
    parts = [json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in (header, payload)]
    assert parts[0] == {"alg": "HS256", "typ": "JWT"}
    return parts[1]


class TestSend:
    def test_answers_202_with_the_uuid(self, sandbox):
        response = send(sandbox, client_ref="d-1", ttl=90)
        assert response.status_code == 202
        message_id = response.json()["message_uuid"]
        assert str(uuid.UUID(message_id)) == message_id
        [entry] = sandbox.ledger()
        assert (entry["provider"], entry["delivery_id"], entry["provider_message_id"]) == (
            "vonage_messages",
            "d-1",
            message_id,
        )

    def test_basic_authentication_will_do(self, sandbox):
        pair = f"{sandbox.env['VONAGE_API_KEY']}:{sandbox.env['VONAGE_API_SECRET']}"
        assert send(sandbox, f"Basic {base64.b64encode(pair.encode()).decode()}").status_code == 202
        assert send(sandbox, "Basic YTpi").status_code == 401

    @pytest.mark.parametrize(
        "changes",
        [
            {"application_id": str(uuid.uuid4())},
            {"exp": int(time.time()) - 100},
            {"exp": int(time.time()) + 90_000},
            {"jti": None},
            {"application_id": None},
        ],
    )
    def test_a_token_that_is_not_the_applications_is_refused(self, sandbox, changes):
        response = send(sandbox, f"Bearer {token(sandbox, **changes)}")
        assert (response.status_code, response.json()["title"]) == (401, "Unauthorized")
        assert sandbox.ledger() == []

    def test_another_key_is_refused(self, sandbox):
        key = sandbox.service_account["private_key"]
        assert send(sandbox, f"Bearer {token(sandbox, key)}").status_code == 401

    @pytest.mark.parametrize(
        ("changes", "blamed"),
        [
            ({"to": "+15005551234"}, "to"),
            ({"to": None}, "to"),
            ({"to": "15005550001"}, "to"),
            ({"from": "15005559999"}, "from"),
            ({"text": ""}, "text"),
            ({"text": "x" * 3_201}, "text"),
            ({"ttl": 19}, "ttl"),
            ({"ttl": "20"}, "ttl"),
            ({"client_ref": "x" * 101}, "client_ref"),
            ({"channel": "whatsapp"}, "channel"),
            ({"message_type": "image"}, "message_type"),
        ],
    )
    def test_what_is_wrong_is_named(self, sandbox, changes, blamed):
        response = send(sandbox, **changes)
        problem = response.json()
        assert response.status_code == 422
        assert problem["type"] == "https://developer.vonage.com/api-errors/messages#1020"
        assert [each["name"] for each in problem["invalid_parameters"]] == [blamed]
        assert sandbox.ledger() == []

    @pytest.mark.parametrize(
        ("rule", "status", "kind"),
        [
            ({"mode": "throttle", "retry_after_s": 3}, 429, "messages#1000"),
            ({"mode": "error", "status": 402}, 402, "#low-balance"),
            ({"mode": "error", "code": "1030"}, 500, "messages#1030"),
        ],
    )
    def test_faults(self, sandbox, rule, status, kind):
        sandbox.set_faults("vonage_messages", rule)
        response = send(sandbox)
        assert (response.status_code, response.headers.get("retry-after")) == (status, "3" if status == 429 else None)
        assert response.json()["type"].endswith(kind)


class TestWebhooks:
    def test_come_signed_and_say_when(self, sandbox, web):
        message_id = send(sandbox, client_ref="d-9").json()["message_uuid"]
        calls = sorted(web.wait_for(2), key=lambda call: call.json()["timestamp"])  # they come in any order
        assert [call.json()["status"] for call in calls] == ["submitted", "delivered"]
        for call in calls:
            content = call.json()
            assert call.path == "/v1/webhooks/vonage_messages"
            assert (content["message_uuid"], content["client_ref"], content["channel"]) == (message_id, "d-9", "sms")
            claims = read_token(call.headers["authorization"], sandbox.env["VONAGE_SIGNATURE_SECRET"])
            assert claims["payload_hash"] == hashlib.sha256(call.body).hexdigest()
            assert (claims["iss"], claims["api_key"]) == ("Vonage", sandbox.env["VONAGE_API_KEY"])
            assert abs(claims["iat"] - time.time()) < 10

    @pytest.mark.parametrize(("to", "code"), [("15005550004", "1240"), ("15005559905", "1190")])
    def test_an_unreachable_number_is_rejected_later(self, sandbox, web, to, code):
        send(sandbox, to=to)
        last = max((call.json() for call in web.wait_for(2)), key=lambda receipt: receipt["timestamp"])
        assert (last["status"], last["error"]["type"].rpartition("#")[2]) == ("rejected", code)

    def test_what_people_write_comes_likewise(self, sandbox, web):
        sandbox.control("POST", "inbound/vonage_messages", {"from": "+15005551234", "text": "Stop"})
        [call] = web.wait_for(1)
        content = call.json()
        assert (content["from"], content["to"], content["text"]) == ("15005551234", SENDER, "Stop")
        assert (content["message_type"], content["sms"]["keyword"]) == ("text", "STOP")
        claims = read_token(call.headers["authorization"], sandbox.env["VONAGE_SIGNATURE_SECRET"])
        assert claims["payload_hash"] == hashlib.sha256(call.body).hexdigest()

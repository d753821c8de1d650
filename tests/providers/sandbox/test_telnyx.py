import base64
import json
import uuid

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.providers.sandbox.conftest import wait_until

NUMBER = "+15005551234"


@pytest.fixture(autouse=True)
def quick(sandbox):
    sandbox.set_receipts("telnyx", delay_ms=5)


def send(sandbox, key: str | None = None, **changes):
    message = {"from": sandbox.env["TELNYX_FROM"], "to": NUMBER, "text": "Hello", **changes}
    headers = {"Authorization": f"Bearer {key or sandbox.env['TELNYX_API_KEY']}"}
    url = f"{sandbox.env['TELNYX_BASE_URL']}/v2/messages"
    return sandbox.session.post(url, json=message, headers=headers, timeout=5)


def verify(sandbox, call) -> dict:
    """The event of a call with a good signature: Ed25519 over the time, a bar and the raw body."""
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(sandbox.env["TELNYX_PUBLIC_KEY"]))
    signed = f"{call.headers['telnyx-timestamp']}|".encode() + call.body
    key.verify(base64.b64decode(call.headers["telnyx-signature-ed25519"]), signed)
    return json.loads(call.body)["data"]


class TestSend:
    def test_answers_with_the_message(self, sandbox):
        response = send(sandbox, tags=["d-1"])
        assert response.status_code == 200
        data = response.json()["data"]
        assert str(uuid.UUID(data["id"])) == data["id"]
        assert data["to"] == [{"phone_number": NUMBER, "status": "queued"}]
        [entry] = sandbox.ledger()
        assert (entry["provider"], entry["delivery_id"], entry["provider_message_id"]) == ("telnyx", "d-1", data["id"])

    @pytest.mark.parametrize(
        ("changes", "status", "code"),
        [
            ({"to": "5551234"}, 400, "40310"),
            ({"to": "+15005550001"}, 400, "40310"),
            ({"to": "+15005550004"}, 409, "40300"),
            ({"from": "+15005559999"}, 400, "40305"),
            ({"text": ""}, 400, "40316"),
            ({"text": "x" * 1_531}, 400, "40302"),
            ({"tags": "d-1"}, 400, "10015"),
        ],
    )
    def test_refuses_as_documented(self, sandbox, changes, status, code):
        response = send(sandbox, **changes)
        assert (response.status_code, response.json()["errors"][0]["code"]) == (status, code)
        assert sandbox.ledger() == []

    def test_asks_for_the_key(self, sandbox):
        assert send(sandbox, key="KEY0").status_code == 401

    @pytest.mark.parametrize(
        ("rule", "status", "code"),
        [
            ({"mode": "throttle", "retry_after_s": 3}, 429, "10011"),
            ({"mode": "error", "status": 500}, 500, "10007"),
            ({"code": "40318"}, 429, "40318"),
        ],
    )
    def test_fails_on_demand(self, sandbox, rule, status, code):
        sandbox.set_faults("telnyx", rule)
        response = send(sandbox)
        assert (response.status_code, response.json()["errors"][0]["code"]) == (status, code)
        assert response.headers.get("retry-after") == ("3" if "retry_after_s" in rule else None)


class TestReceipts:
    @pytest.mark.parametrize(
        ("to", "statuses", "code"),
        [(NUMBER, ["sent", "delivered"], None), ("+15005559905", ["sent", "delivery_failed"], "40012")],
    )
    def test_are_signed_and_say_when(self, sandbox, web, to, statuses, code):
        message_id = send(sandbox, to=to, tags=["d-1"], webhook_url=f"{web.url}/hook").json()["data"]["id"]
        calls = web.wait_for(2)  # in any order: each has a connection of its own
        events = sorted((verify(sandbox, call) for call in calls), key=lambda event: event["occurred_at"])
        assert [event["payload"]["to"][0]["status"] for event in events] == statuses
        assert [event["event_type"] for event in events] == ["message.sent", "message.finalized"]
        assert {(event["payload"]["id"], event["payload"]["tags"][0]) for event in events} == {(message_id, "d-1")}
        assert [error["code"] for error in events[1]["payload"]["errors"]] == ([code] if code else [])
        assert len({event["id"] for event in events}) == 2

    def test_may_be_forged(self, sandbox, web):
        sandbox.set_receipts("telnyx", delay_ms=5, forge=1.0)
        send(sandbox, webhook_url=f"{web.url}/hook")
        wait_until(lambda: web.calls)
        with pytest.raises(InvalidSignature):
            verify(sandbox, web.calls[0])

import hashlib
import hmac
import json
import time

import pytest

from tests.providers.sandbox.conftest import wait_until

NUMBER, SENDER = "15005551234", "15005550006"


@pytest.fixture(autouse=True)
def quick(sandbox):
    for provider in ("vonage", "vonage_messages"):
        sandbox.set_receipts(provider, delay_ms=5)


def sms_signature(fields: dict[str, str], secret: str) -> str:
    """https://developer.vonage.com/en/getting-started/concepts/signing-messages, written down anew."""
    text = ""
    for name in sorted(fields):
        value = fields[name].replace("&", "_").replace("=", "_")
        text += f"&{name}={value}"
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


def send(sandbox, *, auth=True, as_json=False, **fields):
    """One SMS; ``None`` drops a field. Underscores stand for Vonage's hyphens."""
    form = {"from": SENDER, "to": NUMBER, "text": "Hello", **fields}
    form = {
        name if name.startswith("api_") else name.replace("_", "-"): value
        for name, value in form.items()
        if value is not None
    }
    basic = (sandbox.env["VONAGE_API_KEY"], sandbox.env["VONAGE_API_SECRET"]) if auth is True else auth
    body = {"json" if as_json else "data": form}
    return sandbox.session.post(f"{sandbox.env['VONAGE_BASE_URL']}/sms/json", auth=basic or None, timeout=5, **body)


def status_of(response) -> str:
    """The one status of an answer, whose HTTP status is always 200."""
    assert response.status_code == 200
    content = response.json()
    assert content["message-count"] == str(len(content["messages"]))
    [part] = content["messages"]
    assert (part["status"] == "0") == ("message-id" in part)
    assert (part["status"] == "0") != ("error-text" in part)
    return part["status"]


class TestSms:
    def test_answers_200_with_a_status_for_each_part(self, sandbox):
        response = send(sandbox, text="a" * 161, client_ref="d-1")
        parts = response.json()["messages"]
        assert (response.status_code, response.json()["message-count"]) == (200, "2")
        assert [part["status"] for part in parts] == ["0", "0"]
        assert parts[0]["message-id"] != parts[1]["message-id"]
        assert {part["client-ref"] for part in parts} == {"d-1"}
        [entry] = sandbox.ledger()
        assert (entry["provider"], entry["delivery_id"]) == ("vonage", "d-1")
        assert entry["address_sha256"] == hashlib.sha256(f"+{NUMBER}".encode()).hexdigest()

    def test_json_is_as_good_as_a_form(self, sandbox):
        assert status_of(send(sandbox, as_json=True, text="Grüße", type="unicode")) == "0"
        assert sandbox.inbox()[0]["body"] == "Grüße"

    def test_what_the_gsm_alphabet_lacks_is_lost_unless_announced(self, sandbox):
        send(sandbox, text="Привет é")
        send(sandbox, text="Привет é", type="unicode")
        assert [message["body"] for message in sandbox.inbox()] == ["?????? é", "Привет é"]

    def test_key_and_secret_may_be_parameters(self, sandbox):
        key, secret = sandbox.env["VONAGE_API_KEY"], sandbox.env["VONAGE_API_SECRET"]
        assert status_of(send(sandbox, auth=None, api_key=key, api_secret=secret)) == "0"
        assert status_of(send(sandbox, auth=None, api_key=key, api_secret="wrong")) == "4"
        assert status_of(send(sandbox, auth=None, api_key="deadbeef", api_secret=secret)) == "4"
        assert status_of(send(sandbox, auth=None)) == "2"
        assert status_of(send(sandbox, auth=(key, "wrong"))) == "4"

    @pytest.mark.parametrize(
        ("age_s", "secret", "extra", "status"),
        [(0, None, {}, "0"), (0, "wrong", {}, "14"), (600, None, {}, "14"), (0, None, {"api_secret": "x"}, "32")],
    )
    def test_a_request_may_be_signed(self, sandbox, age_s, secret, extra, status):
        fields = {
            "api_key": sandbox.env["VONAGE_API_KEY"],
            "from": SENDER,
            "to": NUMBER,
            "text": "a=b & c",
            "timestamp": str(int(time.time()) - age_s),
            **extra,
        }
        fields["sig"] = sms_signature(fields, secret or sandbox.env["VONAGE_SIGNATURE_SECRET"])
        assert status_of(send(sandbox, auth=None, **fields)) == status

    @pytest.mark.parametrize(
        ("fields", "status"),
        [
            ({"to": None}, "2"),
            ({"from": ""}, "2"),
            ({"text": None}, "2"),
            ({"to": "+15005551234"}, "3"),
            ({"to": "15005550001"}, "3"),
            ({"to": "15005550003"}, "29"),
            ({"to": "15005550004"}, "7"),
            ({"to": "15005550009"}, "33"),
            ({"from": "15005559999"}, "15"),
            ({"text": "x" * 3_201}, "12"),
            ({"client_ref": "x" * 101}, "3"),
            ({"ttl": "19999"}, "3"),
            ({"ttl": "604800001"}, "3"),
            ({"type": "fax"}, "3"),
            ({"callback": "ftp://example.com/"}, "23"),
            ({"callback": "https://example.com/?a=b"}, "23"),
            ({"callback": "https://example.com/" + "a" * 81}, "23"),
        ],
    )
    def test_errors(self, sandbox, fields, status):
        assert status_of(send(sandbox, **fields)) == status
        assert sandbox.ledger() == []

    def test_the_last_part_may_fail_alone(self, sandbox):
        parts = send(sandbox, to="15005550010", text="a" * 161).json()["messages"]
        assert [part["status"] for part in parts] == ["0", "5"]

    @pytest.mark.parametrize(
        ("rule", "http", "status"),
        [
            ({"mode": "throttle"}, 200, "1"),
            ({"mode": "error"}, 200, "5"),
            ({"mode": "error", "code": "9"}, 200, "9"),
            ({"mode": "error", "status": 503}, 503, None),
        ],
    )
    def test_faults(self, sandbox, rule, http, status):
        sandbox.set_faults("vonage", rule)
        response = send(sandbox)
        assert response.status_code == http
        assert status is None or status_of(response) == status

    def test_an_unknown_code_is_refused(self, sandbox):
        url = f"{sandbox.http_url}/_sandbox/faults/vonage"
        assert sandbox.session.put(url, json={"mode": "error", "code": "77"}, timeout=5).status_code == 400


class TestReceipts:
    def test_come_for_each_part_as_signed_json(self, sandbox, web):
        sent = send(sandbox, text="a" * 161, client_ref="d-9").json()["messages"]
        calls = [call.json() for call in web.wait_for(4)]
        assert sorted((call["messageId"], call["status"]) for call in calls) == sorted(
            (part["message-id"], status) for part in sent for status in ("accepted", "delivered")
        )
        for call in calls:
            assert (call["client-ref"], call["err-code"], call["api-key"]) == (
                "d-9",
                "0",
                sandbox.env["VONAGE_API_KEY"],
            )
            assert abs(int(call["timestamp"]) - time.time()) < 10
            sig = call.pop("sig")
            assert sig.lower() == sms_signature(call, sandbox.env["VONAGE_SIGNATURE_SECRET"])

    @pytest.mark.parametrize(("to", "code"), [("15005559903", "2"), ("15005559905", "3"), ("15005559909", "9")])
    def test_an_unreachable_number_fails_later(self, sandbox, web, to, code):
        send(sandbox, to=to)
        receipts = [call.json() for call in web.wait_for(2)]
        assert ("failed", code) in {(receipt["status"], receipt["err-code"]) for receipt in receipts}

    def test_go_to_the_callback_if_there_is_one(self, sandbox, web):
        send(sandbox, callback=f"{web.url}/mine")
        assert {call.path for call in web.wait_for(2)} == {"/mine"}

    def test_none_if_not_wanted(self, sandbox):
        send(sandbox, status_report_req="false")
        assert sandbox.stats()["receipts"]["vonage"]["scheduled"] == 0


class TestInbound:
    def test_a_text_comes_like_a_receipt(self, sandbox, web):
        sandbox.control("POST", "inbound/vonage", {"from": "+15005551234", "text": "Stop now & then"})
        [call] = [call.json() for call in web.wait_for(1)]
        assert (call["msisdn"], call["to"], call["text"]) == ("15005551234", SENDER, "Stop now & then")
        assert (call["keyword"], call["type"]) == ("STOP", "text")
        sig = call.pop("sig")
        assert sig.lower() == sms_signature(call, sandbox.env["VONAGE_SIGNATURE_SECRET"])

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ({"from": "15005551234", "text": "x"}, "from: must be a number"),
            ({"from": "+15005551234"}, "text: must be a text"),
            ([], "from: must be a number"),
        ],
    )
    def test_what_nobody_could_write_is_refused(self, sandbox, content, words):
        for provider in ("twilio", "vonage", "vonage_messages"):
            url = f"{sandbox.http_url}/_sandbox/inbound/{provider}"
            response = sandbox.session.post(url, json=content, timeout=5)
            assert (response.status_code, response.json()["error"][: len(words)]) == (400, words)

    def test_twilio_answers_stop_itself(self, sandbox, web):
        sandbox.control("POST", "inbound/twilio", {"from": "+15005551234", "text": "stop"})
        form = web.wait_for(1)[0].form()
        assert (form["From"], form["Body"], form["SmsStatus"]) == ("+15005551234", "stop", "received")
        assert sandbox.text().json()["code"] == 21610
        sandbox.control("POST", "inbound/twilio", {"from": "+15005551234", "text": "UNSTOP"})
        assert sandbox.text().status_code == 201

    def test_a_reset_forgets_who_said_stop(self, sandbox, web):
        sandbox.control("POST", "inbound/twilio", {"from": "+15005551234", "text": "stop"})
        wait_until(lambda: web.calls)
        sandbox.control("POST", "reset")
        assert sandbox.text().status_code == 201


def test_an_enormous_number_of_fields_is_answered(sandbox):
    body = "&".join(f"f{number}=x" for number in range(2_000))
    url = f"{sandbox.env['VONAGE_BASE_URL']}/sms/json"
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert status_of(sandbox.session.post(url, data=body, headers=headers, timeout=5)) == "2"
    bad = sandbox.session.post(url, data=b"{", headers={"Content-Type": "application/json"}, timeout=5)
    assert json.loads(bad.content)["messages"][0]["status"] == "2"

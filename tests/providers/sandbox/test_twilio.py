import base64
import hashlib
import hmac
import re

import pytest

from apps.providers.sandbox.gsm import count_segments
from tests.providers.sandbox.conftest import wait_until


def twilio_signature(url: str, parameters: dict[str, str], auth_token: str) -> str:
    """https://www.twilio.com/docs/usage/security#validating-requests, written down anew."""
    text = url
    for name in sorted(parameters):
        text += name + parameters[name]
    return base64.b64encode(hmac.digest(auth_token.encode(), text.encode(), hashlib.sha1)).decode()


def callback_url(web, delivery_id: str = "d-1") -> str:
    return f"{web.url}/v1/webhooks/twilio?delivery_id={delivery_id}"


def error_of(response) -> dict:
    """The Twilio error, checked for consistency with the HTTP status."""
    error = response.json()
    assert error["status"] == response.status_code
    assert error["more_info"] == f"https://www.twilio.com/docs/errors/{error['code']}"
    assert error["message"]
    return error


class TestSend:
    def test_answers_201_with_the_message_resource(self, sandbox, web):
        response = sandbox.text(Body="Hello €", StatusCallback=callback_url(web))
        resource = response.json()
        assert response.status_code == 201
        assert re.fullmatch(r"SM[0-9a-f]{32}", resource["sid"])
        assert resource["account_sid"] == sandbox.env["TWILIO_ACCOUNT_SID"]
        assert (resource["status"], resource["direction"], resource["num_segments"]) == ("queued", "outbound-api", "1")
        assert (resource["to"], resource["from"], resource["body"]) == ("+15005551234", "+15005550006", "Hello €")
        [entry] = sandbox.ledger()
        assert (entry["provider"], entry["delivery_id"], entry["provider_message_id"]) == (
            "twilio",
            "d-1",
            resource["sid"],
        )

    def test_the_message_can_be_read_and_ends_delivered(self, sandbox):
        sid = sandbox.text().json()["sid"]
        auth = (sandbox.env["TWILIO_ACCOUNT_SID"], sandbox.env["TWILIO_AUTH_TOKEN"])
        url = sandbox.messages_url.replace("Messages.json", f"Messages/{sid}.json")

        def read() -> dict:
            return sandbox.session.get(url, auth=auth, timeout=5).json()

        assert read()["sid"] == sid
        wait_until(lambda: read()["status"] == "delivered")
        unknown = sandbox.session.get(url.replace(sid, "SM" + "0" * 32), auth=auth, timeout=5)
        assert error_of(unknown)["code"] == 20404

    def test_refuses_wrong_credentials(self, sandbox):
        response = sandbox.text(auth=(sandbox.env["TWILIO_ACCOUNT_SID"], "wrong"))
        assert (response.status_code, error_of(response)["code"]) == (401, 20003)
        assert sandbox.ledger() == []

    def test_refuses_another_account(self, sandbox):
        auth = (sandbox.env["TWILIO_ACCOUNT_SID"], sandbox.env["TWILIO_AUTH_TOKEN"])
        url = sandbox.messages_url.replace(sandbox.env["TWILIO_ACCOUNT_SID"], "AC" + "0" * 32)
        assert error_of(sandbox.session.post(url, auth=auth, data={"To": "+15005551234"}, timeout=5))["code"] == 20404

    @pytest.mark.parametrize(
        ("form", "code"),
        [
            ({"To": "+15005550001"}, 21211),
            ({"To": "+15005550002"}, 21612),
            ({"To": "+15005550003"}, 21408),
            ({"To": "+15005550004"}, 21610),
            ({"To": "+15005550009"}, 21614),
            ({"From": "+15005550001"}, 21212),
            ({"From": "+15005550007"}, 21606),
            ({"From": "+15005550008"}, 21611),
            ({"From": "+15005559999"}, 21606),
            ({"From": "no sender!"}, 21212),
            ({"From": None}, 21603),
            ({"From": "+15005551234"}, 21266),
            ({"To": ""}, 21604),
            ({"To": "5551234"}, 21211),
            ({"To": "+0123456789"}, 21211),
            ({"To": "+1500555123456789"}, 21211),
            ({"Body": ""}, 21602),
            ({"Body": "x" * 1_601}, 21617),
            ({"ValidityPeriod": "0"}, 21624),
            ({"ValidityPeriod": "36001"}, 21624),
            ({"ValidityPeriod": "soon"}, 21624),
            ({"StatusCallback": "not a url"}, 21609),
            ({"StatusCallback": "ftp://example.com/"}, 21609),
            ({"MessagingServiceSid": "MG12"}, 21701),
        ],
    )
    def test_errors(self, sandbox, form, code):
        form = {"To": "+15005551234", **form}
        assert error_of(sandbox.text(form.pop("To"), **form))["code"] == code
        assert sandbox.ledger() == []

    @pytest.mark.parametrize(
        "form",
        [
            {"MessagingServiceSid": "MG" + "a" * 32, "From": None},
            {"From": "NOTIFY"},
            {"Body": "x" * 1_600},
            {"ValidityPeriod": "36000"},
        ],
    )
    def test_accepts(self, sandbox, form):
        assert sandbox.text(**form).status_code == 201


class TestStatusCallbacks:
    def test_come_signed_one_for_each_status(self, sandbox, web):
        url = callback_url(web, "d-9")
        sid = sandbox.text(StatusCallback=url).json()["sid"]
        calls = web.wait_for(3)
        assert {call.form()["MessageStatus"] for call in calls} == {"queued", "sent", "delivered"}
        for call in calls:
            assert call.path == "/v1/webhooks/twilio?delivery_id=d-9"
            assert call.headers["content-type"].startswith("application/x-www-form-urlencoded")
            assert call.form()["MessageSid"] == sid
            expected = twilio_signature(url, call.form(), sandbox.env["TWILIO_AUTH_TOKEN"])
            assert call.headers["x-twilio-signature"] == expected

    def test_an_unreachable_number_ends_undelivered(self, sandbox, web):
        sandbox.text("+15005559903", StatusCallback=callback_url(web))
        forms = [call.form() for call in web.wait_for(3)]
        assert ("undelivered", "30003") in {(form["MessageStatus"], form.get("ErrorCode")) for form in forms}

    def test_a_forged_callback_has_a_wrong_signature(self, sandbox, web):
        sandbox.set_receipts("twilio", delay_ms=1, forge=1.0)
        sandbox.text(StatusCallback=callback_url(web))
        call = web.wait_for(3)[0]
        expected = twilio_signature(callback_url(web), call.form(), sandbox.env["TWILIO_AUTH_TOKEN"])
        assert call.headers["x-twilio-signature"] != expected

    def test_none_without_a_callback_url(self, sandbox):
        sandbox.text()
        assert sandbox.stats()["receipts"]["twilio"]["scheduled"] == 0


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("", 1),
        ("a" * 160, 1),
        ("a" * 161, 2),  # 153 + 8
        ("a" * 306, 2),  # 2 x 153
        ("a" * 307, 3),
        ("€" * 80, 1),  # an extension character takes two septets
        ("€" * 81, 2),  # 76 fit into 153, the rest follows
        ("a" * 152 + "€" + "a" * 10, 2),  # the extension character does not straddle two parts
        ("ж" * 70, 1),
        ("ж" * 71, 2),
        ("🙂" * 35, 1),  # two UTF-16 units each
        ("🙂" * 36, 2),  # 33 fit into 67
        ("🙂" * 67, 3),  # 33 + 33 + 1: a surrogate pair is never split
    ],
)
def test_segments(text, segments):
    assert count_segments(text) == segments

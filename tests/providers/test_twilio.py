import base64
import hashlib
import hmac
import json
from typing import Any
from urllib.parse import parse_qs

import pytest

from apps.providers.adapters.twilio import TwilioAdapter
from apps.providers.errors import (
    ConfigurationError,
    ForgedReceipt,
    InvalidRecipient,
    MalformedReceipt,
    NotSent,
    PermanentError,
    RateLimited,
    TransientError,
    UnsupportedFeature,
)
from apps.providers.messages import ProviderRequest, ReceiptKind, WebhookCall
from tests.providers.accounts import (
    ACCOUNT_SID,
    AUTH_TOKEN,
    CONTEXT,
    DELIVERY_ID,
    NOW,
    TWILIO_WEBHOOK,
    answer,
    message,
    twilio_call,
    twilio_options,
    twilio_signature,
)

SID = "SM" + "1" * 32


@pytest.fixture
def adapter() -> TwilioAdapter:
    return TwilioAdapter("twilio", twilio_options())


def build(adapter: TwilioAdapter, **fields: Any) -> ProviderRequest:
    values = {"address": "+15005550001", **fields}
    [request] = adapter.build([message(**values)], CONTEXT)
    return request


def sent(adapter: TwilioAdapter, **fields: Any) -> dict[str, list[str]]:
    request = build(adapter, **fields)
    assert request.rejected is None
    return parse_qs(request.body.decode(), strict_parsing=True)


class TestRequest:
    def test_an_sms_is_a_form(self, adapter: TwilioAdapter):
        assert sent(adapter, callback_url=TWILIO_WEBHOOK, body="Grüße & +1 😀") == {
            "To": ["+15005550001"],
            "From": ["+15005550006"],
            "Body": ["Grüße & +1 😀"],
            "StatusCallback": [TWILIO_WEBHOOK],
        }
        assert build(adapter).url == f"https://twilio.example.com/2010-04-01/Accounts/{ACCOUNT_SID}/Messages.json"

    def test_a_messaging_service_takes_the_senders_place(self):
        service = "MG" + "a" * 32
        form = sent(TwilioAdapter("twilio", twilio_options(sender=service)))
        assert form["MessagingServiceSid"] == [service]
        assert "From" not in form

    def test_without_a_body_the_title_is_the_text(self, adapter: TwilioAdapter):
        assert sent(adapter, body="", title="Only this")["Body"] == ["Only this"]

    @pytest.mark.parametrize(("ttl_s", "validity"), [(90, "90"), (0, "1"), (-3, "1"), (99_999, "36000")])
    def test_the_validity_stays_within_ten_hours(self, adapter: TwilioAdapter, ttl_s: int, validity: str):
        assert sent(adapter, ttl_s=ttl_s)["ValidityPeriod"] == [validity]

    @pytest.mark.parametrize(("length", "is_sent"), [(1_600, True), (1_601, False)])
    def test_a_text_ends_at_1600_characters(self, adapter: TwilioAdapter, length: int, is_sent: bool):
        request = build(adapter, body="é" * length)
        assert (request.rejected is None) is is_sent
        assert is_sent or isinstance(request.rejected, UnsupportedFeature)

    @pytest.mark.parametrize("address", ["5005550001", "+05005550001", "+1", "+1234567890123456", "+1500555٠٠٠١", ""])
    def test_only_e164_numbers_are_sent_to(self, adapter: TwilioAdapter, address: str):
        assert isinstance(build(adapter, address=address).rejected, InvalidRecipient)

    @pytest.mark.parametrize(
        "fields",
        [
            {"body": "", "title": ""},
            {"body": "\ud800"},
            {"callback_url": "https://a\r\nb"},
            {"callback_url": "https://" + "a" * 2_048},
        ],
    )
    def test_what_cannot_be_written_is_refused_for_good(self, adapter: TwilioAdapter, fields: dict[str, Any]):
        assert isinstance(build(adapter, **fields).rejected, PermanentError)

    @pytest.mark.parametrize("account_sid", ["", "AC123", "SK" + "0" * 32, "AC" + "0" * 32 + "/../x"])
    def test_a_malformed_account_sid_is_named(self, account_sid: str):
        with pytest.raises(ConfigurationError, match="account_sid"):
            TwilioAdapter("twilio", twilio_options(account_sid=account_sid))


class TestErrors:
    """``{"code", "message", "more_info", "status"}``: https://www.twilio.com/docs/usage/twilios-response#response-formats-exceptions"""

    @pytest.mark.parametrize(
        ("status", "code", "expected"),
        [
            (400, 21211, InvalidRecipient),
            (400, 21265, InvalidRecipient),
            (400, 21610, InvalidRecipient),
            (400, 21614, InvalidRecipient),
            (400, 21635, InvalidRecipient),
            (400, 21212, PermanentError),
            (400, 21408, PermanentError),
            (400, 21606, PermanentError),
            (400, 21612, PermanentError),
            (400, 29999, PermanentError),
            (400, 21605, UnsupportedFeature),
            (400, 21617, UnsupportedFeature),
            (429, 20429, RateLimited),
            (429, 14107, RateLimited),
            (400, 21611, RateLimited),
            (401, 20003, NotSent),
            (403, 20005, NotSent),
            (404, 20404, NotSent),
            (400, 21703, NotSent),
            (500, 20500, TransientError),
            (503, 20503, TransientError),
        ],
    )
    def test_each_code_has_its_meaning(self, adapter: TwilioAdapter, status: int, code: int, expected: type[Exception]):
        body = {"code": code, "message": "The 'To' number +15005550001 …", "more_info": "…", "status": status}
        [result] = adapter.parse(build(adapter), answer(status, body))
        assert type(result.error) is expected
        assert result.error.code == str(code)
        assert "+1500" not in str(result.error)

    def test_a_message_that_failed_at_once_did_not_go_out(self, adapter: TwilioAdapter):
        body = {"sid": SID, "status": "failed", "error_code": 21610}
        [result] = adapter.parse(build(adapter), answer(201, body))
        assert isinstance(result.error, InvalidRecipient)
        assert result.provider_message_id == SID

    def test_an_accepted_message_has_its_sid(self, adapter: TwilioAdapter):
        [result] = adapter.parse(build(adapter), answer(201, {"sid": SID, "status": "accepted", "error_code": None}))
        assert (result.error, result.provider_message_id) == (None, SID)


class TestStatusCallbacks:
    @pytest.mark.parametrize(
        ("status", "code", "kind"),
        [
            ("sent", "", ReceiptKind.ACCEPTED),
            ("partially_delivered", "", ReceiptKind.ACCEPTED),
            ("delivered", "", ReceiptKind.DELIVERED),
            ("read", "", ReceiptKind.DELIVERED),
            ("undelivered", "30003", ReceiptKind.FAILED),
            ("undelivered", "30005", ReceiptKind.BOUNCED),
            ("undelivered", "30006", ReceiptKind.BOUNCED),
            ("failed", "21610", ReceiptKind.UNSUBSCRIBED),
            ("failed", "", ReceiptKind.FAILED),
            ("canceled", "", ReceiptKind.FAILED),
        ],
    )
    def test_each_status_has_its_meaning(self, adapter: TwilioAdapter, status: str, code: str, kind: ReceiptKind):
        call = twilio_call({"MessageSid": SID, "MessageStatus": status, "ErrorCode": code, "To": "+15005550001"})
        adapter.verify_receipt(call, NOW)
        [receipt] = adapter.parse_receipts(call, NOW)
        assert (receipt.kind, receipt.code, receipt.event_id) == (kind, code, f"{SID}:{status}")
        assert (receipt.delivery_id, receipt.provider_message_id) == (DELIVERY_ID, SID)
        assert "+1500" not in repr(receipt)

    @pytest.mark.parametrize("status", ["accepted", "scheduled", "queued", "sending", "receiving", "received"])
    def test_progress_is_no_receipt(self, adapter: TwilioAdapter, status: str):
        assert adapter.parse_receipts(twilio_call({"MessageSid": SID, "MessageStatus": status}), NOW) == []

    @pytest.mark.parametrize(
        "fields", [{}, {"MessageSid": SID}, {"MessageStatus": "sent"}, {"MessageSid": SID, "MessageStatus": "lost"}]
    )
    def test_what_twilio_does_not_send_is_malformed(self, adapter: TwilioAdapter, fields: dict[str, str]):
        with pytest.raises(MalformedReceipt):
            adapter.parse_receipts(twilio_call(fields), NOW)

    @pytest.mark.parametrize("query", ["", "?delivery_id=x", f"?delivery_id={DELIVERY_ID}&delivery_id={DELIVERY_ID}"])
    def test_without_one_clear_delivery_id_the_receipt_names_none(self, adapter: TwilioAdapter, query: str):
        url = "https://notify.example.com/v1/webhooks/twilio" + query
        [receipt] = adapter.parse_receipts(twilio_call({"MessageSid": SID, "MessageStatus": "sent"}, url), NOW)
        assert receipt.delivery_id is None


class TestSignatures:
    def test_the_documented_example(self):
        """https://www.twilio.com/docs/usage/webhooks/webhooks-security, "Validating requests": token 12345."""
        adapter = TwilioAdapter("twilio", twilio_options(auth_token="12345"))
        body = b"CallSid=CA1234567890ABCDE&Caller=%2B14158675310&Digits=1234&From=%2B14158675310&To=%2B18005551212"
        headers = {"x-twilio-signature": "L/OH5YylLD5NRKLltdqwSvS0BnU="}
        adapter.verify_receipt(WebhookCall("https://example.com/myapp.php?foo=1&bar=2", headers, body), NOW)

    @pytest.mark.parametrize("signed_port", ["", ":443"])
    @pytest.mark.parametrize("called_port", ["", ":443"])
    def test_the_schemes_own_port_may_be_signed_or_not(
        self, adapter: TwilioAdapter, signed_port: str, called_port: str
    ):
        signature = twilio_signature(f"https://notify.example.com{signed_port}/hook?a=bMessageSidSM1")
        url = f"https://notify.example.com{called_port}/hook?a=b"
        adapter.verify_receipt(WebhookCall(url, {"x-twilio-signature": signature}, b"MessageSid=SM1"), NOW)

    @pytest.mark.parametrize(
        "url",
        [
            "https://notify.example.com/v1/webhooks/twilio",
            TWILIO_WEBHOOK.replace("https", "http"),
            TWILIO_WEBHOOK.replace("notify", "other"),
            TWILIO_WEBHOOK[:-1] + "2",
        ],
    )
    def test_the_url_is_part_of_what_is_signed(self, adapter: TwilioAdapter, url: str):
        call = twilio_call({"MessageSid": SID, "MessageStatus": "delivered"})
        with pytest.raises(ForgedReceipt):
            adapter.verify_receipt(WebhookCall(url, call.headers, call.body), NOW)

    def test_an_empty_and_a_repeated_parameter_are_signed(self, adapter: TwilioAdapter):
        signature = twilio_signature(f"{TWILIO_WEBHOOK}A1A2ErrorCode")
        body = b"A=2&ErrorCode=&A=1&A=2"
        adapter.verify_receipt(WebhookCall(TWILIO_WEBHOOK, {"x-twilio-signature": signature}, body), NOW)

    def test_bytes_that_are_no_utf8_are_signed_as_they_are(self, adapter: TwilioAdapter):
        with pytest.raises(ForgedReceipt):
            adapter.verify_receipt(WebhookCall(TWILIO_WEBHOOK, {"x-twilio-signature": "x"}, b"\xff=%ff"), NOW)

    def json_call(self, body: bytes, body_hash: str) -> WebhookCall:
        url = f"{TWILIO_WEBHOOK}&bodySHA256={body_hash}"
        headers = {"x-twilio-signature": twilio_signature(url), "content-type": "application/json"}
        return WebhookCall(url, headers, body)

    def test_a_json_body_is_signed_through_its_hash(self, adapter: TwilioAdapter):
        body = json.dumps({"MessageSid": SID, "MessageStatus": "delivered", "ErrorCode": None}).encode()
        call = self.json_call(body, hashlib.sha256(body).hexdigest())
        adapter.verify_receipt(call, NOW)
        [receipt] = adapter.parse_receipts(call, NOW)
        assert (receipt.kind, receipt.delivery_id) == (ReceiptKind.DELIVERED, DELIVERY_ID)

    @pytest.mark.parametrize("body_hash", ["", "0" * 64, hashlib.sha256(b"other").hexdigest()])
    def test_another_bodys_hash_is_forged(self, adapter: TwilioAdapter, body_hash: str):
        with pytest.raises(ForgedReceipt):
            adapter.verify_receipt(self.json_call(b"{}", body_hash), NOW)

    @pytest.mark.parametrize(("algorithm", "name"), [("sha1", "HMAC_SHA1"), ("sha256", "HMAC_SHA256")])
    def test_a_shared_key_signs_in_the_auth_tokens_place(self, algorithm: str, name: str):
        adapter = TwilioAdapter("twilio", twilio_options(webhook_keys={"key-1": "shared-secret"}))
        call = twilio_call({"MessageSid": SID, "MessageStatus": "delivered"})
        signed = f"{TWILIO_WEBHOOK}MessageSid{SID}MessageStatusdelivered".encode()
        headers = {
            "x-twilio-signature": base64.b64encode(hmac.digest(b"shared-secret", signed, algorithm)).decode(),
            "x-twilio-webhooks-signature-settings": f"key=key-1,algorithm={name}",
        }
        adapter.verify_receipt(WebhookCall(call.url, headers, call.body), NOW)
        with pytest.raises(ForgedReceipt):
            adapter.verify_receipt(WebhookCall(call.url, {**headers, "x-twilio-signature": "x"}, call.body), NOW)

    @pytest.mark.parametrize(
        "settings", ["key=key-2,algorithm=HMAC_SHA1", "algorithm=HMAC_SHA256", "key=key-1,algorithm=HMAC_MD5", "x", "="]
    )
    def test_an_unknown_key_or_algorithm_is_forged(self, settings: str):
        adapter = TwilioAdapter("twilio", twilio_options(webhook_keys={"key-1": AUTH_TOKEN, "": AUTH_TOKEN}))
        call = twilio_call({"MessageSid": SID, "MessageStatus": "delivered"})
        headers = {**call.headers, "x-twilio-webhooks-signature-settings": settings}
        with pytest.raises(ForgedReceipt):
            adapter.verify_receipt(WebhookCall(call.url, headers, call.body), NOW)


class TestInbound:
    """https://www.twilio.com/docs/messaging/guides/webhook-request"""

    def inbound(self, **changes: str) -> WebhookCall:
        fields = {"MessageSid": SID, "SmsSid": SID, "SmsStatus": "received", "From": "+15005551234", "Body": "Stop"}
        return twilio_call({**fields, "To": "+15005550006", "NumMedia": "0", **changes})

    @pytest.mark.parametrize(
        ("fields", "keyword"),
        [
            ({}, "stop"),
            ({"Body": "UNSTOP"}, "start"),
            ({"Body": "info"}, "help"),
            ({"Body": "Where is my parcel?"}, ""),
            ({"Body": "Genug", "OptOutType": "STOP"}, "stop"),
            ({"Body": "Weiter", "OptOutType": "START"}, "start"),
            ({"Body": "?", "OptOutType": "HELP"}, "help"),
        ],
    )
    def test_a_keyword_is_heard(self, adapter: TwilioAdapter, fields: dict[str, str], keyword: str):
        call = self.inbound(**fields)
        adapter.verify_receipt(call, NOW)
        [heard] = adapter.parse_inbound(call, NOW)
        assert (heard.address, heard.keyword, heard.event_id) == ("+15005551234", keyword, f"{SID}:received")
        assert "+1500" not in repr(heard)
        assert adapter.parse_receipts(call, NOW) == []

    @pytest.mark.parametrize("sender", ["whatsapp:+15005551234", "12345", ""])
    def test_who_has_no_number_is_not_heard(self, adapter: TwilioAdapter, sender: str):
        assert adapter.parse_inbound(self.inbound(From=sender), NOW) == []

    def test_a_receipt_is_nobodys_message(self, adapter: TwilioAdapter):
        assert adapter.parse_inbound(twilio_call({"MessageSid": SID, "MessageStatus": "sent"}), NOW) == []


def test_an_accepted_text_has_its_segments(adapter: TwilioAdapter):
    [result] = adapter.parse(build(adapter, body="ж" * 71), answer(201, {"sid": SID, "status": "queued"}))
    assert result.segments == 2

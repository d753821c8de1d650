from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs

import pytest
from msgspec.structs import replace

from apps.providers.adapters.vonage import VonageAdapter
from apps.providers.errors import (
    ConfigurationError,
    ForgedReceipt,
    InvalidRecipient,
    MalformedReceipt,
    NotSent,
    OutcomeUnknown,
    PermanentError,
    ProviderError,
    RateLimited,
    TransientError,
    UnsupportedFeature,
)
from apps.providers.messages import ProviderRequest, ReceiptKind, Result
from tests.providers.accounts import CONTEXT, DELIVERY_ID, NOW, answer, message
from tests.providers.vonage_accounts import (
    API_KEY,
    FORM,
    delivery_receipt,
    signature,
    signed_call,
    sms_call,
    vonage_options,
)


@pytest.fixture
def adapter() -> VonageAdapter:
    return VonageAdapter("vonage", vonage_options())


def build(adapter: VonageAdapter, **fields: Any) -> ProviderRequest:
    values = {"address": "+15005551234", **fields}
    [request] = adapter.build([message(**values)], CONTEXT)
    return request


def sent(adapter: VonageAdapter, **fields: Any) -> dict[str, list[str]]:
    request = build(adapter, **fields)
    assert request.rejected is None
    return parse_qs(request.body.decode(), strict_parsing=True)


def parse(adapter: VonageAdapter, *parts: object, body: str = "Body", headers: dict[str, str] | None = None) -> Result:
    content = {"message-count": str(len(parts)), "messages": list(parts)}
    [result] = adapter.parse(build(adapter, body=body), answer(200, content, headers))
    return result


def part(status: str, **fields: str) -> dict[str, str]:
    """https://developer.vonage.com/en/api/sms, response"""
    return {"status": status, **({"message-id": "0A0000000123ABCD1"} if status == "0" else {}), **fields}


class TestRequest:
    def test_an_sms_is_a_form(self, adapter: VonageAdapter):
        assert sent(adapter, body="Hello & goodbye + 1€") == {
            "to": ["15005551234"],
            "from": ["15005550006"],
            "text": ["Hello & goodbye + 1€"],
            "client-ref": [DELIVERY_ID],
        }
        request = build(adapter)
        assert request.url == "https://vonage.example.com/sms/json"
        assert dict(request.headers)["Authorization"] == "Basic YWJjZDEyMzQ6YXBpLXNlY3JldA=="

    def test_a_text_beyond_the_gsm_alphabet_is_announced(self, adapter: VonageAdapter):
        assert sent(adapter, body="Grüße 😀")["type"] == ["unicode"]

    def test_without_a_body_the_title_is_the_text(self, adapter: VonageAdapter):
        assert sent(adapter, body="", title="Only this")["text"] == ["Only this"]

    def test_an_alphanumeric_sender_stays_as_it_is(self):
        assert sent(VonageAdapter("vonage", vonage_options(sender="Notify")))["from"] == ["Notify"]

    @pytest.mark.parametrize(("ttl_s", "ttl_ms"), [(90, "90000"), (0, "20000"), (-3, "20000"), (10**9, "604800000")])
    def test_the_life_is_in_milliseconds_and_within_a_week(self, adapter: VonageAdapter, ttl_s: int, ttl_ms: str):
        assert sent(adapter, ttl_s=ttl_s)["ttl"] == [ttl_ms]

    @pytest.mark.parametrize(
        ("url", "callback"),
        [
            (
                f"https://notify.example.com/v1/webhooks/vonage?delivery_id={DELIVERY_ID}",
                "https://notify.example.com/v1/webhooks/vonage",
            ),
            ("https://notify.example.com/" + "a" * 73, "https://notify.example.com/" + "a" * 73),
            ("https://notify.example.com/" + "a" * 74, None),  # 101 characters
            ("https://a\r\nb", None),
            ("https://[", None),
            ("mailto:a@example.com", None),
            (None, None),
        ],
    )
    def test_a_callback_goes_without_its_query_if_at_all(
        self, adapter: VonageAdapter, url: str | None, callback: str | None
    ):
        assert sent(adapter, callback_url=url).get("callback") == (callback and [callback])

    @pytest.mark.parametrize(("length", "is_sent"), [(3_200, True), (3_201, False)])
    def test_a_text_ends_at_3200_characters(self, adapter: VonageAdapter, length: int, is_sent: bool):
        request = build(adapter, body="é" * length)
        assert (request.rejected is None) is is_sent
        assert is_sent or isinstance(request.rejected, UnsupportedFeature)

    @pytest.mark.parametrize(
        "address", ["5005550001", "+05005550001", "+123456", "+1234567890123456", "+1500555٠٠٠١", ""]
    )
    def test_only_e164_numbers_are_sent_to(self, adapter: VonageAdapter, address: str):
        assert isinstance(build(adapter, address=address).rejected, InvalidRecipient)

    @pytest.mark.parametrize("fields", [{"body": "", "title": ""}, {"body": "\ud800"}])
    def test_what_cannot_be_written_is_refused_for_good(self, adapter: VonageAdapter, fields: dict[str, Any]):
        assert isinstance(build(adapter, **fields).rejected, PermanentError)

    def test_an_unknown_signature_method_is_named(self):
        with pytest.raises(ConfigurationError, match="signature_method must be one of md5hash, md5"):
            VonageAdapter("vonage", vonage_options(signature_method="rot13"))


class TestStatuses:
    """https://developer.vonage.com/en/messaging/sms/guides/troubleshooting-sms: all of them with HTTP 200."""

    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            ("1", RateLimited),
            ("2", PermanentError),
            ("3", PermanentError),
            ("4", NotSent),
            ("5", TransientError),
            ("6", PermanentError),
            ("7", InvalidRecipient),
            ("8", NotSent),
            ("9", NotSent),
            ("10", RateLimited),
            ("11", NotSent),
            ("12", UnsupportedFeature),
            ("13", TransientError),
            ("14", NotSent),
            ("15", PermanentError),
            ("22", PermanentError),
            ("23", PermanentError),
            ("29", PermanentError),
            ("32", NotSent),
            ("33", InvalidRecipient),
            ("99", PermanentError),
        ],
    )
    def test_each_status_has_its_class(self, adapter: VonageAdapter, status: str, expected: type[ProviderError]):
        result = parse(adapter, part(status, **{"error-text": "for +15005551234"}))
        assert type(result.error) is expected
        assert result.error.code == status
        assert "+1500" not in str(result.error)

    def test_a_text_in_parts_has_the_first_ones_id(self, adapter: VonageAdapter):
        result = parse(adapter, part("0"), part("0", **{"message-id": "0B"}), body="a" * 161)
        assert (result.error, result.provider_message_id, result.segments) == (None, "0A0000000123ABCD1", 2)

    @pytest.mark.parametrize("codes", [("0", "5"), ("5", "0"), ("0", "1", "0"), ("0", "7")])
    def test_a_text_that_left_in_part_is_not_simply_sent_again(self, adapter: VonageAdapter, codes: tuple[str, ...]):
        result = parse(adapter, *(part(code) for code in codes), body="a" * 161)
        assert isinstance(result.error, OutcomeUnknown)

    def test_a_text_of_which_no_part_left_has_the_first_parts_error(self, adapter: VonageAdapter):
        assert isinstance(parse(adapter, part("1"), part("5")).error, RateLimited)

    def test_throttling_may_name_its_time(self, adapter: VonageAdapter):
        error = parse(adapter, part("1"), headers={"retry-after": "4"}).error
        assert isinstance(error, RateLimited)
        assert error.retry_after_s == 4

    @pytest.mark.parametrize("parts", [(), ({},), ({"status": "x y"},), (part("0"), {}), ({"status": "0"},), ("0",)])
    def test_an_answer_that_says_too_little_is_unknown(self, adapter: VonageAdapter, parts: tuple[object, ...]):
        assert isinstance(parse(adapter, *parts).error, OutcomeUnknown)

    def test_a_status_may_be_a_number(self, adapter: VonageAdapter):
        assert parse(adapter, {"status": 0, "message-id": "0A"}).error is None


class TestReceipts:
    """https://developer.vonage.com/en/messaging/sms/guides/delivery-receipts"""

    @pytest.mark.parametrize(
        ("status", "code", "kind"),
        [
            ("accepted", "0", ReceiptKind.ACCEPTED),
            ("buffered", "0", ReceiptKind.ACCEPTED),
            ("delivered", "0", ReceiptKind.DELIVERED),
            ("expired", "1", ReceiptKind.FAILED),
            ("failed", "2", ReceiptKind.FAILED),
            ("failed", "3", ReceiptKind.BOUNCED),
            ("failed", "4", ReceiptKind.BOUNCED),
            ("rejected", "6", ReceiptKind.FAILED),
            ("rejected", "9", ReceiptKind.UNSUBSCRIBED),
            ("failed", "99", ReceiptKind.FAILED),
        ],
    )
    @pytest.mark.parametrize("content_type", ["application/json", FORM])
    def test_each_status_has_its_meaning(
        self, adapter: VonageAdapter, status: str, code: str, kind: ReceiptKind, content_type: str
    ):
        call = delivery_receipt(status=status, err_code=code, content_type=content_type)
        adapter.verify_receipt(call, NOW)
        [receipt] = adapter.parse_receipts(call, NOW)
        assert (receipt.kind, receipt.code) == (kind, "" if code == "0" else code)
        assert (receipt.event_id, receipt.delivery_id) == (f"0A0000001234567B:{status}", DELIVERY_ID)
        assert receipt.occurred_at == NOW - timedelta(seconds=2)
        assert "1500" not in repr(receipt)
        assert adapter.parse_inbound(call, NOW) == []

    def test_a_word_the_carrier_made_up_is_no_receipt(self, adapter: VonageAdapter):
        assert adapter.parse_receipts(delivery_receipt(status="unknown"), NOW) == []

    @pytest.mark.parametrize(
        "fields", [{}, {"messageId": "0A"}, {"status": "delivered"}, {"messageId": "0A", "status": "lost"}]
    )
    def test_what_vonage_does_not_send_is_malformed(self, adapter: VonageAdapter, fields: dict[str, str]):
        with pytest.raises(MalformedReceipt):
            adapter.parse_receipts(sms_call(**fields), NOW)

    @pytest.mark.parametrize("reference", ["", "order-17", DELIVERY_ID.replace("-", "")])
    def test_a_reference_that_is_not_ours_names_no_delivery(self, adapter: VonageAdapter, reference: str):
        [receipt] = adapter.parse_receipts(delivery_receipt(client_ref=reference), NOW)
        assert receipt.delivery_id is None


class TestSignatures:
    @pytest.mark.parametrize("method", ["md5hash", "md5", "sha1", "sha256", "sha512"])
    def test_every_method_of_the_dashboard(self, method: str):
        adapter = VonageAdapter("vonage", vonage_options(signature_method=method))
        fields = {"messageId": "0A", "status": "delivered", "text": "a=b&c", "timestamp": str(int(NOW.timestamp()))}
        adapter.verify_receipt(signed_call({**fields, "sig": signature(fields, method)}), NOW)
        other = "sha256" if method != "sha256" else "md5"
        with pytest.raises(ForgedReceipt):
            adapter.verify_receipt(signed_call({**fields, "sig": signature(fields, other)}), NOW)

    @pytest.mark.parametrize(("age_s", "is_fresh"), [(-299, True), (-301, False), (24 * 3_600, True), (90_001, False)])
    def test_a_call_is_good_for_as_long_as_vonage_repeats_it(self, adapter: VonageAdapter, age_s: int, is_fresh: bool):
        call = delivery_receipt()
        now = NOW + timedelta(seconds=age_s)
        if is_fresh:
            adapter.verify_receipt(call, now)
        else:
            with pytest.raises(ForgedReceipt, match="too old"):
                adapter.verify_receipt(call, now)

    @pytest.mark.parametrize("timestamp", [None, "", "soon", "-1", "9" * 13])
    def test_a_call_without_a_time_is_forged(self, adapter: VonageAdapter, timestamp: str | None):
        fields = {"messageId": "0A", "status": "delivered"} | ({} if timestamp is None else {"timestamp": timestamp})
        with pytest.raises(ForgedReceipt, match="timestamp"):
            adapter.verify_receipt(signed_call({**fields, "sig": signature(fields)}), NOW)

    def test_a_name_cannot_swallow_its_neighbours(self, adapter: VonageAdapter):
        """Values have their ``&`` and ``=`` masked before signing, names have not: the text would be the same."""
        fields = {"messageId": "0A", "status": "failed", "timestamp": str(int(NOW.timestamp()))}
        merged = {"messageId=0A&status": "failed", "timestamp": fields["timestamp"]}
        with pytest.raises(ForgedReceipt):
            adapter.verify_receipt(signed_call({**merged, "sig": signature(fields)}), NOW)

    @pytest.mark.parametrize("content_type", ["", "text/plain", "application/xml"])
    def test_a_body_of_another_type_is_forged(self, adapter: VonageAdapter, content_type: str):
        call = delivery_receipt()
        with pytest.raises(ForgedReceipt):
            adapter.verify_receipt(replace(call, headers={"content-type": content_type}), NOW)


class TestInbound:
    """https://developer.vonage.com/en/messaging/sms/guides/inbound-sms"""

    def inbound(self, **changes: str) -> Any:
        return sms_call(
            **{
                "api_key": API_KEY,
                "msisdn": "15005551234",
                "to": "15005550006",
                "messageId": "0A0000000123ABCD1",
                "text": "Stop",
                "type": "text",
                "keyword": "STOP",
                "message_timestamp": "2026-11-22 11:59:50",
                **changes,
            }
        )

    @pytest.mark.parametrize(("text", "keyword"), [("Stop", "stop"), ("START", "start"), ("Hilfe", "help"), ("hi", "")])
    def test_a_keyword_is_heard(self, adapter: VonageAdapter, text: str, keyword: str):
        call = self.inbound(text=text)
        adapter.verify_receipt(call, NOW)
        [heard] = adapter.parse_inbound(call, NOW)
        assert (heard.address, heard.keyword, heard.event_id) == ("+15005551234", keyword, "0A0000000123ABCD1:inbound")
        assert heard.occurred_at == NOW - timedelta(seconds=10)
        assert "+1500" not in repr(heard)
        assert adapter.parse_receipts(call, NOW) == []

    def test_a_part_of_a_long_text_is_no_keyword(self, adapter: VonageAdapter):
        [heard] = adapter.parse_inbound(self.inbound(concat="true"), NOW)
        assert heard.keyword == ""

    @pytest.mark.parametrize("changes", [{"msisdn": ""}, {"msisdn": "Shop"}, {"messageId": ""}])
    def test_without_sender_or_id_it_is_malformed(self, adapter: VonageAdapter, changes: dict[str, str]):
        with pytest.raises(MalformedReceipt):
            adapter.parse_inbound(self.inbound(**changes), NOW)

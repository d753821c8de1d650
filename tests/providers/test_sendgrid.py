import json
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec.structs import replace

from apps.providers.adapters.sendgrid import SendGridAdapter
from apps.providers.errors import (
    BatchRejected,
    ConfigurationError,
    ForgedReceipt,
    InvalidRecipient,
    MalformedReceipt,
    PermanentError,
    RateLimited,
    UnsupportedFeature,
)
from apps.providers.messages import Message, ProviderRequest, ReceiptKind
from tests.providers.accounts import (
    CONTEXT,
    DELIVERY_ID,
    NOW,
    answer,
    message,
    public_key_base64,
    sendgrid_call,
    sendgrid_options,
    webhook_key,
)

HELP = "http://sendgrid.com/docs/API_Reference/Web_API_v3/Mail/errors.html#message.personalizations.to"


@pytest.fixture
def adapter() -> SendGridAdapter:
    return SendGridAdapter("sendgrid", sendgrid_options())


def mails(count: int, **fields: Any) -> list[Message]:
    return [message(number, address=f"person{number}@example.com", **fields) for number in range(count)]


def build_one(adapter: SendGridAdapter, **fields: Any) -> ProviderRequest:
    [request] = adapter.build([message(**{"address": "person@example.com", **fields})], CONTEXT)
    return request


def refusal(*fields: str | None) -> dict[str, Any]:
    return {"errors": [{"message": "person@example.com is bad", "field": field, "help": HELP} for field in fields]}


class TestRequest:
    def test_one_request_carries_everybody_with_the_same_words(self, adapter: SendGridAdapter):
        [request] = adapter.build(mails(1_000), CONTEXT)
        body = json.loads(request.body)
        assert len(body["personalizations"]) == 1_000
        assert body["personalizations"][3] == {
            "to": [{"email": "person3@example.com"}],
            "custom_args": {"delivery_id": request.messages[3].delivery_id},
        }
        assert body["from"] == {"email": "news@example.com", "name": "News"}
        assert body["subject"] == "Title"
        assert body["content"] == [{"type": "text/plain", "value": "Body"}]

    def test_the_thousand_and_first_goes_into_another_request(self, adapter: SendGridAdapter):
        requests = adapter.build(mails(1_001), CONTEXT)
        assert [len(request.messages) for request in requests] == [1_000, 1]

    @pytest.mark.parametrize(
        "change", [{"title": "Other"}, {"body": "Other"}, {"html": "<p>Body</p>"}, {"from_name": "Other"}]
    )
    def test_other_words_go_into_another_request(self, adapter: SendGridAdapter, change: dict[str, str]):
        first, second = mails(2)
        assert len(adapter.build([first, replace(second, **change)], CONTEXT)) == 2  # type: ignore[arg-type]

    def test_no_address_is_twice_in_a_request(self, adapter: SendGridAdapter):
        addresses = ["a@example.com", "A@Example.com", "b@example.com", "a@example.com"]
        messages = [message(number, address=address) for number, address in enumerate(addresses)]
        requests = adapter.build(messages, CONTEXT)
        assert [[each.address for each in request.messages] for request in requests] == [
            ["a@example.com", "b@example.com"],
            ["A@Example.com"],
            ["a@example.com"],
        ]

    def test_a_senders_name_and_an_unsubscribe_link_are_the_messages_own(self, adapter: SendGridAdapter):
        url = "https://notify.example.com/u/1?a=b"
        body = json.loads(build_one(adapter, from_name="Shop", unsubscribe_url=url).body)
        assert body["from"] == {"email": "news@example.com", "name": "Shop"}
        assert body["personalizations"][0]["headers"] == {
            "List-Unsubscribe": f"<{url}>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        }

    def test_a_thousand_links_of_their_own_still_go_in_one_request(self, adapter: SendGridAdapter):
        url = "https://notify.example.com/u/"
        messages = [replace(mail, unsubscribe_url=f"{url}{number}") for number, mail in enumerate(mails(999))]
        [request] = adapter.build([*messages, message(999, address="none@example.com")], CONTEXT)
        personalizations = json.loads(request.body)["personalizations"]
        links = [own.get("headers", {}).get("List-Unsubscribe") for own in personalizations]
        assert links == [*(f"<{url}{number}>" for number in range(999)), None]
        assert [own["to"][0]["email"] for own in personalizations] == [mail.address for mail in request.messages]

    def test_plain_text_comes_before_html(self, adapter: SendGridAdapter):
        body = json.loads(build_one(adapter, html="<p>x</p>").body)
        assert [part["type"] for part in body["content"]] == ["text/plain", "text/html"]
        body = json.loads(build_one(adapter, body="", html="<p>x</p>").body)
        assert [part["type"] for part in body["content"]] == ["text/html"]

    @pytest.mark.parametrize(
        "fields",
        [
            {"title": ""},
            {"title": " "},
            {"title": "a\r\nBcc: x@example.com"},
            {"body": ""},
            {"body": "\udfff"},
            {"from_name": "a\nb"},
            {"unsubscribe_url": "https://a.example.com/>\r\nx: y"},
            {"unsubscribe_url": "javascript:x"},
        ],
    )
    def test_what_cannot_be_an_email_is_refused_for_good(self, adapter: SendGridAdapter, fields: dict[str, str]):
        assert isinstance(build_one(adapter, **fields).rejected, PermanentError)

    def test_a_huge_email_is_refused(self, adapter: SendGridAdapter):
        assert isinstance(build_one(adapter, html="x" * 8_000_000).rejected, UnsupportedFeature)

    @pytest.mark.parametrize(
        "address", ["", "person", "@example.com", "a@b@c", "a b@example.com", "<a@example.com>", "a@example.com,b@c.d"]
    )
    def test_only_one_address_is_an_address(self, adapter: SendGridAdapter, address: str):
        assert isinstance(build_one(adapter, address=address).rejected, InvalidRecipient)


class TestErrors:
    """Bodies as SendGrid sends them: https://www.twilio.com/docs/sendgrid/api-reference/mail-send/errors"""

    @pytest.mark.parametrize("field", ["personalizations.1.to", "personalizations.1.to.0.email"])
    def test_one_bad_address_does_not_cost_the_others(self, adapter: SendGridAdapter, field: str):
        [request] = adapter.build(mails(3), CONTEXT)
        results = adapter.parse(request, answer(400, refusal(field)))
        assert [type(result.error) for result in results] == [BatchRejected, InvalidRecipient, BatchRejected]
        assert isinstance(results[0].error, BatchRejected)
        assert results[0].error.retry_after_s == 0

    def test_several_bad_addresses_are_told_apart(self, adapter: SendGridAdapter):
        [request] = adapter.build(mails(3), CONTEXT)
        body = refusal("personalizations.0.to.0.email", "personalizations.2.to.0.email")
        results = adapter.parse(request, answer(400, body))
        assert [type(result.error) for result in results] == [InvalidRecipient, BatchRejected, InvalidRecipient]

    @pytest.mark.parametrize("field", [None, "", "personalizations", "personalizations.7.to"])
    def test_a_refusal_that_names_nobody_may_be_about_anybody(self, adapter: SendGridAdapter, field: str | None):
        [request] = adapter.build(mails(3), CONTEXT)
        results = adapter.parse(request, answer(400, refusal(field)))
        assert {type(result.error) for result in results} == {BatchRejected}

    @pytest.mark.parametrize("field", ["from.email", "subject", "content.0.value"])
    def test_a_refusal_of_the_common_part_is_about_everybody(self, adapter: SendGridAdapter, field: str):
        [request] = adapter.build(mails(3), CONTEXT)
        results = adapter.parse(request, answer(400, refusal(field)))
        assert {type(result.error) for result in results} == {PermanentError}
        assert field in str(results[0].error)

    @pytest.mark.parametrize(
        ("field", "expected"),
        [
            ("personalizations.0.to.0.email", InvalidRecipient),
            ("personalizations.0.custom_args", PermanentError),
            (None, PermanentError),
        ],
    )
    def test_alone_a_refusal_is_final(self, adapter: SendGridAdapter, field: str | None, expected: type[Exception]):
        [result] = adapter.parse(build_one(adapter), answer(400, refusal(field)))
        assert type(result.error) is expected
        assert "@" not in str(result.error)

    def test_too_large_a_request_is_split(self, adapter: SendGridAdapter):
        [request] = adapter.build(mails(2), CONTEXT)
        assert {type(result.error) for result in adapter.parse(request, answer(413))} == {BatchRejected}
        [result] = adapter.parse(build_one(adapter), answer(413))
        assert isinstance(result.error, UnsupportedFeature)

    def test_the_limits_reset_counts_from_the_servers_clock(self, adapter: SendGridAdapter):
        headers = {"x-ratelimit-reset": "1795348820", "date": "Sun, 22 Nov 2026 12:00:00 GMT"}
        [result] = adapter.parse(build_one(adapter), answer(429, b"", headers))
        assert isinstance(result.error, RateLimited)
        assert result.error.retry_after_s == 20

    def test_sandbox_mode_sends_nothing(self, adapter: SendGridAdapter):
        [result] = adapter.parse(build_one(adapter), answer(200))
        assert result.error is not None


def event(name: str, **fields: object) -> dict[str, object]:
    return {
        "event": name,
        "email": "person@example.com",
        "timestamp": int(NOW.timestamp()) - 5,
        "sg_event_id": f"id-{name}",
        "sg_message_id": "14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.0",
        "delivery_id": DELIVERY_ID,
        **fields,
    }


class TestEvents:
    """https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event"""

    @pytest.mark.parametrize(
        ("name", "fields", "kind", "code"),
        [
            ("delivered", {"response": "250 OK"}, ReceiptKind.DELIVERED, "delivered"),
            ("bounce", {"type": "bounce", "status": "5.1.1", "reason": "550 …"}, ReceiptKind.BOUNCED, "5.1.1"),
            ("bounce", {"type": "blocked", "status": "4.7.0", "reason": "550 …"}, ReceiptKind.FAILED, "4.7.0"),
            ("bounce", {"status": "person@example.com"}, ReceiptKind.BOUNCED, "bounce"),
            ("dropped", {"reason": "Bounced Address"}, ReceiptKind.BOUNCED, "dropped"),
            ("dropped", {"reason": "Invalid"}, ReceiptKind.BOUNCED, "dropped"),
            ("dropped", {"reason": "Unsubscribed Address"}, ReceiptKind.UNSUBSCRIBED, "dropped"),
            ("dropped", {"reason": "Spam Reporting Address"}, ReceiptKind.COMPLAINED, "dropped"),
            ("dropped", {"reason": "Spam Content"}, ReceiptKind.FAILED, "dropped"),
            ("spamreport", {}, ReceiptKind.COMPLAINED, "spamreport"),
            ("unsubscribe", {}, ReceiptKind.UNSUBSCRIBED, "unsubscribe"),
            ("group_unsubscribe", {"asm_group_id": 10}, ReceiptKind.UNSUBSCRIBED, "group_unsubscribe"),
        ],
    )
    def test_each_event_has_its_meaning(
        self, adapter: SendGridAdapter, name: str, fields: dict[str, object], kind: ReceiptKind, code: str
    ):
        [receipt] = adapter.parse_receipts(sendgrid_call([event(name, **fields)]), NOW)
        assert (receipt.kind, receipt.code, receipt.event_id) == (kind, code, f"id-{name}")
        assert (receipt.delivery_id, receipt.provider_message_id) == (DELIVERY_ID, "14c5d75ce93")
        assert receipt.occurred_at == NOW - timedelta(seconds=5)
        assert "person" not in repr(receipt)

    def test_what_decides_nothing_is_left_out(self, adapter: SendGridAdapter):
        names = ["processed", "deferred", "open", "click", "group_resubscribe", "account_status_change", "new"]
        assert adapter.parse_receipts(sendgrid_call([event(name) for name in names]), NOW) == []

    def test_an_event_without_an_id_gets_one_of_its_content(self, adapter: SendGridAdapter):
        events = [event("delivered", sg_event_id=None, n=number) for number in (1, 2, 1)]
        first, second, third = adapter.parse_receipts(sendgrid_call(events), NOW)
        assert first.event_id == third.event_id != second.event_id

    def test_a_foreign_delivery_id_is_not_taken(self, adapter: SendGridAdapter):
        [receipt] = adapter.parse_receipts(sendgrid_call([event("delivered", delivery_id="1 OR 1=1")]), NOW)
        assert receipt.delivery_id is None

    @pytest.mark.parametrize("body", [{}, "x", [1], [{}], [{"event": 5}], b"\xff", b"["])
    def test_what_sendgrid_does_not_send_is_malformed(self, adapter: SendGridAdapter, body: object):
        call = sendgrid_call(body)
        adapter.verify_receipt(call, NOW)
        with pytest.raises(MalformedReceipt):
            adapter.parse_receipts(call, NOW)


class TestSignatures:
    @pytest.mark.parametrize(("age_s", "is_fresh"), [(0, True), (300, True), (-300, True), (301, False), (-301, False)])
    def test_a_call_is_good_for_five_minutes(self, adapter: SendGridAdapter, age_s: int, is_fresh: bool):
        call = sendgrid_call([], at=NOW - timedelta(seconds=age_s))
        if is_fresh:
            adapter.verify_receipt(call, NOW)
        else:
            with pytest.raises(ForgedReceipt, match="too old"):
                adapter.verify_receipt(call, NOW)

    def test_another_key_is_forged(self, adapter: SendGridAdapter):
        with pytest.raises(ForgedReceipt):
            adapter.verify_receipt(sendgrid_call([], key=ec.generate_private_key(ec.SECP256R1())), NOW)

    def test_a_moved_timestamp_is_forged(self, adapter: SendGridAdapter):
        call = sendgrid_call([], at=NOW - timedelta(days=1))
        headers = {**call.headers, "x-twilio-email-event-webhook-timestamp": str(int(NOW.timestamp()))}
        with pytest.raises(ForgedReceipt):
            adapter.verify_receipt(replace(call, headers=headers), NOW)

    def test_the_key_may_be_pem(self):
        pem = (
            webhook_key()
            .public_key()
            .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
        for text in (pem.decode(), pem.decode().replace("\n", "\\n")):
            adapter = SendGridAdapter("sendgrid", sendgrid_options(webhook_public_key=text))
            adapter.verify_receipt(sendgrid_call([]), NOW)

    @pytest.mark.parametrize(
        "key", ["x", "====", "AAAA", public_key_base64(ec.generate_private_key(ec.SECP384R1()))], ids=range(4)
    )
    def test_another_kind_of_key_is_a_configuration_error(self, key: str):
        with pytest.raises(ConfigurationError, match="webhook_public_key"):
            SendGridAdapter("sendgrid", sendgrid_options(webhook_public_key=key))

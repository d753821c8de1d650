"""Telnyx: what is particular to it. What every adapter promises is in the contract suite."""

import json
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from apps.providers.errors import (
    ConfigurationError,
    ForgedReceipt,
    InvalidRecipient,
    MalformedReceipt,
    NotSent,
    PermanentError,
    ProviderError,
    RateLimited,
    TransientError,
    UnsupportedFeature,
)
from apps.providers.messages import ReceiptKind, Result
from tests.providers.accounts import CONTEXT, DELIVERY_ID, NOW, answer, delivery_id, message
from tests.providers.telnyx_accounts import make, telnyx_call, telnyx_event

NUMBER = "+15005550006"


def body_of(**fields: Any) -> dict[str, Any]:
    [request] = make().build([message(address=NUMBER, **fields)], CONTEXT)
    found: dict[str, Any] = json.loads(request.body)
    return found


def read(status: int, body: object) -> Result:
    [request] = make().build([message(address=NUMBER)], CONTEXT)
    [result] = make().parse(request, answer(status, body))
    return result


class TestBuild:
    def test_a_message_says_who_to_whom_and_where_receipts_go(self):
        url = f"https://notify.example.com/v1/webhooks/telnyx?delivery_id={delivery_id(1)}"
        assert body_of(callback_url=url) == {
            "from": "+15005550001",
            "to": NUMBER,
            "text": "Body",
            "tags": [delivery_id(1)],
            "webhook_url": url,
        }

    def test_a_messaging_profile_goes_along_with_an_alphanumeric_sender(self):
        adapter = make(sender="Notify", messaging_profile_id="4000eba1-a0c0-4563-9925-b25e842a7cb6")
        [request] = adapter.build([message(address=NUMBER)], CONTEXT)
        sent = json.loads(request.body)
        assert (sent["from"], sent["messaging_profile_id"]) == ("Notify", "4000eba1-a0c0-4563-9925-b25e842a7cb6")

    def test_a_title_stands_in_for_a_missing_body(self):
        assert body_of(body="", title="Title")["text"] == "Title"

    def test_more_than_ten_parts_are_refused(self):
        [request] = make().build([message(address=NUMBER, body="x" * 1_531)], CONTEXT)
        assert isinstance(request.rejected, UnsupportedFeature)


class TestParse:
    def test_an_acceptance_counts_the_parts(self):
        assert read(200, {"data": {"id": "m-1", "parts": 1}}) == Result(delivery_id(1), "m-1", None, 0.05, 1)

    @pytest.mark.parametrize(
        ("status", "code", "error"),
        [
            (400, "40310", InvalidRecipient),
            (409, "40300", InvalidRecipient),
            (400, "40302", PermanentError),
            (429, "10011", RateLimited),
            (400, "40318", RateLimited),
            (403, "20100", NotSent),
            (400, "40305", NotSent),
            (422, "40316", PermanentError),
            (500, "10007", TransientError),
        ],
    )
    def test_a_code_has_its_meaning(self, status: int, code: str, error: type[ProviderError]):
        found = read(status, {"errors": [{"code": code, "title": "…", "detail": f"{NUMBER} …"}]}).error
        assert type(found) is error
        assert found.code == code
        assert NUMBER not in str(found)


class TestReceipts:
    @pytest.mark.parametrize(
        ("status", "code", "kind"),
        [
            ("sent", "", ReceiptKind.ACCEPTED),
            ("delivery_unconfirmed", "", ReceiptKind.ACCEPTED),
            ("delivered", "", ReceiptKind.DELIVERED),
            ("delivery_failed", "40008", ReceiptKind.FAILED),
            ("delivery_failed", "40001", ReceiptKind.BOUNCED),
            ("sending_failed", "40300", ReceiptKind.UNSUBSCRIBED),
        ],
    )
    def test_a_status_has_its_meaning(self, status: str, code: str, kind: ReceiptKind):
        call = telnyx_call(telnyx_event(status, code=code))
        make().verify_receipt(call, NOW)
        [receipt] = make().parse_receipts(call, NOW)
        assert (receipt.kind, receipt.code, receipt.delivery_id) == (kind, code, DELIVERY_ID)
        assert (receipt.event_id, receipt.provider_message_id) == ("event-1", "m-1")
        assert receipt.occurred_at == NOW - timedelta(seconds=1)

    @pytest.mark.parametrize("event", [telnyx_event("queued"), telnyx_event("delivered", "message.received")])
    def test_what_decides_nothing_is_passed_over(self, event: dict[str, Any]):
        assert make().parse_receipts(telnyx_call(event), NOW) == []

    def test_an_event_without_ids_is_malformed(self):
        with pytest.raises(MalformedReceipt):
            make().parse_receipts(telnyx_call({"event_type": "message.sent"}), NOW)

    @pytest.mark.parametrize("age_s", [-301, 301])
    def test_an_old_call_is_refused(self, age_s: int):
        call = telnyx_call(telnyx_event("delivered"), at=NOW - timedelta(seconds=age_s))
        with pytest.raises(ForgedReceipt, match="too old"):
            make().verify_receipt(call, NOW)

    @pytest.mark.parametrize("timestamp", ["", "now", "1795000000000", "-1", "１７９５"])
    def test_a_call_without_a_time_is_refused(self, timestamp: str):
        call = telnyx_call(telnyx_event("delivered"))
        call = replace(call, headers={**call.headers, "telnyx-timestamp": timestamp})
        with pytest.raises(ForgedReceipt):
            make().verify_receipt(call, NOW)


@pytest.mark.parametrize("public_key", ["nonsense!", "c2hvcnQ="])
def test_a_wrong_public_key_is_named(public_key: str):
    with pytest.raises(ConfigurationError, match="public_key"):
        make(public_key=public_key)

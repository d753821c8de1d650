import json
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization

from apps.providers.adapters.vonage_messages import VonageMessagesAdapter
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
    Unauthorized,
    UnsupportedFeature,
)
from apps.providers.grants import AccessToken
from apps.providers.messages import ProviderRequest, ReceiptKind
from tests.providers.accounts import CONTEXT, DELIVERY_ID, NOW, answer, message, rsa_pem
from tests.providers.vonage_accounts import (
    APPLICATION_ID,
    messages_call,
    messages_options,
    status_content,
)

UUID = "aaaaaaaa-bbbb-cccc-dddd-0123456789ab"


@pytest.fixture
def adapter() -> VonageMessagesAdapter:
    return VonageMessagesAdapter("vonage_messages", messages_options())


def build(adapter: VonageMessagesAdapter, **fields: Any) -> ProviderRequest:
    values = {"address": "+15005551234", **fields}
    [request] = adapter.build([message(**values)], CONTEXT)
    return request


def problem(code: str, **fields: object) -> dict[str, object]:
    """https://developer.vonage.com/en/api-errors"""
    page = f"/messages#{code}" if code.isdigit() else f"#{code}"
    return {"type": f"https://developer.vonage.com/api-errors{page}", "title": "Title", "instance": "bf0c", **fields}


class TestRequest:
    def test_an_sms_is_json(self, adapter: VonageMessagesAdapter):
        request = build(adapter, body="Grüße & 😀")
        assert request.url == "https://vonage_messages.example.com/v1/messages"
        assert dict(request.headers)["Authorization"] == "Bearer access-token"
        assert json.loads(request.body) == {
            "channel": "sms",
            "message_type": "text",
            "to": "15005551234",
            "from": "15005550006",
            "text": "Grüße & 😀",
            "client_ref": DELIVERY_ID,
        }

    @pytest.mark.parametrize(("ttl_s", "ttl"), [(90, 90), (0, 20), (-3, 20), (10**9, 604_800)])
    def test_the_life_is_within_a_week(self, adapter: VonageMessagesAdapter, ttl_s: int, ttl: int):
        assert json.loads(build(adapter, ttl_s=ttl_s).body)["ttl"] == ttl

    @pytest.mark.parametrize(("length", "is_sent"), [(3_200, True), (3_201, False)])
    def test_a_text_ends_at_3200_characters(self, adapter: VonageMessagesAdapter, length: int, is_sent: bool):
        request = build(adapter, body="é" * length)
        assert (request.rejected is None) is is_sent
        assert is_sent or isinstance(request.rejected, UnsupportedFeature)

    def test_without_an_application_the_key_and_secret_serve(self):
        options = messages_options(application_id="", private_key="", api_secret="api-secret")
        adapter = VonageMessagesAdapter("vonage_messages", options)
        assert adapter.grant is None
        assert dict(build(adapter).headers)["Authorization"] == "Basic YWJjZDEyMzQ6YXBpLXNlY3JldA=="

    @pytest.mark.parametrize(
        ("changes", "named"),
        [
            ({"application_id": "my-app"}, "application_id"),
            ({"private_key": "-----BEGIN PRIVATE KEY-----"}, "private_key"),
            ({"application_id": "", "private_key": ""}, "application_id"),
            ({"application_id": "", "private_key": "", "api_secret": "a\nb"}, "api_key and api_secret"),
        ],
    )
    def test_what_cannot_authenticate_is_named(self, changes: dict[str, str], named: str):
        with pytest.raises(ConfigurationError, match=named):
            VonageMessagesAdapter("vonage_messages", messages_options(**changes))


class TestGrant:
    def test_the_token_names_the_application_and_lasts_a_quarter_of_an_hour(self, adapter: VonageMessagesAdapter):
        assert adapter.grant is not None
        token = adapter.grant.build(NOW)
        assert isinstance(token, AccessToken)
        key = serialization.load_pem_private_key(rsa_pem().encode(), password=None).public_key()
        claims = jwt.decode(token.value, key, algorithms=["RS256"], options={"verify_exp": False, "verify_iat": False})  # type: ignore[arg-type]
        assert claims.pop("jti")
        issued = int(NOW.timestamp())
        assert claims == {"application_id": APPLICATION_ID, "iat": issued, "exp": issued + 900}
        assert token.lifetime_s == 900

    def test_other_credentials_are_another_fingerprint(self, adapter: VonageMessagesAdapter):
        other = VonageMessagesAdapter("x", messages_options(application_id="aaaaaaaa-bbbb-4ccc-8ddd-000000000000"))
        assert adapter.grant is not None
        assert other.grant is not None
        assert adapter.grant.fingerprint != other.grant.fingerprint


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "content", "expected", "code"),
        [
            (401, problem("unauthorized"), Unauthorized, "401"),
            (402, problem("low-balance"), NotSent, "402"),
            (403, problem("forbidden"), NotSent, "403"),
            (422, problem("1120"), PermanentError, "1120"),
            (422, problem("1170"), InvalidRecipient, "1170"),
            (422, problem("1240"), InvalidRecipient, "1240"),
            (422, problem("1090"), UnsupportedFeature, "1090"),
            (422, problem("1060"), NotSent, "1060"),
            (422, problem("1020", invalid_parameters=[{"name": "to", "reason": "no"}]), InvalidRecipient, "1020"),
            (422, problem("1020", invalid_parameters=[{"name": "from"}, {"name": "to"}]), PermanentError, "1020"),
            (422, problem("1020", invalid_parameters=["to", 7]), PermanentError, "1020"),
            (422, {"title": 1050}, InvalidRecipient, "1050"),
            (429, problem("1000"), RateLimited, "1000"),
            (429, {}, RateLimited, "429"),
            (500, problem("1030"), TransientError, "1030"),
            (404, problem("not-found"), PermanentError, "404"),
        ],
    )
    def test_each_problem_has_its_class(
        self, adapter: VonageMessagesAdapter, status: int, content: object, expected: type[ProviderError], code: str
    ):
        [result] = adapter.parse(build(adapter), answer(status, content))
        assert type(result.error) is expected
        assert result.error.code == code

    def test_with_basic_authentication_a_401_is_the_accounts_affair(self):
        options = messages_options(application_id="", private_key="", api_secret="api-secret")
        adapter = VonageMessagesAdapter("vonage_messages", options)
        [result] = adapter.parse(build(adapter), answer(401, problem("unauthorized")))
        assert type(result.error) is NotSent

    def test_what_is_accepted_has_its_segments(self, adapter: VonageMessagesAdapter):
        [result] = adapter.parse(build(adapter, body="ж" * 71), answer(202, {"message_uuid": UUID}))
        assert (result.error, result.provider_message_id, result.segments) == (None, UUID, 2)


class TestReceipts:
    @pytest.mark.parametrize(
        ("status", "code", "kind"),
        [
            ("submitted", "", ReceiptKind.ACCEPTED),
            ("delivered", "", ReceiptKind.DELIVERED),
            ("read", "", ReceiptKind.DELIVERED),
            ("rejected", "1180", ReceiptKind.FAILED),
            ("rejected", "1190", ReceiptKind.BOUNCED),
            ("rejected", "1170", ReceiptKind.BOUNCED),
            ("rejected", "1240", ReceiptKind.UNSUBSCRIBED),
            ("undeliverable", "1230", ReceiptKind.FAILED),
        ],
    )
    @pytest.mark.parametrize("shape", ["type", "title"])
    def test_each_status_has_its_meaning(
        self, adapter: VonageMessagesAdapter, status: str, code: str, kind: ReceiptKind, shape: str
    ):
        error = problem(code) if shape == "type" else {"title": code and int(code)}
        call = messages_call(status_content(status=status, **({"error": error} if code else {})))
        adapter.verify_receipt(call, NOW)
        [receipt] = adapter.parse_receipts(call, NOW)
        assert (receipt.kind, receipt.code, receipt.event_id) == (kind, code, f"{UUID}:{status}")
        assert (receipt.delivery_id, receipt.provider_message_id) == (DELIVERY_ID, UUID)
        assert receipt.occurred_at == NOW - timedelta(seconds=2)
        assert adapter.parse_inbound(call, NOW) == []

    @pytest.mark.parametrize(
        "content", [{}, [], {"message_uuid": UUID}, {"status": "read"}, status_content(status="lost")]
    )
    def test_what_vonage_does_not_send_is_malformed(self, adapter: VonageMessagesAdapter, content: object):
        with pytest.raises(MalformedReceipt):
            adapter.parse_receipts(messages_call(content), NOW)


class TestSignatures:
    @pytest.mark.parametrize(
        "changes",
        [
            {"secret": "another"},
            {"alg": "none"},
            {"alg": "HS512"},
            {"payload_hash": "0" * 64},
            {"payload_hash": None},
            {"payload_hash": "ü"},
            {"api_key": "another"},
            {"iat": None},
            {"iat": "1795000000"},
            {"at": NOW + timedelta(seconds=301)},
            {"at": NOW - timedelta(hours=25, seconds=1)},
        ],
    )
    def test_a_token_that_is_not_vonages_is_forged(self, adapter: VonageMessagesAdapter, changes: dict[str, Any]):
        with pytest.raises(ForgedReceipt):
            adapter.verify_receipt(messages_call(status_content(), **changes), NOW)

    def test_a_days_repetition_is_believed(self, adapter: VonageMessagesAdapter):
        adapter.verify_receipt(messages_call(status_content(), at=NOW - timedelta(hours=24)), NOW)

    def test_without_an_api_key_any_account_with_the_secret_will_do(self):
        options = messages_options(api_key="")
        adapter = VonageMessagesAdapter("vonage_messages", options)
        adapter.verify_receipt(messages_call(status_content(), api_key="another"), NOW)

    @pytest.mark.parametrize(
        "authorization", ["", "Bearer", "Bearer a.b.c", "Basic YTpi", "Bearer ...", "bearer ü.ü.ü"]
    )
    def test_what_is_no_token_is_forged(self, adapter: VonageMessagesAdapter, authorization: str):
        call = messages_call(status_content())
        call.headers["authorization"] = authorization  # type: ignore[index]
        with pytest.raises(ForgedReceipt):
            adapter.verify_receipt(call, NOW)

    def test_a_body_may_be_of_any_bytes(self, adapter: VonageMessagesAdapter):
        adapter.verify_receipt(messages_call(b"\xff\x00"), NOW)


class TestInbound:
    def inbound(self, **changes: object) -> dict[str, object]:
        return {
            "channel": "sms",
            "message_uuid": UUID,
            "to": "15005550006",
            "from": "15005551234",
            "timestamp": "2026-11-22T11:59:50Z",
            "message_type": "text",
            "text": "Stop",
            "sms": {"num_messages": "1", "keyword": "STOP"},
            **changes,
        }

    @pytest.mark.parametrize(("text", "keyword"), [("Stop", "stop"), ("YES", "start"), ("?", ""), (None, "")])
    def test_a_keyword_is_heard(self, adapter: VonageMessagesAdapter, text: str | None, keyword: str):
        call = messages_call(self.inbound(text=text))
        adapter.verify_receipt(call, NOW)
        [heard] = adapter.parse_inbound(call, NOW)
        assert (heard.address, heard.keyword, heard.event_id) == ("+15005551234", keyword, f"{UUID}:inbound")
        assert heard.occurred_at == NOW - timedelta(seconds=10)
        assert adapter.parse_receipts(call, NOW) == []

    def test_another_channels_message_is_not_ours(self, adapter: VonageMessagesAdapter):
        call = messages_call(self.inbound(channel="whatsapp"))
        assert adapter.parse_inbound(call, NOW) == []
        assert adapter.parse_receipts(call, NOW) == []

    @pytest.mark.parametrize("changes", [{"from": None}, {"from": "Shop"}, {"message_uuid": 7}])
    def test_without_sender_or_id_it_is_malformed(self, adapter: VonageMessagesAdapter, changes: dict[str, object]):
        with pytest.raises(MalformedReceipt):
            adapter.parse_inbound(messages_call(self.inbound(**changes)), NOW)

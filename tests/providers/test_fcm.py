import json
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

import jwt
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from apps.providers.acks import compute_ack
from apps.providers.adapters.fcm import FcmAdapter
from apps.providers.errors import (
    ConfigurationError,
    ForgedReceipt,
    InvalidRecipient,
    MalformedReceipt,
    NotSent,
    PermanentError,
    RateLimited,
    TransientError,
    Unauthorized,
    UnsupportedFeature,
)
from apps.providers.grants import GrantError, ServiceAccountGrant
from apps.providers.messages import Message, ProviderRequest, ReceiptKind
from tests.providers.accounts import (
    ACK_KEY,
    CONTEXT,
    DELIVERY_ID,
    NOW,
    answer,
    fcm_ack,
    fcm_options,
    message,
    rsa_pem,
    service_account,
)

FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"


@pytest.fixture(scope="module")
def adapter() -> FcmAdapter:
    return FcmAdapter("fcm", fcm_options())


@pytest.fixture(scope="module")
def grant() -> ServiceAccountGrant:
    return ServiceAccountGrant(json.loads(service_account()))


def push(**fields: Any) -> Message:
    return message(address="token:1", **fields)


def build(adapter: FcmAdapter, **fields: Any) -> ProviderRequest:
    [request] = adapter.build([push(**fields)], CONTEXT)
    return request


def sent(adapter: FcmAdapter, **fields: Any) -> dict[str, Any]:
    request = build(adapter, **fields)
    assert request.rejected is None
    body: dict[str, Any] = json.loads(request.body)["message"]
    return body


def error(status: int, word: str, *details: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": status, "message": "…", "status": word, "details": list(details)}}


def fcm_error(code: str) -> dict[str, Any]:
    return {"@type": FCM_ERROR, "errorCode": code}


def violation(field: str) -> dict[str, Any]:
    return {"@type": BAD_REQUEST, "fieldViolations": [{"field": field, "description": "Invalid registration token"}]}


class TestPayload:
    def test_a_push_carries_its_words_and_how_to_acknowledge_it(self, adapter: FcmAdapter):
        body = sent(adapter, data={"order": "7"})
        assert body["token"] == "token:1"
        assert body["notification"] == {"title": "Title", "body": "Body"}
        assert body["data"] == {
            "order": "7",
            "notify_delivery_id": DELIVERY_ID,
            "notify_ack": compute_ack(ACK_KEY, DELIVERY_ID),
        }

    def test_the_callers_data_cannot_replace_ours(self, adapter: FcmAdapter):
        body = sent(adapter, data={"notify_delivery_id": "other", "notify_ack": "other"})
        assert body["data"]["notify_delivery_id"] == DELIVERY_ID

    def test_the_request_names_project_and_token(self, adapter: FcmAdapter):
        request = build(adapter)
        assert request.url == "https://fcm.example.com/v1/projects/example-project/messages:send"
        assert ("Authorization", "Bearer access-token") in request.headers

    def test_installation_ids_go_into_fid(self):
        [request] = FcmAdapter("fcm", fcm_options(address_field="fid")).build([push()], CONTEXT)
        assert json.loads(request.body)["message"]["fid"] == "token:1"

    @pytest.mark.parametrize(
        ("is_high", "android", "apns", "webpush"), [(True, "HIGH", "10", "high"), (False, "NORMAL", "5", "normal")]
    )
    def test_the_lane_becomes_each_platforms_priority(
        self, adapter: FcmAdapter, is_high: bool, android: str, apns: str, webpush: str
    ):
        body = sent(adapter, is_high=is_high)
        assert body["android"]["priority"] == android
        assert body["apns"]["headers"]["apns-priority"] == apns
        assert body["webpush"]["headers"]["Urgency"] == webpush

    @pytest.mark.parametrize(
        ("ttl_s", "android", "expiration"),
        [(60, "60s", "1795348860"), (0, "0s", "0"), (-5, "0s", "0"), (9_999_999, "2419200s", "1797768000")],
    )
    def test_the_time_to_live_stays_within_four_weeks(
        self, adapter: FcmAdapter, ttl_s: int, android: str, expiration: str
    ):
        body = sent(adapter, ttl_s=ttl_s)
        assert body["android"]["ttl"] == android
        assert body["apns"]["headers"]["apns-expiration"] == expiration

    def test_a_long_collapse_key_is_shortened_for_apns_alone(self, adapter: FcmAdapter):
        key = "k" * 65
        body = sent(adapter, collapse_key=key)
        assert body["android"]["collapse_key"] == key
        assert len(body["apns"]["headers"]["apns-collapse-id"]) == 64

    def test_badge_and_sound_reach_both_platforms(self, adapter: FcmAdapter):
        body = sent(adapter, badge=3, sound="ding.caf")
        assert body["apns"]["payload"] == {"aps": {"badge": 3, "sound": "ding.caf"}}
        assert body["android"]["notification"] == {"notification_count": 3, "sound": "ding.caf"}
        assert sent(adapter, badge=0)["apns"]["payload"] == {"aps": {"badge": 0}}
        assert "payload" not in sent(adapter)["apns"]

    @pytest.mark.parametrize(("extra", "is_sent"), [(0, True), (1, False)])
    def test_the_payload_ends_at_4096_bytes(self, adapter: FcmAdapter, extra: int, is_sent: bool):
        empty = json.loads(build(adapter, body="").body)["message"]
        overhead = len(
            json.dumps({"notification": empty["notification"], "data": empty["data"]}, separators=(",", ":"))
        )
        request = build(adapter, body="x" * (4_096 - overhead + extra))
        assert (request.rejected is None) is is_sent
        assert is_sent or isinstance(request.rejected, UnsupportedFeature)

    @pytest.mark.parametrize("key", ["from", "message_type", "google.x", "gcm.y", "googlex"])
    def test_reserved_data_keys_are_refused(self, adapter: FcmAdapter, key: str):
        assert isinstance(build(adapter, data={key: "x"}).rejected, UnsupportedFeature)

    @pytest.mark.parametrize(
        "fields",
        [
            {"badge": -1},
            {"badge": 2**40},
            {"sound": "a\n"},
            {"collapse_key": "a\r\nb: c"},
            {"data": {"a\nb": "c"}},
            {"data": {"": "c"}},
            {"data": {"a": 5}},
            {"title": "\ud800"},
        ],
    )
    def test_what_cannot_be_written_is_refused_for_good(self, adapter: FcmAdapter, fields: dict[str, Any]):
        assert isinstance(build(adapter, **fields).rejected, PermanentError)


class TestErrors:
    """Bodies as FCM sends them: https://bloomberg.github.io/pushiko/fcm_responses"""

    @pytest.mark.parametrize(
        ("status", "word", "details", "expected"),
        [
            (404, "NOT_FOUND", [fcm_error("UNREGISTERED")], InvalidRecipient),
            (404, "NOT_FOUND", [], PermanentError),
            (403, "PERMISSION_DENIED", [fcm_error("SENDER_ID_MISMATCH")], InvalidRecipient),
            (403, "PERMISSION_DENIED", [], NotSent),
            (400, "INVALID_ARGUMENT", [fcm_error("INVALID_ARGUMENT"), violation("message.token")], InvalidRecipient),
            (400, "INVALID_ARGUMENT", [violation("message.fid")], InvalidRecipient),
            (400, "INVALID_ARGUMENT", [violation("message.data[0].value")], PermanentError),
            (400, "INVALID_ARGUMENT", [fcm_error("INVALID_ARGUMENT")], PermanentError),
            (400, "INVALID_ARGUMENT", [], PermanentError),
            (400, "FAILED_PRECONDITION", [fcm_error("UNSPECIFIED_ERROR")], PermanentError),
            (401, "UNAUTHENTICATED", [], Unauthorized),
            (401, "UNAUTHENTICATED", [fcm_error("THIRD_PARTY_AUTH_ERROR")], NotSent),
            (500, "INTERNAL", [fcm_error("INTERNAL")], TransientError),
            (503, "UNAVAILABLE", [fcm_error("UNAVAILABLE")], TransientError),
        ],
    )
    def test_each_word_has_its_meaning(
        self, adapter: FcmAdapter, status: int, word: str, details: list[dict[str, Any]], expected: type[Exception]
    ):
        [result] = adapter.parse(build(adapter), answer(status, error(status, word, *details)))
        assert type(result.error) is expected
        assert result.error.code == next((detail["errorCode"] for detail in details if "errorCode" in detail), word)

    @pytest.mark.parametrize(("headers", "pause_s"), [({"retry-after": "30"}, 30), ({}, 60)])
    def test_a_used_up_quota_pauses_a_minute_unless_told(
        self, adapter: FcmAdapter, headers: dict[str, str], pause_s: float
    ):
        body = error(429, "RESOURCE_EXHAUSTED", fcm_error("QUOTA_EXCEEDED"))
        for raw in (body, b""):
            [result] = adapter.parse(build(adapter), answer(429, raw, headers))
            assert isinstance(result.error, RateLimited)
            assert result.error.retry_after_s == pause_s

    def test_an_unavailable_service_names_its_time(self, adapter: FcmAdapter):
        body = error(503, "UNAVAILABLE", fcm_error("UNAVAILABLE"))
        [result] = adapter.parse(build(adapter), answer(503, body, {"retry-after": "12"}))
        assert isinstance(result.error, TransientError)
        assert result.error.retry_after_s == 12


class TestAcknowledgements:
    def test_delivered(self, adapter: FcmAdapter):
        [receipt] = adapter.parse_receipts(fcm_ack(), NOW)
        assert (receipt.kind, receipt.occurred_at, receipt.event_id) == (
            ReceiptKind.DELIVERED,
            NOW,
            f"{DELIVERY_ID}:delivered",
        )

    def test_a_phone_whose_clock_is_ahead_does_not_deliver_tomorrow(self, adapter: FcmAdapter):
        [receipt] = adapter.parse_receipts(fcm_ack(at=int(NOW.timestamp() * 1000) + 86_400_000), NOW)
        assert receipt.occurred_at == NOW

    def test_another_deliverys_ack_is_forged(self, adapter: FcmAdapter):
        with pytest.raises(ForgedReceipt):
            adapter.verify_receipt(fcm_ack(delivery_id=DELIVERY_ID[:-1] + "2"), NOW)

    @pytest.mark.parametrize(
        "changes", [{"event": "opened"}, {"at": None}, {"at": "now"}, {"at": 10**400}, {"at": True}]
    )
    def test_what_the_app_does_not_say_is_malformed(self, adapter: FcmAdapter, changes: dict[str, object]):
        call = fcm_ack(**changes)
        adapter.verify_receipt(call, NOW)
        with pytest.raises(MalformedReceipt):
            adapter.parse_receipts(call, NOW)


class TestServiceAccount:
    def test_the_assertion_is_what_google_asks_for(self, grant: ServiceAccountGrant):
        request = grant.build(NOW)
        form = parse_qs(request.body.decode())
        claims = jwt.decode(form["assertion"][0], options={"verify_signature": False})
        assert form["grant_type"] == ["urn:ietf:params:oauth:grant-type:jwt-bearer"]
        assert request.url == "https://oauth2.example.com/token"
        assert jwt.get_unverified_header(form["assertion"][0]) == {"alg": "RS256", "typ": "JWT", "kid": "key-1"}
        assert claims == {
            "iss": "sender@example-project.iam.gserviceaccount.com",
            "scope": "https://www.googleapis.com/auth/firebase.messaging",
            "aud": "https://oauth2.googleapis.com/token",
            "iat": 1_795_348_800,
            "exp": 1_795_352_400,
        }

    def test_a_token_is_read_with_its_life(self, grant: ServiceAccountGrant):
        token = grant.parse(answer(200, {"access_token": "t", "expires_in": 1_800, "token_type": "Bearer"}))
        assert (token.value, token.lifetime_s) == ("t", 1_800)

    @pytest.mark.parametrize(
        ("status", "body", "code"),
        [
            (400, {"error": "invalid_grant", "error_description": "Invalid JWT Signature."}, "invalid_grant"),
            (401, {"error": "someone@example.com"}, "401"),
            (503, b"<html>", "503"),
            (200, {"expires_in": 5}, "200"),
            (200, {"access_token": "a\r\nb"}, "200"),
            (200, {"access_token": ["t"]}, "200"),
        ],
    )
    def test_anything_else_is_an_error(self, grant: ServiceAccountGrant, status: int, body: object, code: str):
        with pytest.raises(GrantError) as raised:
            grant.parse(answer(status, body))
        assert raised.value.code == code

    def test_other_credentials_have_another_fingerprint(self, grant: ServiceAccountGrant):
        other = ServiceAccountGrant(json.loads(service_account(client_email="other@example.com")))
        assert other.fingerprint != grant.fingerprint
        assert rsa_pem()[40:60] not in grant.fingerprint

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "missing"),
            ("{", "JSON object"),
            ("[]", "JSON object"),
            (service_account(private_key="no key"), "RSA key"),
            (service_account(token_uri="http://oauth2.example.com/token"), "https"),
            (service_account(client_email=None), "client_email"),
            (service_account(project_id="../other"), "project_id"),
        ],
    )
    def test_an_unusable_file_is_named(self, text: str, words: str):
        with pytest.raises(ConfigurationError, match=words):
            FcmAdapter("fcm", fcm_options(service_account=text))

    def test_an_unknown_address_field_is_named(self):
        with pytest.raises(ConfigurationError, match="address_field"):
            FcmAdapter("fcm", fcm_options(address_field="topic"))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
KEYS = st.sampled_from(["a", "b-1", "notify_ack", "notify_delivery_id", 'quote"', "back\\slash"])


@given(
    title=TEXT,
    body=TEXT,
    data=st.dictionaries(KEYS, TEXT, max_size=4),
    address=st.text("abcXYZ09:_-\"\\'{}%,", min_size=1, max_size=40),
    ack=st.none() | st.just("A-_z09" * 3),
    ttl_s=st.none() | st.integers(0, 10**7),
    badge=st.none() | st.integers(0, 9),
)
def test_body_put_together_from_parts_is_the_json_of_the_whole(
    adapter: FcmAdapter,
    title: str,
    body: str,
    data: dict[str, str],
    address: str,
    ack: str | None,
    ttl_s: int | None,
    badge: int | None,
) -> None:
    """Two messages with the same words share all but what is theirs."""
    first = Message(str(UUID(int=7)), address, title, body, data, ttl_s=ttl_s, badge=badge, ack=ack, is_high=True)
    second = Message(str(UUID(int=8)), "other", title, body, data, ttl_s=ttl_s, badge=badge, ack="x", is_high=True)
    requests = adapter.build([first, second], CONTEXT)
    for push, request in zip((first, second), requests, strict=True):
        written = json.loads(request.body)["message"]
        assert written["token"] == push.address
        assert written["notification"] == {"title": title, "body": body}
        assert written["data"] == {
            **data, "notify_delivery_id": push.delivery_id, "notify_ack": push.ack or ""
        }  # fmt: skip
        assert set(written) == {"token", "notification", "data", "android", "apns", "webpush"}


@pytest.mark.parametrize("over", [0, 1])
def test_size_of_the_payload_is_counted_to_the_byte(adapter: FcmAdapter, over: int) -> None:
    push = Message(str(UUID(int=7)), "token", "", "", {"key": 'ä"\\'}, ack="x" * 22)
    [request] = adapter.build([push], CONTEXT)
    written = json.loads(request.body)["message"]
    payload = orjson.dumps({"notification": written["notification"], "data": written["data"]})
    filler = "b" * (4_096 - len(payload) + over)
    [request] = adapter.build([replace(push, body=filler)], CONTEXT)
    assert (request.rejected is None) is (over == 0)

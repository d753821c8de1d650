import json
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from django_redis import get_redis_connection
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from apps.providers import tokens
from apps.providers.acks import compute_ack
from apps.providers.adapters.apns import ApnsAdapter
from apps.providers.errors import (
    ConfigurationError,
    ForgedReceipt,
    InvalidRecipient,
    NotSent,
    OutcomeUnknown,
    PermanentError,
    ProviderError,
    RateLimited,
    RecipientRateLimited,
    TransientError,
    Unauthorized,
    UnsupportedFeature,
)
from apps.providers.grants import AccessToken, ApnsGrant, GrantError
from apps.providers.messages import BuildContext, Message, ProviderRequest, ReceiptKind
from apps.providers.tokens import get_token, invalidate_token
from tests.providers.accounts import ACK_KEY, CONTEXT, DELIVERY_ID, NOW, answer, message, rsa_pem
from tests.providers.push_accounts import apns_options, device_ack, p256_key, pem_of

TOKEN = "a1" * 32
PERIOD = timedelta(minutes=45)


@pytest.fixture(scope="module")
def adapter() -> ApnsAdapter:
    return ApnsAdapter("apns", apns_options())


@pytest.fixture
def grant() -> ApnsGrant:
    return ApnsGrant(p256_key(), key_id="ABC123DEFG", team_id="DEF123GHIJ")


def push(**fields: Any) -> Message:
    return message(**{"address": TOKEN, **fields})


def build(adapter: ApnsAdapter, **fields: Any) -> ProviderRequest:
    [request] = adapter.build([push(**fields)], CONTEXT)
    return request


def sent(adapter: ApnsAdapter, **fields: Any) -> tuple[dict[str, str], dict[str, Any]]:
    request = build(adapter, **fields)
    assert request.rejected is None
    return dict(request.headers), json.loads(request.body)


def error_of(adapter: ApnsAdapter, status: int, body: object, headers: dict[str, str] | None = None) -> ProviderError:
    [result] = adapter.parse(build(adapter), answer(status, body, headers))
    assert result.error is not None
    return result.error


class TestPayload:
    def test_an_alert_carries_its_words_and_how_to_acknowledge_it(self, adapter: ApnsAdapter):
        _, payload = sent(adapter, data={"order": "7"}, badge=3, sound="default")
        assert payload == {
            "aps": {
                "alert": {"title": "Title", "body": "Body"},
                "badge": 3,
                "sound": "default",
                "mutable-content": 1,
            },
            "order": "7",
            "notify_delivery_id": DELIVERY_ID,
            "notify_ack": compute_ack(ACK_KEY, DELIVERY_ID),
        }

    def test_the_callers_data_cannot_replace_ours(self, adapter: ApnsAdapter):
        _, payload = sent(adapter, data={"notify_delivery_id": "other"})
        assert payload["notify_delivery_id"] == DELIVERY_ID
        assert build(adapter, data={"aps": "x"}).rejected is not None

    def test_the_request_names_device_topic_and_delivery(self, adapter: ApnsAdapter):
        request = build(adapter)
        headers = dict(request.headers)
        assert request.url == f"https://apns.example.com/3/device/{TOKEN}"
        assert headers["authorization"] == "bearer access-token"
        assert (headers["apns-topic"], headers["apns-push-type"]) == ("com.example.app", "alert")
        assert headers["apns-id"] == DELIVERY_ID

    @pytest.mark.parametrize(("is_high", "priority"), [(True, "10"), (False, "5")])
    def test_the_lane_becomes_the_priority(self, adapter: ApnsAdapter, is_high: bool, priority: str):
        assert sent(adapter, is_high=is_high)[0]["apns-priority"] == priority

    def test_without_words_it_is_a_background_notification_which_may_not_be_urgent(self, adapter: ApnsAdapter):
        headers, payload = sent(adapter, title="", body="", is_high=True)
        assert (headers["apns-push-type"], headers["apns-priority"]) == ("background", "5")
        assert payload["aps"] == {"content-available": 1}

    def test_a_badge_alone_shows_no_alert(self, adapter: ApnsAdapter):
        headers, payload = sent(adapter, title="", body="", badge=0)
        assert headers["apns-push-type"] == "alert"
        assert payload["aps"] == {"badge": 0}

    def test_an_empty_title_is_left_out(self, adapter: ApnsAdapter):
        assert sent(adapter, title="")[1]["aps"]["alert"] == {"body": "Body"}

    @pytest.mark.parametrize(
        ("ttl_s", "expiration"),
        [(None, None), (60, "1795348860"), (0, "0"), (-5, "0"), (10**9, "1797940800")],  # now is 1795348800
    )
    def test_the_time_to_live_becomes_a_moment_within_30_days(
        self, adapter: ApnsAdapter, ttl_s: int | None, expiration: str | None
    ):
        assert sent(adapter, ttl_s=ttl_s)[0].get("apns-expiration") == expiration

    @pytest.mark.parametrize(("key", "is_kept"), [("k" * 64, True), ("k" * 65, False), (None, False)])
    def test_a_collapse_id_has_at_most_64_bytes(self, adapter: ApnsAdapter, key: str | None, is_kept: bool):
        collapse_id = sent(adapter, collapse_key=key)[0].get("apns-collapse-id")
        assert (collapse_id == key) is (is_kept or key is None)
        assert collapse_id is None or len(collapse_id) == 64

    @pytest.mark.parametrize(("extra", "is_sent"), [(0, True), (1, False)])
    def test_the_payload_ends_at_4096_bytes(self, adapter: ApnsAdapter, extra: int, is_sent: bool):
        overhead = len(build(adapter, body="x").body) - 1
        request = build(adapter, body="x" * (4_096 - overhead + extra))
        assert (request.rejected is None) is is_sent
        assert is_sent or isinstance(request.rejected, UnsupportedFeature)

    @pytest.mark.parametrize(
        "fields",
        [
            {"collapse_key": "a\r\nb: c"},
            {"data": {"a\nb": "c"}},
            {"data": {"a": 5}},
            {"title": "\ud800"},
            {"sound": "a\n"},
            {"badge": -1},
            {"badge": 2**31},
        ],
    )
    def test_what_cannot_be_written_is_refused_for_good(self, adapter: ApnsAdapter, fields: dict[str, Any]):
        assert isinstance(build(adapter, **fields).rejected, PermanentError)

    @pytest.mark.parametrize("address", ["fGk3:APA91bH", '{"endpoint":"https://push.example.com"}', "abc", "a1" * 101])
    def test_another_services_token_costs_the_message_but_not_the_device(self, adapter: ApnsAdapter, address: str):
        assert type(build(adapter, address=address).rejected) is UnsupportedFeature

    @pytest.mark.parametrize("address", ["", "a1 b2", "a1\n", "ä1", "../../other"])
    def test_no_token_changes_the_path(self, adapter: ApnsAdapter, address: str):
        assert isinstance(build(adapter, address=address).rejected, PermanentError)


class TestErrors:
    """https://developer.apple.com/documentation/usernotifications/handling-notification-responses-from-apns"""

    @pytest.mark.parametrize(
        ("status", "reason", "expected"),
        [
            (400, "BadCollapseId", PermanentError),
            (400, "BadDeviceToken", InvalidRecipient),
            (400, "BadExpirationDate", PermanentError),
            (400, "BadMessageId", PermanentError),
            (400, "BadPriority", PermanentError),
            (400, "BadTopic", NotSent),
            (400, "DeviceTokenNotForTopic", InvalidRecipient),
            (400, "DuplicateHeaders", PermanentError),
            (400, "IdleTimeout", TransientError),
            (400, "InvalidPushType", PermanentError),
            (400, "MissingDeviceToken", PermanentError),
            (400, "MissingTopic", NotSent),
            (400, "PayloadEmpty", PermanentError),
            (400, "TopicDisallowed", NotSent),
            (403, "BadCertificate", NotSent),
            (403, "BadCertificateEnvironment", NotSent),
            (403, "BadEnvironmentKeyIdInToken", NotSent),
            (403, "ExpiredProviderToken", Unauthorized),
            (403, "Forbidden", NotSent),
            (403, "InvalidProviderToken", Unauthorized),
            (403, "MissingProviderToken", NotSent),
            (403, "UnrelatedKeyIdInToken", NotSent),
            (404, "BadPath", NotSent),
            (405, "MethodNotAllowed", PermanentError),
            (410, "ExpiredToken", InvalidRecipient),
            (410, "Unregistered", InvalidRecipient),
            (413, "PayloadTooLarge", UnsupportedFeature),
            (429, "TooManyProviderTokenUpdates", RateLimited),
            (429, "TooManyRequests", RecipientRateLimited),
            (500, "InternalServerError", TransientError),
            (503, "ServiceUnavailable", TransientError),
            (503, "Shutdown", TransientError),
            (400, "SomethingNew", PermanentError),
        ],
    )
    def test_each_reason_has_its_meaning(
        self, adapter: ApnsAdapter, status: int, reason: str, expected: type[Exception]
    ):
        error = error_of(adapter, status, {"reason": reason})
        assert type(error) is expected
        assert error.code == reason

    def test_a_dead_token_says_since_when(self, adapter: ApnsAdapter):
        error = error_of(adapter, 410, {"reason": "Unregistered", "timestamp": 1_795_000_000_123})
        assert isinstance(error, InvalidRecipient)
        assert error.dead_since_ms == 1_795_000_000_123

    @pytest.mark.parametrize("timestamp", [None, "1795000000123", -1, 0, 10**13, 1.5, True, [1]])
    def test_a_strange_moment_is_no_moment(self, adapter: ApnsAdapter, timestamp: object):
        error = error_of(adapter, 410, {"reason": "Unregistered", "timestamp": timestamp})
        assert isinstance(error, InvalidRecipient)
        assert error.dead_since_ms is None

    @pytest.mark.parametrize(
        ("status", "body"),
        [
            (410, b"<html>Gone</html>"),
            (410, b""),
            (404, {"reason": "Unregistered"}),
            (400, {"reason": ["Unregistered"]}),
        ],
    )
    def test_only_apples_own_word_kills_a_token(self, adapter: ApnsAdapter, status: int, body: object):
        assert type(error_of(adapter, status, body)) is PermanentError

    @pytest.mark.parametrize(
        ("reason", "headers", "pause_s"),
        [
            ("TooManyRequests", {}, None),
            ("TooManyRequests", {"retry-after": "7"}, 7),
            ("TooManyProviderTokenUpdates", {}, 60),
            ("TooManyProviderTokenUpdates", {"retry-after": "7"}, 7),
        ],
    )
    def test_one_devices_limit_names_no_time_but_the_teams_does(
        self, adapter: ApnsAdapter, reason: str, headers: dict[str, str], pause_s: float | None
    ):
        error = error_of(adapter, 429, {"reason": reason}, headers)
        assert isinstance(error, RateLimited)
        assert error.retry_after_s == pause_s
        assert isinstance(error, RecipientRateLimited) is (reason == "TooManyRequests")

    def test_an_acceptance_names_the_notification(self, adapter: ApnsAdapter):
        [result] = adapter.parse(build(adapter), answer(200, b"", {"apns-id": DELIVERY_ID.upper()}))
        assert (result.error, result.provider_message_id) == (None, DELIVERY_ID.upper())

    def test_a_success_that_is_not_apples_is_unknown(self, adapter: ApnsAdapter):
        assert isinstance(error_of(adapter, 200, b"<html>Welcome to this network</html>"), OutcomeUnknown)

    @settings(deadline=None, max_examples=300)
    @given(
        status=st.sampled_from([400, 403, 404, 410, 413, 429, 500, 503]) | st.integers(0, 999),
        reason=st.text(max_size=60) | st.sampled_from(["Unregistered", "BadPath", "Shutdown", "ExpiredToken"]),
        timestamp=st.none() | st.integers() | st.floats() | st.text(max_size=5),
    )
    def test_every_answer_is_in_the_taxonomy(self, status: int, reason: str, timestamp: object):
        adapter = ApnsAdapter("apns", apns_options())
        body = json.dumps({"reason": reason, "timestamp": timestamp}).encode()
        for raw in (body, body[:-2], body[3:]):
            [result] = adapter.parse(build(adapter), answer(status, raw))
            assert isinstance(result.error, ProviderError)
            assert len(result.error.code) <= 48


class TestProviderToken:
    def test_it_is_what_apple_asks_for(self, grant: ApnsGrant):
        token = grant.build(NOW)
        assert jwt.get_unverified_header(token.value) == {"alg": "ES256", "kid": "ABC123DEFG", "typ": "JWT"}
        options = {"verify_iat": False}
        claims = jwt.decode(token.value, p256_key().public_key(), algorithms=["ES256"], options=options)
        assert claims == {"iss": "DEF123GHIJ", "iat": 1_795_348_740}  # a period began at noon; a minute for our clock

    @settings(deadline=None, max_examples=100)
    @given(moment=st.datetimes().map(lambda moment: moment.replace(tzinfo=NOW.tzinfo)))
    def test_at_any_time_it_is_young_enough_for_as_long_as_it_serves(self, moment: Any):
        if moment.year < 1971 or moment.year > 2400:
            return
        token = ApnsGrant(p256_key(), key_id="ABC123DEFG", team_id="DEF123GHIJ").build(moment)
        issued = jwt.decode(token.value, options={"verify_signature": False})["iat"]
        assert issued <= moment.timestamp() - 59
        assert moment.timestamp() + token.lifetime_s - issued <= 3_600
        assert token.renew_after_s is not None
        assert 0 < token.renew_after_s < token.lifetime_s

    def test_all_processes_sign_the_same_without_asking_each_other(self):
        made = {
            ApnsGrant(p256_key(), key_id="ABC123DEFG", team_id="DEF123GHIJ").build(NOW + timedelta(minutes=m)).value
            for m in range(45)
        }
        assert len(made) == 1

    def test_the_next_comes_45_minutes_later(self, grant: ApnsGrant):
        assert grant.build(NOW).value != grant.build(NOW + PERIOD).value
        assert grant.build(NOW + PERIOD).value == grant.build(NOW + 2 * PERIOD - timedelta(seconds=1)).value

    def test_other_credentials_have_another_fingerprint(self, grant: ApnsGrant):
        others = [
            ApnsGrant(p256_key(), key_id="ABC123DEFH", team_id="DEF123GHIJ"),
            ApnsGrant(p256_key(), key_id="ABC123DEFG", team_id="DEF123GHIK"),
            ApnsGrant(ec.generate_private_key(ec.SECP256R1()), key_id="ABC123DEFG", team_id="DEF123GHIJ"),
        ]
        assert len({grant.fingerprint, *(other.fingerprint for other in others)}) == 4

    def test_there_is_no_answer_to_read(self, grant: ApnsGrant):
        with pytest.raises(GrantError):
            grant.parse(answer(200, {"access_token": "t"}))


class Counting(ApnsGrant):
    """Counts signatures."""

    def __init__(self) -> None:
        super().__init__(p256_key(), key_id="ABC123DEFG", team_id="DEF123GHIJ")
        self.signed = 0

    def build(self, now: Any) -> AccessToken:
        self.signed += 1
        return super().build(now)


@pytest.mark.usefixtures("no_tokens")
class TestSharing:
    def test_one_process_signs_for_all(self):
        first, second = Counting(), Counting()
        token = get_token("apns", first, NOW)
        tokens._held.clear()
        assert get_token("apns", second, NOW + timedelta(minutes=44)) == token
        assert (first.signed, second.signed) == (1, 0)

    def test_it_is_renewed_when_the_period_ends_and_not_before(self):
        grant = Counting()
        token = get_token("apns", grant, NOW)
        assert get_token("apns", grant, NOW + PERIOD - timedelta(seconds=1)) == token
        assert grant.signed == 1
        assert get_token("apns", grant, NOW + PERIOD) != token
        assert grant.signed == 2

    def test_the_old_one_serves_while_another_process_signs(self):
        grant = Counting()
        token = get_token("apns", grant, NOW)
        get_redis_connection("default").set("oauth:apns:lock", "another process", px=10_000)
        assert get_token("apns", grant, NOW + PERIOD) == token
        assert grant.signed == 1

    def test_a_refused_token_is_not_replaced_by_another_within_its_period(self):
        grant = Counting()
        token = get_token("apns", grant, NOW)
        for minutes in range(1, 20):
            invalidate_token("apns", grant, token)
            assert get_token("apns", grant, NOW + timedelta(minutes=minutes)) == token

    def test_without_redis_processes_still_show_the_same_token(self, settings: Settings):
        settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": "redis://127.0.0.1:1/0"}}
        shown = set()
        for minutes in range(0, 45, 5):
            tokens._held.clear()
            shown.add(get_token("apns", Counting(), NOW + timedelta(minutes=minutes)))
        assert len(shown) == 1

    def test_the_request_carries_it(self, adapter: ApnsAdapter):
        assert adapter.grant is not None
        token = get_token("apns", adapter.grant, NOW)
        [request] = adapter.build([push()], BuildContext(NOW, token))
        assert dict(request.headers)["authorization"] == f"bearer {token}"


class TestAcknowledgements:
    def test_delivered(self, adapter: ApnsAdapter):
        call = device_ack("apns")
        adapter.verify_receipt(call, NOW)
        [receipt] = adapter.parse_receipts(call, NOW)
        assert (receipt.kind, receipt.delivery_id) == (ReceiptKind.DELIVERED, DELIVERY_ID)

    def test_another_deliverys_ack_is_forged(self, adapter: ApnsAdapter):
        with pytest.raises(ForgedReceipt):
            adapter.verify_receipt(device_ack("apns", delivery_id=DELIVERY_ID[:-1] + "2"), NOW)


class TestConfiguration:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"key": ""}, "key is neither"),
            ({"key": "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"}, "key is no private key"),
            ({"key": rsa_pem()}, "key is not a P-256 key"),
            ({"key": pem_of(ec.generate_private_key(ec.SECP384R1()))}, "key is not a P-256 key"),
            ({"key_id": "short"}, "key_id"),
            ({"team_id": "DEF123GHIj"}, "team_id"),
            ({"topic": "com.example.app\r\nx: y"}, "topic"),
        ],
    )
    def test_what_cannot_work_is_named_with_its_mend(self, changes: dict[str, str], words: str):
        with pytest.raises(ConfigurationError, match=words) as raised:
            ApnsAdapter("apns", apns_options(**changes))
        assert "AAAA" not in str(raised.value)

import base64
import json
from datetime import timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.providers import es256
from apps.providers.acks import compute_ack
from apps.providers.adapters.aes128gcm import MAX_PLAINTEXT_BYTES, encrypt
from apps.providers.adapters.push_subscriptions import AllowedServices, MalformedSubscription, read_subscription
from apps.providers.adapters.webpush import WebPushAdapter
from apps.providers.errors import (
    ConfigurationError,
    ForgedReceipt,
    InvalidRecipient,
    NotSent,
    OutcomeUnknown,
    PermanentError,
    ProviderError,
    RecipientRateLimited,
    TransientError,
    UnsupportedFeature,
)
from apps.providers.messages import BuildContext, Message, ProviderRequest, ReceiptKind
from tests.providers.accounts import ACK_KEY, CONTEXT, DELIVERY_ID, NOW, answer, message
from tests.providers.push_accounts import (
    BROWSER_SECRET,
    browser_key,
    device_ack,
    p256_key,
    pem_of,
    subscription,
    subscription_keys,
    webpush_options,
)


@pytest.fixture(scope="module")
def adapter() -> WebPushAdapter:
    return WebPushAdapter("webpush", webpush_options())


def push(**fields: Any) -> Message:
    return message(**{"address": subscription(), **fields})


def build(adapter: WebPushAdapter, **fields: Any) -> ProviderRequest:
    [request] = adapter.build([push(**fields)], CONTEXT)
    return request


def sent(adapter: WebPushAdapter, **fields: Any) -> tuple[dict[str, str], dict[str, Any]]:
    request = build(adapter, **fields)
    assert request.rejected is None
    return dict(request.headers), json.loads(open_body(request.body))


def open_body(body: bytes, key: ec.EllipticCurvePrivateKey | None = None, secret: bytes = BROWSER_SECRET) -> bytes:
    """What a browser makes of a message, by RFC 8291, 3.4."""
    key = browser_key() if key is None else key
    salt, sender = body[:16], body[21:86]
    assert (int.from_bytes(body[16:20], "big"), body[20]) == (4_096, 65)
    sender_key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), sender)
    info = b"WebPush: info\x00" + es256.public_point(key) + sender

    def derive(keying: bytes, salt: bytes, info: bytes, length: int) -> bytes:
        return HKDF(algorithm=hashes.SHA256(), length=length, salt=salt, info=info).derive(keying)

    keying = derive(key.exchange(ec.ECDH(), sender_key), secret, info, 32)
    content_key = derive(keying, salt, b"Content-Encoding: aes128gcm\x00", 16)
    plain = AESGCM(content_key).decrypt(derive(keying, salt, b"Content-Encoding: nonce\x00", 12), body[86:], None)
    assert plain.endswith(b"\x02")
    return plain[:-1]


class TestEncryption:
    def test_the_example_of_rfc_8291(self):
        """Appendix A: the same salt and sender's key make the same message."""
        decode = es256.decode_base64url
        body = encrypt(
            b"When I grow up, I want to be a watermelon",
            receiver=decode("BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4"),
            secret=decode("BTBZMqHH6r4Tts7J_aSIgg"),
            salt=decode("DGv6ra1nlYgDCS1FRnbzlw"),
            sender_key=es256.load_private_key("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"),
        )
        assert es256.encode_base64url(body) == (
            "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7"
            "A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
        )

    def test_no_two_messages_share_key_or_salt(self, adapter: WebPushAdapter):
        bodies = [build(adapter).body for _ in range(20)]
        assert len({body[:16] for body in bodies}) == len({body[21:86] for body in bodies}) == 20


class TestPayload:
    def test_the_browser_reads_its_words_and_how_to_acknowledge_them(self, adapter: WebPushAdapter):
        _, content = sent(adapter, body="Grüße 😀", data={"order": "7"}, badge=3, sound="ding")
        assert content == {
            "title": "Title",
            "body": "Grüße 😀",
            "badge": 3,
            "sound": "ding",
            "data": {
                "order": "7",
                "notify_delivery_id": DELIVERY_ID,
                "notify_ack": compute_ack(ACK_KEY, DELIVERY_ID),
            },
        }

    def test_the_request_goes_to_the_endpoint(self, adapter: WebPushAdapter):
        request = build(adapter)
        headers = dict(request.headers)
        assert (request.url, request.method) == ("https://webpush.example.com/p/1", "POST")
        assert headers["Content-Encoding"] == "aes128gcm"

    @pytest.mark.parametrize(("ttl_s", "ttl"), [(None, "2419200"), (60, "60"), (0, "0"), (-5, "0"), (10**9, "2419200")])
    def test_the_time_to_live_is_always_said(self, adapter: WebPushAdapter, ttl_s: int | None, ttl: str):
        assert sent(adapter, ttl_s=ttl_s)[0]["TTL"] == ttl

    @pytest.mark.parametrize(("is_high", "urgency"), [(True, "high"), (False, "normal")])
    def test_the_lane_becomes_the_urgency(self, adapter: WebPushAdapter, is_high: bool, urgency: str):
        assert sent(adapter, is_high=is_high)[0]["Urgency"] == urgency

    @pytest.mark.parametrize(
        ("key", "is_kept"), [("order-7_x", True), ("k" * 32, True), ("k" * 33, False), ("a b", False)]
    )
    def test_a_topic_has_at_most_32_characters_of_base64url(self, adapter: WebPushAdapter, key: str, is_kept: bool):
        topic = sent(adapter, collapse_key=key)[0]["Topic"]
        assert (topic == key) is is_kept
        assert len(topic) <= 32
        assert set(topic) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")

    def test_without_a_collapse_key_nothing_is_replaced(self, adapter: WebPushAdapter):
        assert "Topic" not in sent(adapter)[0]

    @pytest.mark.parametrize(("extra", "is_sent"), [(0, True), (1, False)])
    def test_the_encrypted_body_ends_at_4096_bytes(self, adapter: WebPushAdapter, extra: int, is_sent: bool):
        overhead = len(open_body(build(adapter, body="x").body)) - 1
        request = build(adapter, body="x" * (MAX_PLAINTEXT_BYTES - overhead + extra))
        assert (request.rejected is None) is is_sent
        assert len(request.body) == (4_096 if is_sent else 0)
        assert is_sent or isinstance(request.rejected, UnsupportedFeature)

    @pytest.mark.parametrize(
        "fields", [{"data": {"a": 5}}, {"title": "\ud800"}, {"badge": -1}, {"collapse_key": "a\n"}]
    )
    def test_what_cannot_be_written_is_refused_for_good(self, adapter: WebPushAdapter, fields: dict[str, Any]):
        assert isinstance(build(adapter, **fields).rejected, PermanentError)


class TestVapid:
    def authorization(self, adapter: WebPushAdapter, **fields: Any) -> tuple[str, str]:
        scheme, _, rest = dict(build(adapter, **fields).headers)["Authorization"].partition(" ")
        assert scheme == "vapid"
        parts = dict(part.split("=", 1) for part in rest.split(", "))
        return parts["t"], parts["k"]

    def test_the_token_proves_who_we_are_to_the_one_push_service(self, adapter: WebPushAdapter):
        token, key = self.authorization(adapter)
        assert es256.decode_base64url(key) == es256.public_point(p256_key())
        claims = jwt.decode(
            token,
            p256_key().public_key(),
            ["ES256"],
            audience="https://webpush.example.com",
            options={"verify_exp": False},
        )
        assert claims["sub"] == "mailto:operations@example.com"
        assert 0 < claims["exp"] - NOW.timestamp() < 86_400

    def test_a_port_is_part_of_the_audience(self):
        adapter = WebPushAdapter("webpush", webpush_options(allowed_hosts=["127.0.0.1:8443"]))
        address = subscription(endpoint="https://127.0.0.1:8443/p/1")
        token, _ = self.authorization(adapter, address=address)
        assert jwt.decode(token, options={"verify_signature": False})["aud"] == "https://127.0.0.1:8443"

    def test_a_token_is_signed_once_for_all_messages_to_a_service(self, adapter: WebPushAdapter):
        messages = [push(address=subscription(number)) for number in range(5)]
        requests = adapter.build(messages, CONTEXT)
        assert len({dict(request.headers)["Authorization"] for request in requests}) == 1

    @settings(deadline=None, max_examples=50)
    @given(hours=st.floats(0, 10_000))
    def test_at_any_time_it_ends_within_a_day(self, hours: float):
        now = NOW + timedelta(hours=hours)
        adapter = WebPushAdapter("webpush", webpush_options())
        [request] = adapter.build([push()], BuildContext(now))
        token = dict(request.headers)["Authorization"].removeprefix("vapid t=").partition(",")[0]
        expires = jwt.decode(token, options={"verify_signature": False})["exp"]
        assert 10 * 3_600 < expires - now.timestamp() < 23.1 * 3_600

    def test_a_key_may_be_pem_or_base64url(self):
        raw = p256_key().private_numbers().private_value.to_bytes(32, "big")
        for text in (pem_of(p256_key()), es256.encode_base64url(raw), base64.b64encode(raw).decode() + "\n"):
            adapter = WebPushAdapter("webpush", webpush_options(vapid_private_key=text))
            assert self.authorization(adapter)[1] == es256.encode_base64url(es256.public_point(p256_key()))


class TestEndpoints:
    """Nobody's subscription makes us call anything but a push service."""

    @pytest.mark.parametrize(
        "endpoint",
        [
            "https://fcm.googleapis.com/fcm/send/f7:APA91b-x_y",
            "https://updates.push.services.mozilla.com/wpush/v2/gAAAAABm",
            "https://wns2-par02p.notify.windows.com/w/?token=BQYAAAB%2f",
            "https://web.push.apple.com/QGN5abc",
            "https://fcm.googleapis.com:443/fcm/send/x",
        ],
    )
    def test_the_known_services_may_be_called(self, endpoint: str):
        hosts = ["fcm.googleapis.com", "push.services.mozilla.com", "notify.windows.com", "web.push.apple.com"]
        adapter = WebPushAdapter("webpush", webpush_options(allowed_hosts=hosts))
        assert build(adapter, address=subscription(endpoint=endpoint)).url == endpoint

    @pytest.mark.parametrize(
        "endpoint",
        [
            "https://127.0.0.1/p/1",
            "https://localhost/p/1",
            "https://169.254.169.254/latest/meta-data/",
            "https://10.0.0.1/",
            "https://2130706433/",
            "https://0x7f000001/",
            "https://other.example.com/p/1",
            "https://evilwebpush.example.com/p/1",
            "https://webpush.example.com.evil.example/p/1",
            "https://webpush.example.com:8443/p/1",
            "https://webpush.example.com:22/p/1",
        ],
    )
    def test_another_host_is_never_called_and_keeps_its_device(self, adapter: WebPushAdapter, endpoint: str):
        request = build(adapter, address=subscription(endpoint=endpoint))
        assert type(request.rejected) is UnsupportedFeature
        assert (request.url, request.rejected.code) == ("", "host_not_allowed")

    @pytest.mark.parametrize(
        "endpoint",
        [
            "http://webpush.example.com/p/1",
            "ftp://webpush.example.com/",
            "file:///etc/passwd",
            "https://webpush.example.com@127.0.0.1/",
            "https://user:password@webpush.example.com/",
            "https://127.0.0.1\\@webpush.example.com/",
            "https://127.0.0.1#@webpush.example.com/",
            "https://127.0.0.1/#.webpush.example.com",
            "https://webpush.example.com\t/",
            "https://webpush.example.com/\n",
            "https://webpush.example.com./",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https:///p/1",
            "https://webpush.example.com:0/",
            "https://webpush.example.com:99999/",
            "https://webpush.example.com:/",
            "https://webpush.example.com/" + "x" * 2_048,
            "//webpush.example.com/",
            " https://webpush.example.com/",
            "https://webpüsh.example.com/",
            "",
            None,
            7,
        ],
    )
    def test_what_is_no_plain_https_url_is_no_subscription(self, adapter: WebPushAdapter, endpoint: object):
        request = build(adapter, address=subscription(endpoint=endpoint))
        assert isinstance(request.rejected, InvalidRecipient)
        assert request.url == ""

    def test_an_address_stands_for_itself_alone(self):
        services = AllowedServices(["127.0.0.1:8443", ".push.example.com"])
        allowed = {
            endpoint: services.allow(read_subscription(subscription(endpoint=endpoint)))
            for endpoint in (
                "https://127.0.0.1:8443/p",
                "https://127.0.0.1/p",
                "https://10.127.0.0.1:8443/p",
                "https://push.example.com/p",
                "https://a.b.push.example.com/p",
            )
        }
        assert list(allowed.values()) == [True, False, False, True, True]

    @settings(deadline=None, max_examples=300)
    @given(
        endpoint=st.from_regex(
            r"https?:/{0,3}[\x21-\x7e]{0,40}(webpush\.example\.com)[\x21-\x7e]{0,40}", fullmatch=True
        )
    )
    def test_no_spelling_leads_elsewhere(self, endpoint: str):
        adapter = WebPushAdapter("webpush", webpush_options())
        request = build(adapter, address=subscription(endpoint=endpoint))
        if request.rejected is None:
            rest = request.url.removeprefix("https://")
            host = rest.split("/")[0].split("?")[0].removesuffix(":443")
            assert host == "webpush.example.com" or host.endswith(".webpush.example.com")


class TestSubscriptions:
    @pytest.mark.parametrize(
        "address",
        [
            "{",
            "{}",
            '{"endpoint":"https://webpush.example.com/p/1"}',
            '{"endpoint":"https://webpush.example.com/p/1","keys":[]}',
            subscription(keys={}),
            subscription(keys=subscription_keys(auth="AAAA")),
            subscription(keys=subscription_keys(auth=7)),
            subscription(keys=subscription_keys(p256dh="!")),
            subscription(keys=subscription_keys(p256dh=es256.encode_base64url(b"\x04" + b"\x01" * 64))),
            subscription(keys=subscription_keys(p256dh=es256.encode_base64url(b"\x00" * 65))),
        ],
    )
    def test_what_no_browser_hands_out_is_a_dead_address(self, adapter: WebPushAdapter, address: str):
        request = build(adapter, address=address)
        assert isinstance(request.rejected, InvalidRecipient)
        assert request.rejected.code == "malformed_subscription"

    def test_another_services_token_costs_the_message_but_not_the_device(self, adapter: WebPushAdapter):
        assert type(build(adapter, address="fGk3:APA91bH").rejected) is UnsupportedFeature

    def test_keys_may_be_padded_and_members_added(self, adapter: WebPushAdapter):
        keys = {name: value + "=" * (-len(value) % 4) for name, value in subscription_keys().items()}
        assert build(adapter, address=subscription(keys=keys, expirationTime=1_800_000_000_000)).rejected is None

    def test_nothing_of_it_shows_in_errors_and_representations(self):
        found = read_subscription(subscription())
        assert "webpush.example.com/p/1" not in repr(found)
        with pytest.raises(MalformedSubscription) as raised:
            read_subscription(subscription(endpoint="https://secret.example.com/\n"))
        assert "secret" not in str(raised.value)

    @settings(deadline=None, max_examples=200)
    @given(text=st.text(max_size=80) | st.recursive(st.none() | st.text(), st.lists).map(json.dumps))
    def test_any_text_is_a_subscription_or_malformed(self, text: str):
        with pytest.raises(MalformedSubscription):
            read_subscription(text)


class TestAnswers:
    @pytest.mark.parametrize("status", [201, 202])
    def test_accepted(self, adapter: WebPushAdapter, status: int):
        headers = {"location": "https://fcm.googleapis.com/0:1700000000000000%e609af1cf9fd7ecd"}
        [result] = adapter.parse(build(adapter), answer(status, b"", headers))
        assert (result.error, result.provider_message_id) == (None, "0:1700000000000000%e609af1cf9fd7ecd")

    def test_accepted_without_a_name(self, adapter: WebPushAdapter):
        [result] = adapter.parse(build(adapter), answer(201))
        assert (result.error, result.provider_message_id) == (None, None)

    def test_a_long_name_is_cut_so_that_it_opens_nothing(self, adapter: WebPushAdapter):
        location = "https://updates.push.services.mozilla.com/m/" + "g" * 300
        [result] = adapter.parse(build(adapter), answer(201, b"", {"location": location}))
        assert result.provider_message_id == "g" * 64

    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            (400, PermanentError),
            (401, NotSent),
            (403, NotSent),
            (404, InvalidRecipient),
            (406, RecipientRateLimited),
            (410, InvalidRecipient),
            (413, UnsupportedFeature),
            (429, RecipientRateLimited),
            (500, TransientError),
            (502, TransientError),
            (503, TransientError),
            (200, OutcomeUnknown),
        ],
    )
    @pytest.mark.parametrize("body", [b"", b'{"code":410,"errno":106,"message":"No such subscription"}', b"<html>"])
    def test_each_status_has_its_meaning(
        self, adapter: WebPushAdapter, status: int, expected: type[Exception], body: bytes
    ):
        [result] = adapter.parse(build(adapter), answer(status, body))
        assert type(result.error) is expected

    @pytest.mark.parametrize("status", [406, 429])
    def test_throttling_names_its_time(self, adapter: WebPushAdapter, status: int):
        [result] = adapter.parse(build(adapter), answer(status, b"", {"retry-after": "30"}))
        assert isinstance(result.error, RecipientRateLimited)
        assert result.error.retry_after_s == 30

    @settings(deadline=None, max_examples=200)
    @given(status=st.integers(0, 999), body=st.binary(max_size=50), location=st.text(max_size=80))
    def test_every_answer_is_in_the_taxonomy(self, status: int, body: bytes, location: str):
        adapter = WebPushAdapter("webpush", webpush_options())
        [result] = adapter.parse(build(adapter), answer(status, body, {"location": location}))
        assert status in (200, 201, 202) or isinstance(result.error, ProviderError)


class TestAcknowledgements:
    def test_delivered(self, adapter: WebPushAdapter):
        call = device_ack("webpush")
        adapter.verify_receipt(call, NOW)
        [receipt] = adapter.parse_receipts(call, NOW)
        assert (receipt.kind, receipt.delivery_id) == (ReceiptKind.DELIVERED, DELIVERY_ID)

    def test_another_deliverys_ack_is_forged(self, adapter: WebPushAdapter):
        with pytest.raises(ForgedReceipt):
            adapter.verify_receipt(device_ack("webpush", delivery_id=DELIVERY_ID[:-1] + "2"), NOW)


class TestConfiguration:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"vapid_private_key": "c2hvcnQ"}, "vapid_private_key is neither"),
            ({"vapid_private_key": "_" * 43}, "vapid_private_key is neither"),  # above the group's order
            ({"vapid_private_key": "ä" * 43}, "vapid_private_key is neither"),
            ({"subject": "operations@example.com"}, "subject"),
            ({"subject": "mailto:<operations@example.com>"}, "subject"),
            ({"subject": "mailto:nobody"}, "subject"),
            ({"allowed_hosts": []}, "allowed_hosts"),
            ({"allowed_hosts": ["https://push.example.com"]}, "allowed_hosts: 'https"),
            ({"allowed_hosts": ["push.example.com:99999"]}, "allowed_hosts"),
            ({"allowed_hosts": ["*"]}, "allowed_hosts"),
        ],
    )
    def test_what_cannot_work_is_named_with_its_mend(self, changes: dict[str, Any], words: str):
        with pytest.raises(ConfigurationError, match=words):
            WebPushAdapter("webpush", webpush_options(**changes))

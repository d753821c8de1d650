import base64
import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from apps.providers.adapters.aes128gcm import encrypt
from tests.providers.sandbox.client import SandboxClient

HELLO = {"title": "Hi", "body": "There"}


def decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Site:
    """An application server that pushes to browsers."""

    def __init__(self, sandbox: SandboxClient) -> None:
        self.sandbox = sandbox
        number = int.from_bytes(decode(sandbox.env["WEBPUSH_VAPID_PRIVATE_KEY"]), "big")
        self.key = ec.derive_private_key(number, ec.SECP256R1())

    def subscribe(self, prefix: str = "") -> dict:
        return self.sandbox.control("POST", "webpush/subscriptions", {"prefix": prefix})

    def authorization(self, key: ec.EllipticCurvePrivateKey | None = None, **changes: object) -> str:
        key = key or self.key
        claims = {
            "aud": self.sandbox.url,
            "exp": int(time.time()) + 3_600,
            "sub": "mailto:operations@example.com",
            **changes,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        point = key.public_key().public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        return f"vapid t={jwt.encode(claims, key, 'ES256')}, k={encode(point)}"

    def push(self, subscription: dict, content: object = HELLO, *, body: bytes | None = None, **changes: str | None):
        keys = subscription["keys"]
        if body is None:
            plaintext = content if isinstance(content, bytes) else json.dumps(content).encode()
            body = encrypt(plaintext, receiver=decode(keys["p256dh"]), secret=decode(keys["auth"]))
        headers = {
            "authorization": self.authorization(),
            "content-encoding": "aes128gcm",
            "ttl": "60",
            **{name.replace("_", "-"): value for name, value in changes.items()},
        }
        # To requests, None is a header that is not sent.
        return self.sandbox.session.post(subscription["endpoint"], data=body, headers=headers, timeout=5)


@pytest.fixture
def site(sandbox: SandboxClient) -> Site:
    sandbox.set_receipts("webpush", delay_ms=5)
    return Site(sandbox)


class TestSubscriptions:
    def test_are_as_browsers_hand_them_out(self, site, sandbox):
        subscription = site.subscribe()
        assert subscription.keys() == {"endpoint", "expirationTime", "keys"}
        assert subscription["endpoint"].startswith(f"{sandbox.url}/webpush/p/")
        assert len(decode(subscription["keys"]["p256dh"])) == 65
        assert len(decode(subscription["keys"]["auth"])) == 16
        assert site.subscribe()["endpoint"] != subscription["endpoint"]

    def test_outlive_a_restart(self, make_process):
        process = make_process().start()
        subscription = Site(process.client).subscribe()
        process.stop()
        process.start()
        assert Site(process.client).push(subscription).status_code == 201
        assert process.client.inbox()[0]["title"] == "Hi"

    @pytest.mark.parametrize("content", [{"prefix": "a b"}, {"prefix": 7}, [], {"prefix": "x" * 33}])
    def test_an_unusable_prefix_is_named(self, sandbox, content):
        url = f"{sandbox.http_url}/_sandbox/webpush/subscriptions"
        response = sandbox.session.post(url, json=content, timeout=5)
        assert (response.status_code, response.json()["error"][:7]) == (400, "prefix:")


class TestSend:
    def test_is_created_and_recorded(self, site, sandbox):
        subscription = site.subscribe()
        response = site.push(subscription, {**HELLO, "data": {"notify_delivery_id": "d-1"}})
        assert (response.status_code, response.content, response.headers["ttl"]) == (201, b"", "60")
        assert response.headers["location"].startswith(f"{sandbox.url}/webpush/m/")
        [entry] = sandbox.ledger()
        assert (entry["provider"], entry["delivery_id"]) == ("webpush", "d-1")
        assert response.headers["location"].endswith(entry["provider_message_id"])

    def test_the_browser_shows_what_it_decrypts(self, site, sandbox):
        subscription = site.subscribe()
        site.push(subscription, {"title": "Hi", "body": "Grüße 😀", "data": {"order": "7"}}, urgency="high")
        site.push(subscription, b"no JSON")
        first, second = sandbox.inbox()
        assert (first["title"], first["body"], first["channel"]) == ("Hi", "Grüße 😀", "push")
        assert (first["to"], first["extra"]["is_high"]) == (subscription["endpoint"], True)
        assert (second["body"], second["extra"]["is_high"]) == ("no JSON", False)

    @pytest.mark.parametrize("length", [0, 20, 21, 85, 86, 87, 102, 103, 200])
    def test_what_the_browser_cannot_read_is_accepted_and_dropped(self, site, sandbox, length):
        assert site.push(site.subscribe(), body=b"\x41" * length).status_code == 201
        assert sandbox.inbox()[0]["title"] == "Undecryptable"
        assert sandbox.stats()["providers"]["webpush"]["errors"] == {"undecryptable": 1}

    def test_a_message_for_another_browser_is_not_read(self, site, sandbox):
        one, other = site.subscribe(), site.subscribe()
        site.push({**one, "keys": other["keys"]})
        assert sandbox.inbox()[0]["title"] == "Undecryptable"

    # 16 + 4 + 1 + 65 bytes before the record, 1 + 16 in it beside the text: 103
    @pytest.mark.parametrize(("length", "status"), [(3_993, 201), (3_994, 413)])
    def test_the_body_is_limited_to_4096_bytes(self, site, length, status):
        assert site.push(site.subscribe(), b"x" * length).status_code == status

    @pytest.mark.parametrize(
        "changes",
        [
            {"ttl": None},
            {"ttl": "soon"},
            {"content_encoding": "aesgcm"},
            {"content_encoding": None},
            {"urgency": "urgent"},
            {"topic": "a b"},
            {"topic": "k" * 33},
        ],
    )
    def test_headers_are_checked(self, site, changes):
        response = site.push(site.subscribe(), **changes)
        assert (response.status_code, response.json()["errno"]) == (400, 110)

    @pytest.mark.parametrize(("prefix", "status"), [("dead-", 410), ("unknown-", 404)])
    def test_ended_subscriptions(self, site, sandbox, prefix, status):
        assert site.push(site.subscribe(prefix)).status_code == status
        assert sandbox.ledger() == []

    def test_an_endpoint_nobody_was_given_is_unknown(self, site):
        subscription = site.subscribe()
        assert site.push({**subscription, "endpoint": subscription["endpoint"] + "x"}).status_code == 404


class TestVapid:
    @pytest.mark.parametrize("authorization", [None, "", "Bearer x", "vapid t=a", "vapid t=a.b.c, k="])
    def test_a_token_is_required(self, site, authorization):
        assert site.push(site.subscribe(), authorization=authorization).status_code == 401

    @pytest.mark.parametrize(
        "changes",
        [
            {"aud": "https://other.example.com"},
            {"exp": int(time.time()) - 60},
            {"exp": int(time.time()) + 90_000},
            {"exp": None},
            {"sub": None},
            {"sub": "operations@example.com"},
        ],
    )
    def test_its_claims_are_checked(self, site, changes):
        response = site.push(site.subscribe(), authorization=site.authorization(**changes))
        assert (response.status_code, response.json()["errno"]) == (401, 109)

    def test_a_subscription_belongs_to_one_key(self, site):
        stranger = ec.generate_private_key(ec.SECP256R1())
        assert site.push(site.subscribe(), authorization=site.authorization(stranger)).status_code == 403

    def test_a_signature_by_another_key_is_refused(self, site):
        stranger = site.authorization(ec.generate_private_key(ec.SECP256R1()))
        forged = stranger.partition(" k=")[0] + " k=" + site.authorization().partition(" k=")[2]
        assert site.push(site.subscribe(), authorization=forged).status_code == 401


class TestAcknowledgement:
    def test_the_service_worker_acknowledges_with_what_it_got(self, site, web):
        site.push(site.subscribe(), {**HELLO, "data": {"notify_delivery_id": "d-7", "notify_ack": "secret-ack"}})
        [call] = web.wait_for(1)
        content = call.json()
        assert call.path == "/v1/webhooks/webpush"
        assert (content["delivery_id"], content["ack"], content["event"]) == ("d-7", "secret-ack", "delivered")

    def test_an_offline_browser_does_not(self, site, sandbox):
        site.push(site.subscribe("offline-"), {**HELLO, "data": {"notify_delivery_id": "d-7", "notify_ack": "a"}})
        assert len(sandbox.ledger()) == 1
        assert sandbox.stats()["receipts"]["webpush"]["scheduled"] == 0


class TestFaults:
    def test_by_endpoint(self, site, sandbox):
        one, other = site.subscribe(), site.subscribe()
        sandbox.set_faults("webpush", {"status": 429, "retry_after_s": 9, "match": {"address": one["endpoint"]}})
        throttled = site.push(one)
        assert (throttled.status_code, throttled.headers["retry-after"]) == (429, "9")
        assert site.push(other).status_code == 201

    def test_codes_are_not_known(self, sandbox):
        response = sandbox.session.put(f"{sandbox.http_url}/_sandbox/faults/webpush", json={"code": "X"}, timeout=5)
        assert response.status_code == 400

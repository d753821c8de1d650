import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import jwt
import pycurl
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric import ec

from tests.providers.sandbox.client import SandboxClient
from tests.providers.sandbox.h2 import DATA, HEADERS, Answer, H2Client, answer_frames

DEVICE = "a1" * 32
ALERT = {"aps": {"alert": {"title": "Hi", "body": "There"}}}


class Apns:
    """A provider's server, with one token for all of its requests."""

    def __init__(self, sandbox: SandboxClient) -> None:
        self.sandbox = sandbox
        self.env = sandbox.env
        self.ca_file = sandbox.data_dir / "ca.pem"
        self.key = Path(self.env["APNS_KEY_FILE"]).read_text()
        self._client = H2Client(self.ca_file)
        self._token = self.sign()

    def sign(self, *, age_s: float = 0, key: object = None, kid: str = "", **changes: object) -> str:
        claims = {"iss": self.env["APNS_TEAM_ID"], "iat": int(time.time() - age_s), **changes}
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(claims, key or self.key, "ES256", headers={"kid": kid or self.env["APNS_KEY_ID"]})

    def headers(self, token: str | None = None, **changes: str | None) -> dict[str, str]:
        fields = {
            "authorization": f"bearer {token or self._token}",
            "apns-topic": self.env["APNS_TOPIC"],
            "apns-push-type": "alert",
            **{f"apns-{name.replace('_', '-')}": value for name, value in changes.items()},
        }
        return {name: value for name, value in fields.items() if value is not None}

    def url(self, device: str = DEVICE) -> str:
        return f"{self.env['APNS_BASE_URL']}/3/device/{device}"

    def push(
        self, device: str = DEVICE, payload: object = None, *, token: str | None = None, **changes: str | None
    ) -> Answer:
        body = payload if isinstance(payload, bytes) else json.dumps(ALERT if payload is None else payload).encode()
        return self._client.post(self.url(device), self.headers(token, **changes), body)

    def post(self, url: str, method: str = "POST", headers: dict[str, str] | None = None) -> Answer:
        return self._client.post(url, self.headers() if headers is None else headers, b"{}", method)

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def apns(sandbox: SandboxClient) -> Iterator[Apns]:
    sandbox.set_receipts("apns", delay_ms=5)
    client = Apns(sandbox)
    yield client
    client.close()


def refusal(answer: Answer) -> tuple[int, str]:
    assert answer.headers["apns-id"]
    return answer.status, answer.json()["reason"]


class TestSend:
    def test_accepts_with_an_empty_answer_and_records_it(self, apns, sandbox):
        apns_id = str(uuid.uuid4())
        answer = apns.push(payload={**ALERT, "notify_delivery_id": "d-1"}, id=apns_id)
        assert (answer.status, answer.body, answer.headers["apns-id"]) == (200, b"", apns_id)
        [entry] = sandbox.ledger()
        assert (entry["provider"], entry["delivery_id"], entry["provider_message_id"]) == ("apns", "d-1", apns_id)

    def test_echoes_the_id_byte_for_byte(self, apns):
        apns_id = "ABCDEF12-abcd-ABCD-abcd-ABCDEF123456"
        assert apns.push(id=apns_id).headers["apns-id"] == apns_id
        assert apns.push("zz", id=apns_id).headers["apns-id"] == apns_id

    def test_makes_an_id_where_none_is_given(self, apns):
        apns_id = apns.push().headers["apns-id"]
        assert apns_id == str(uuid.UUID(apns_id)).upper()

    def test_answers_at_the_root_of_the_server_too(self, apns, sandbox):
        answer = apns.post(f"{sandbox.url}/3/device/zz", headers=apns.headers())
        assert refusal(answer) == (400, "PayloadEmpty")

    def test_shows_an_alert_in_the_inbox(self, apns, sandbox):
        apns.push(payload={"aps": {"alert": "Just a body", "badge": 3}, "order": "7"}, priority="5")
        apns.push(payload=ALERT, priority="10")
        plain, full = sandbox.inbox()
        assert (plain["title"], plain["body"], plain["to"], plain["channel"]) == ("", "Just a body", DEVICE, "push")
        assert plain["extra"]["data"] == {"order": "7"}
        assert (full["title"], full["body"]) == ("Hi", "There")
        assert (plain["extra"]["is_high"], full["extra"]["is_high"]) == (False, True)


class TestFraming:
    """At least one client takes any other framing for a broken connection, and sends again."""

    def test_a_success_ends_on_its_headers(self, apns):
        frames = answer_frames(apns.ca_file, apns.url(), apns.headers(), json.dumps(ALERT).encode())
        assert [(kind, is_last) for kind, is_last, _ in frames] == [(HEADERS, True)]

    def test_an_error_is_headers_and_one_data_frame(self, apns):
        frames = answer_frames(apns.ca_file, apns.url("zz"), apns.headers(), json.dumps(ALERT).encode())
        assert [(kind, is_last) for kind, is_last, _ in frames] == [(HEADERS, False), (DATA, True)]
        assert frames[1][2] == len(b'{"reason":"BadDeviceToken"}')

    def test_http_1_1_gets_no_answer(self, apns, sandbox):
        with pytest.raises(requests.ConnectionError):
            sandbox.session.post(apns.url(), headers=apns.headers(), json=ALERT, timeout=5)
        assert sandbox.ledger() == []


class TestProviderToken:
    @pytest.mark.parametrize("authorization", ["", "bearer", "Basic YTpi"])
    def test_a_token_is_required(self, apns, authorization):
        headers = {**apns.headers(), "authorization": authorization}
        assert refusal(apns.post(apns.url(), headers=headers)) == (403, "MissingProviderToken")

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"iss": "OTHERTEAM1"}, "InvalidProviderToken"),
            ({"kid": "OTHERKEY01"}, "InvalidProviderToken"),
            ({"key": ec.generate_private_key(ec.SECP256R1())}, "InvalidProviderToken"),
            ({"iat": None}, "InvalidProviderToken"),
            ({"age_s": -120}, "InvalidProviderToken"),
            ({"age_s": 3_660}, "ExpiredProviderToken"),
        ],
    )
    def test_it_must_be_the_teams_own_and_young(self, apns, sandbox, changes, reason):
        assert refusal(apns.push(token=apns.sign(**changes))) == (403, reason)
        assert sandbox.ledger() == []

    def test_garbage_is_invalid(self, apns):
        assert refusal(apns.push(token="a.b.c")) == (403, "InvalidProviderToken")

    def test_a_second_update_within_20_minutes_is_one_too_many(self, apns):
        tokens = [apns.sign(age_s=age_s) for age_s in (1_800, 900, 0)]
        assert [apns.push(token=token).status for token in tokens] == [200, 200, 429]
        assert refusal(apns.push(token=tokens[2])) == (429, "TooManyProviderTokenUpdates")
        assert [apns.push(token=token).status for token in tokens[:2]] == [200, 200]

    def test_tokens_of_the_same_minute_are_one_update(self, apns):
        tokens = [apns.sign(age_s=age_s, jti=str(age_s)) for age_s in range(5)]
        assert {apns.push(token=token).status for token in tokens} == {200}

    def test_a_reset_forgets_the_updates(self, apns, sandbox):
        for age_s in (1_800, 900):
            apns.push(token=apns.sign(age_s=age_s))
        sandbox.control("POST", "reset")
        assert apns.push(token=apns.sign()).status == 200


class TestChecks:
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"topic": None}, "MissingTopic"),
            ({"topic": "no topic"}, "BadTopic"),
            ({"topic": "com.example.other"}, "TopicDisallowed"),
            ({"topic": "com.example.app.other"}, "TopicDisallowed"),
            ({"id": "1"}, "BadMessageId"),
            ({"push_type": "loud"}, "InvalidPushType"),
            ({"priority": "7"}, "BadPriority"),
            ({"push_type": "background", "priority": "10"}, "BadPriority"),
            ({"expiration": "soon"}, "BadExpirationDate"),
            ({"collapse_id": "k" * 65}, "BadCollapseId"),
        ],
    )
    def test_headers(self, apns, changes, reason):
        assert refusal(apns.push(**changes)) == (400, reason)

    @pytest.mark.parametrize(
        "changes",
        [
            {"topic": "com.example.app.voip", "push_type": "voip"},
            {"push_type": None},
            {"push_type": "background", "priority": "5"},
            {"expiration": "0"},
            {"collapse_id": "k" * 64},
        ],
    )
    def test_what_apple_takes_passes(self, apns, changes):
        assert apns.push(**changes).status == 200

    @pytest.mark.parametrize("payload", [b"", b"{", b"[]", b"{}", b'{"aps": "x"}'])
    def test_a_payload_without_aps_is_empty(self, apns, payload):
        assert refusal(apns.push(payload=payload)) == (400, "PayloadEmpty")

    @pytest.mark.parametrize(
        ("push_type", "size", "status"),
        [("alert", 4_096, 200), ("alert", 4_097, 413), ("voip", 5_120, 200), ("voip", 5_121, 413)],
    )
    def test_the_payload_is_limited(self, apns, push_type, size, status):
        empty = len(json.dumps({"aps": {"alert": ""}}))
        payload = {"aps": {"alert": "x" * (size - empty)}}
        assert apns.push(payload=payload, push_type=push_type).status == status

    @pytest.mark.parametrize(
        ("device", "status", "reason"),
        [
            ("", 400, "MissingDeviceToken"),
            ("xyz", 400, "BadDeviceToken"),
            ("deaddead" + "0" * 56, 410, "Unregistered"),
            ("DEADDEAD" + "0" * 56, 410, "Unregistered"),
            ("fadefade" + "0" * 56, 410, "ExpiredToken"),
            ("baddbadd" + "0" * 56, 400, "BadDeviceToken"),
            ("feedfeed" + "0" * 56, 400, "DeviceTokenNotForTopic"),
        ],
    )
    def test_device_tokens(self, apns, sandbox, device, status, reason):
        answer = apns.push(device)
        assert refusal(answer) == (status, reason)
        is_recent = abs(answer.json().get("timestamp", 0) - time.time() * 1000) < 60_000
        assert is_recent is (status == 410)
        assert sandbox.ledger() == []

    def test_path_and_method(self, apns, sandbox):
        assert refusal(apns.post(f"{sandbox.env['APNS_BASE_URL']}/4/device/{DEVICE}")) == (404, "BadPath")
        assert refusal(apns.post(apns.url(), "PUT")) == (405, "MethodNotAllowed")

    def test_one_device_takes_240_notifications_a_minute(self, apns):
        statuses = [apns.push().status for _ in range(481)]  # two minutes' worth, should a minute end on the way
        assert 429 in statuses
        assert statuses.index(429) >= 240
        assert apns.push("b2" * 32).status == 200


class TestAcknowledgement:
    def test_the_app_acknowledges_with_what_the_push_carried(self, apns, web):
        apns.push(payload={**ALERT, "notify_delivery_id": "d-7", "notify_ack": "secret-ack"})
        [call] = web.wait_for(1)
        content = call.json()
        assert call.path == "/v1/webhooks/apns"
        assert (content["delivery_id"], content["ack"], content["event"]) == ("d-7", "secret-ack", "delivered")

    def test_without_ack_or_from_an_offline_device_nothing_comes(self, apns, sandbox, web):
        apns.push(payload={**ALERT, "notify_delivery_id": "d-1"})
        apns.push("deafdeaf" + "0" * 56, {**ALERT, "notify_delivery_id": "d-2", "notify_ack": "a"})
        apns.push(payload={**ALERT, "notify_delivery_id": "d-3", "notify_ack": "a"})
        assert web.wait_for(1)[0].json()["delivery_id"] == "d-3"
        assert sandbox.stats()["receipts"]["apns"]["scheduled"] == 1


class TestFaults:
    @pytest.mark.parametrize(
        ("rule", "status", "reason"),
        [
            ({"mode": "error"}, 503, "ServiceUnavailable"),
            ({"mode": "throttle"}, 429, "TooManyRequests"),
            ({"code": "TooManyProviderTokenUpdates"}, 429, "TooManyProviderTokenUpdates"),
            ({"code": "Shutdown"}, 503, "Shutdown"),
            ({"status": 410}, 410, "Unregistered"),
            ({"status": 500, "retry_after_s": 7}, 500, "InternalServerError"),
        ],
    )
    def test_errors_are_apples(self, apns, sandbox, rule, status, reason):
        sandbox.set_faults("apns", rule)
        answer = apns.push()
        assert refusal(answer) == (status, reason)
        assert answer.headers.get("retry-after") == (str(rule["retry_after_s"]) if "retry_after_s" in rule else None)
        assert sandbox.ledger() == []

    def test_a_load_balancers_page_is_html(self, apns, sandbox):
        sandbox.set_faults("apns", {"status": 502})
        answer = apns.push()
        assert answer.status == 502
        assert answer.headers["content-type"].startswith("text/html")

    def test_drop_accepts_and_cuts_and_outage_only_cuts(self, apns, sandbox):
        sandbox.set_faults("apns", {"mode": "outage", "times": 1}, {"mode": "drop", "times": 1})
        for accepted in (0, 1):
            with pytest.raises(pycurl.error):
                apns.push()
            assert len(sandbox.ledger()) == accepted
        assert apns.push().status == 200

    def test_an_unknown_code_is_refused(self, apns, sandbox):
        response = sandbox.session.put(f"{sandbox.http_url}/_sandbox/faults/apns", json={"code": "X"}, timeout=5)
        assert response.status_code == 400
        assert "Unregistered" in response.json()["error"]

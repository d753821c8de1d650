import time

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"


def error_of(response) -> dict:
    """The Google envelope, checked for consistency with the HTTP status."""
    error = response.json()["error"]
    assert error["code"] == response.status_code
    return error


def fcm_code(error: dict) -> str | None:
    codes = [detail["errorCode"] for detail in error.get("details", []) if detail["@type"] == FCM_ERROR]
    return codes[0] if codes else None


def violated_fields(error: dict) -> list[str]:
    details = error.get("details", [])
    return [entry["field"] for detail in details for entry in detail.get("fieldViolations", [])]


class TestTokenEndpoint:
    @pytest.mark.parametrize("audience", [None, "https://oauth2.googleapis.com/token"])
    def test_grants_a_bearer_token_for_a_signed_assertion(self, sandbox, audience):
        changes = {"aud": audience} if audience else {}
        response = sandbox.request_token(sandbox.assertion(**changes))
        grant = response.json()
        assert (response.status_code, grant["token_type"], grant["expires_in"]) == (200, "Bearer", 3599)
        sent = sandbox.push(notification={"title": "Hi"}, headers={"Authorization": f"Bearer {grant['access_token']}"})
        assert sent.status_code == 200

    @pytest.mark.parametrize(
        ("changes", "error"),
        [
            ({"aud": "https://example.com/token"}, "invalid_grant"),
            ({"iss": "someone@example.com"}, "invalid_grant"),
            ({"exp": int(time.time()) - 60, "iat": int(time.time()) - 3_660}, "invalid_grant"),
            ({"exp": int(time.time()) + 7_200}, "invalid_grant"),
            ({"scope": "https://www.googleapis.com/auth/datastore"}, "invalid_scope"),
        ],
    )
    def test_refuses_wrong_claims(self, sandbox, changes, error):
        response = sandbox.request_token(sandbox.assertion(**changes))
        assert (response.status_code, response.json()["error"]) == (400, error)

    def test_refuses_another_key(self, sandbox):
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        response = sandbox.request_token(sandbox.assertion(pem.decode()))
        assert (response.status_code, response.json()["error"]) == (400, "invalid_grant")

    def test_refuses_garbage_and_other_grants(self, sandbox):
        assert sandbox.request_token("no.jwt.here").json()["error"] == "invalid_grant"
        wrong_grant = sandbox.request_token(sandbox.assertion(), grant_type="password")
        assert wrong_grant.json()["error"] == "unsupported_grant_type"


class TestAuthorization:
    @pytest.mark.parametrize("authorization", ["", "Bearer nonsense", "Bearer ya29.sandbox.ffffffff.aa.bb", "Basic x"])
    def test_refuses_a_wrong_bearer(self, sandbox, authorization):
        response = sandbox.push(notification={"title": "Hi"}, headers={"Authorization": authorization})
        assert response.status_code == 401
        assert error_of(response)["status"] == "UNAUTHENTICATED"
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
        assert sandbox.ledger() == []

    def test_refuses_an_expired_token(self, sandbox):
        _, _, expiry, nonce, signature = sandbox.bearer()["Authorization"].split(".")
        forged = f"Bearer ya29.sandbox.{int(expiry, 16) + 3600:x}.{nonce}.{signature}"
        assert sandbox.push(headers={"Authorization": forged}).status_code == 401

    def test_refuses_another_project(self, sandbox):
        response = sandbox.session.post(
            f"{sandbox.env['FCM_BASE_URL']}/v1/projects/other/messages:send", headers=sandbox.bearer(), timeout=5
        )
        assert error_of(response)["status"] == "PERMISSION_DENIED"

    def test_unknown_path_is_not_found(self, sandbox):
        assert sandbox.session.get(f"{sandbox.env['FCM_BASE_URL']}/v1/other", timeout=5).status_code == 404


class TestSend:
    def test_answers_with_the_message_name_and_records_it(self, sandbox):
        response = sandbox.push("device-1", notification={"title": "Hi"}, data={"notify_delivery_id": "d-1"})
        assert response.status_code == 200
        name = response.json()["name"]
        assert name.startswith("projects/demo-project/messages/")
        [entry] = sandbox.ledger()
        assert (entry["provider"], entry["delivery_id"], entry["provider_message_id"]) == ("fcm", "d-1", name)

    @pytest.mark.parametrize(
        "message",
        [
            {"token": "device-1", "android": {"collapseKey": "a", "ttl": "3600s", "priority": "HIGH"}},
            {"token": "device-1", "android": {"collapse_key": "a", "ttl": "3.5s", "priority": "high"}},
            {"fid": "cRfQ4installation"},
            {"topic": "news"},
            {"condition": "'a' in topics"},
            {"token": "device-1", "fcmOptions": {"analyticsLabel": "a"}},
            {"token": "device-1", "fcm_options": {"analytics_label": "a"}},
        ],
    )
    def test_accepts_both_spellings_and_every_target(self, sandbox, message):
        response = sandbox.push(envelope={"message": {"notification": {"title": "Hi"}, **message}})
        assert response.status_code == 200, response.text

    @pytest.mark.parametrize("flag", ["validate_only", "validateOnly"])
    def test_validate_only_checks_and_records_nothing(self, sandbox, flag):
        message = {"token": "device-1", "notification": {"title": "Hi"}}
        assert sandbox.push(envelope={flag: True, "message": message}).status_code == 200
        assert sandbox.push(envelope={flag: True, "message": {"token": "dead-1"}}).status_code == 404
        assert sandbox.ledger() == []

    @pytest.mark.parametrize(
        ("envelope", "fields", "has_fcm_code"),
        [
            ({"message": {"token": "t", "key": "x"}}, ["message"], False),
            ({"message": {"token": "t", "data": {"a": 1}}}, ["message.data"], False),
            ({"message": {"token": "t", "data": {"from": "x"}}}, ["message.data"], True),
            ({"message": {"token": "t", "data": {"google.x": "x"}}}, ["message.data"], True),
            ({"message": {"token": "t", "notification": {"title": 1}}}, ["message.notification"], False),
            ({"message": {"token": "t", "android": {"ttl": "60"}}}, ["message.android.ttl"], False),
            ({"message": {"token": "t", "android": {"ttl": "2419201s"}}}, ["message.android.ttl"], True),
            ({"message": {"token": "t", "android": {"priority": "urgent"}}}, ["message.android.priority"], False),
            ({"message": {"token": "t", "topic": "news"}}, ["message"], False),
            ({"message": {"data": {"a": "b"}}}, ["message"], True),
            ({"message": {"token": ""}}, ["message"], True),
            ({"message": {"token": 5}}, ["message.token"], False),
            ({"other": {}}, [], False),
            ({}, ["message"], True),
            ([], [], False),
        ],
    )
    def test_invalid_messages_name_the_field(self, sandbox, envelope, fields, has_fcm_code):
        error = error_of(sandbox.push(envelope=envelope))
        assert error["status"] == "INVALID_ARGUMENT"
        assert [field for field in violated_fields(error) if field] == fields
        assert (fcm_code(error) == "INVALID_ARGUMENT") is has_fcm_code

    def test_unparsable_json_is_an_invalid_argument(self, sandbox):
        response = sandbox.session.post(
            f"{sandbox.env['FCM_BASE_URL']}/v1/projects/demo-project/messages:send",
            data=b"{",
            headers=sandbox.bearer(),
            timeout=5,
        )
        assert error_of(response)["status"] == "INVALID_ARGUMENT"

    # key "a" is 1 byte, so 4,095 of value make exactly 4,096
    @pytest.mark.parametrize(("length", "status"), [(4_095, 200), (4_096, 400)])
    def test_payload_is_limited_to_4096_bytes(self, sandbox, length, status):
        response = sandbox.push(data={"a": "b" * length})
        assert response.status_code == status
        if status == 400:
            error = error_of(response)
            assert (fcm_code(error), violated_fields(error)) == ("INVALID_ARGUMENT", [])

    def test_payload_counts_bytes_not_characters(self, sandbox):
        assert sandbox.push(notification={"title": "é" * 2_050}).status_code == 400

    def test_topic_payload_is_limited_to_2048_bytes(self, sandbox):
        message = {"topic": "news", "data": {"a": "b" * 2_048}}
        assert sandbox.push(envelope={"message": message}).status_code == 400

    @pytest.mark.parametrize(
        ("token", "status", "google_status", "code", "fields"),
        [
            ("dead-1", 404, "NOT_FOUND", "UNREGISTERED", []),
            ("unregistered-1", 404, "NOT_FOUND", "UNREGISTERED", []),
            ("mismatch-1", 403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH", []),
            ("invalid-1", 400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", ["message.token"]),
        ],
    )
    def test_token_conventions(self, sandbox, token, status, google_status, code, fields):
        response = sandbox.push(token, notification={"title": "Hi"})
        error = error_of(response)
        assert (response.status_code, error["status"], fcm_code(error)) == (status, google_status, code)
        assert violated_fields(error) == fields
        assert sandbox.ledger() == []


class TestAcknowledgement:
    def test_the_phone_acknowledges_with_what_the_push_carried(self, sandbox, web):
        before_ms = time.time() * 1000
        sandbox.push_with_ack("d-7", ack="secret-ack")
        [call] = web.wait_for(1)
        content = call.json()
        assert call.path == "/v1/webhooks/fcm"
        assert call.headers["content-type"] == "application/json"
        assert (content["delivery_id"], content["ack"], content["event"]) == ("d-7", "secret-ack", "delivered")
        assert before_ms - 1_000 <= content["at"] <= time.time() * 1000 + 1_000

    def test_without_ack_or_from_an_offline_phone_nothing_comes(self, sandbox, web):
        sandbox.push(data={"notify_delivery_id": "d-1"})
        sandbox.push_with_ack("d-2", token="offline-1")
        sandbox.push_with_ack("d-3")
        [call] = web.wait_for(1)
        assert call.json()["delivery_id"] == "d-3"
        assert sandbox.stats()["receipts"]["fcm"]["scheduled"] == 1

    def test_a_forged_acknowledgement_carries_another_token(self, sandbox, web):
        sandbox.set_receipts("fcm", delay_ms=1, forge=True)
        sandbox.push_with_ack("d-1", ack="abc")
        assert web.wait_for(1)[0].json()["ack"] != "abc"

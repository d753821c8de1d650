import hashlib
import time

import pytest
import requests

from apps.providers.sandbox.faults import InvalidRuleError, Latency, parse_rule
from tests.providers.sandbox.conftest import wait_until

FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"


def push(sandbox, token: str = "device-1") -> requests.Response:
    return sandbox.push(token, notification={"title": "Hi"})


class TestFailures:
    @pytest.mark.parametrize(
        ("rule", "status", "code"),
        [
            ({"mode": "error"}, 503, "UNAVAILABLE"),
            ({"status": 500}, 500, "INTERNAL"),
            ({"status": 429}, 429, "QUOTA_EXCEEDED"),
            ({"mode": "throttle"}, 429, "QUOTA_EXCEEDED"),
            ({"code": "UNREGISTERED"}, 404, "UNREGISTERED"),
            ({"code": "THIRD_PARTY_AUTH_ERROR"}, 401, "THIRD_PARTY_AUTH_ERROR"),
        ],
    )
    def test_fcm_errors(self, sandbox, rule, status, code):
        sandbox.set_faults("fcm", rule)
        response = push(sandbox)
        details = response.json()["error"]["details"]
        assert response.status_code == status
        assert {"@type": FCM_ERROR, "errorCode": code} in details
        assert sandbox.ledger() == []
        assert sandbox.stats()["providers"]["fcm"]["errors"] == {code: 1}

    def test_fcm_quota_asks_for_a_minute_unless_told_otherwise(self, sandbox):
        sandbox.set_faults("fcm", {"mode": "throttle", "times": 1}, {"mode": "throttle", "retry_after_s": 7})
        assert push(sandbox).headers["Retry-After"] == "60"
        assert push(sandbox).headers["Retry-After"] == "7"

    @pytest.mark.parametrize("status", [502, 504])
    def test_a_gateway_error_is_a_page(self, sandbox, status):
        for provider in ("fcm", "twilio", "sendgrid"):
            sandbox.set_faults(provider, {"status": status})
        for response in (push(sandbox), sandbox.text(), sandbox.mail("ada@example.com")):
            assert response.status_code == status
            assert response.headers["Content-Type"].startswith("text/html")

    @pytest.mark.parametrize(
        ("rule", "status", "code"),
        [
            ({"mode": "throttle", "retry_after_s": 3}, 429, 20429),
            ({"mode": "error"}, 503, 20503),
            ({"status": 500}, 500, 20500),
            ({"code": "21610"}, 400, 21610),
        ],
    )
    def test_twilio_errors(self, sandbox, rule, status, code):
        sandbox.set_faults("twilio", rule)
        response = sandbox.text()
        assert (response.status_code, response.json()["code"]) == (status, code)
        assert response.headers.get("Retry-After") == (None if "retry_after_s" not in rule else "3")

    def test_sendgrid_throttle_says_when_it_ends(self, sandbox):
        sandbox.set_faults("sendgrid", {"mode": "throttle", "retry_after_s": 30})
        response = sandbox.mail("ada@example.com")
        assert response.status_code == 429
        assert response.json()["errors"][0]["message"] == "too many requests"
        assert response.headers["X-RateLimit-Remaining"] == "0"
        assert 25 < int(response.headers["X-RateLimit-Reset"]) - time.time() < 35

    def test_sendgrid_names_the_bad_address_among_many(self, sandbox):
        sandbox.set_faults("sendgrid", {"status": 400, "match": {"address": "ben@example.com"}})
        response = sandbox.mail("ada@example.com", "ben@example.com")
        assert response.json()["errors"][0]["field"] == "personalizations.1.to.0.email"
        assert sandbox.mail("ada@example.com", "cleo@example.com").status_code == 202

    def test_the_token_endpoint_fails_only_when_meant(self, sandbox):
        sandbox.set_faults("fcm", {"status": 503, "match": {"operation": "token"}})
        assert push(sandbox).status_code == 200
        assert sandbox.request_token(sandbox.assertion()).status_code == 503


class TestMatching:
    @pytest.mark.parametrize(
        "match",
        [
            {"address": "device-2"},
            {"address_prefix": "device-2"},
            {"address_sha256": hashlib.sha256(b"device-2").hexdigest()},
            {"address_prefix": "device", "address": "device-2"},
        ],
    )
    def test_only_matching_addresses_fail(self, sandbox, match):
        sandbox.set_faults("fcm", {"mode": "error", "match": match})
        assert push(sandbox, "device-1").status_code == 200
        assert push(sandbox, "device-2").status_code == 503

    def test_times_limits_the_hits(self, sandbox):
        sandbox.set_faults("fcm", {"mode": "error", "times": 2})
        assert [push(sandbox).status_code for _ in range(4)] == [503, 503, 200, 200]
        assert sandbox.control("GET", "faults")["fcm"][0]["hits"] == 2

    def test_the_first_rule_that_fires_decides(self, sandbox):
        sandbox.set_faults("fcm", {"status": 500, "times": 1}, {"status": 503, "times": 1})
        assert [push(sandbox).status_code for _ in range(3)] == [500, 503, 200]

    def test_a_seed_repeats_the_same_failures(self, sandbox):
        def failures() -> list[int]:
            sandbox.set_faults("fcm", {"error_rate": 0.5, "seed": 7})
            return [push(sandbox).status_code for _ in range(20)]

        first = failures()
        assert set(first) == {200, 503}
        assert failures() == first

    def test_rate_lets_calls_through_until_the_bucket_is_empty(self, sandbox):
        sandbox.set_faults("fcm", {"mode": "throttle", "rate_per_s": 3})
        assert [push(sandbox).status_code for _ in range(3)] == [200, 200, 200]
        assert 429 in [push(sandbox).status_code for _ in range(10)]

    def test_delete_clears(self, sandbox):
        sandbox.set_faults("fcm", {"mode": "error"})
        assert sandbox.control("DELETE", "faults/fcm") == []
        assert push(sandbox).status_code == 200


class TestConnections:
    def test_drop_records_the_message_and_gives_no_answer(self, sandbox, web):
        sandbox.set_faults("fcm", {"mode": "drop", "times": 1})
        with pytest.raises(requests.ConnectionError):
            sandbox.push_with_ack("d-1")
        assert [entry["delivery_id"] for entry in sandbox.ledger()] == ["d-1"]
        assert web.wait_for(1)[0].json()["delivery_id"] == "d-1"
        traffic = sandbox.stats()["providers"]["fcm"]
        assert (traffic["accepted"], traffic["dropped"]) == (1, 1)
        assert push(sandbox).status_code == 200

    @pytest.mark.parametrize("provider", ["fcm", "twilio", "sendgrid"])
    def test_outage_records_nothing_and_gives_no_answer(self, sandbox, provider):
        sandbox.set_faults(provider, {"mode": "outage"})
        send = {
            "fcm": lambda: push(sandbox),
            "twilio": sandbox.text,
            "sendgrid": lambda: sandbox.mail("ada@example.com"),
        }[provider]
        with pytest.raises(requests.ConnectionError):
            send()
        assert sandbox.ledger() == []
        assert sandbox.stats()["providers"][provider]["dropped"] == 1


class TestLatency:
    def test_delays_the_answer(self, sandbox):
        sandbox.set_faults("fcm", {"latency_ms": 150})
        started = time.monotonic()
        assert push(sandbox).status_code == 200
        assert time.monotonic() - started >= 0.15

    def test_a_slow_call_does_not_hold_up_others(self, sandbox):
        sandbox.set_faults("twilio", {"latency_ms": 4_000})
        started = time.monotonic()
        with pytest.raises(requests.Timeout):
            sandbox.session.post(
                sandbox.messages_url,
                auth=(sandbox.env["TWILIO_ACCOUNT_SID"], sandbox.env["TWILIO_AUTH_TOKEN"]),
                data={"To": "+15005551234", "From": sandbox.env["TWILIO_FROM"], "Body": "x"},
                timeout=0.2,
            )
        assert push(sandbox).status_code == 200
        assert time.monotonic() - started < 2
        assert sandbox.ledger()[0]["provider"] == "twilio"

    def test_percentiles(self):
        rule = parse_rule({"latency_ms": {"p50": 100, "p99": 400}, "seed": 1})
        assert rule.latency is not None
        drawn = sorted(rule.latency.draw_s(rule.dice) for _ in range(10_000))
        assert drawn[5_000] == pytest.approx(0.1, rel=0.1)
        assert drawn[9_900] == pytest.approx(0.4, rel=0.15)

    def test_brownout_is_slow_and_sometimes_fails(self, sandbox):
        sandbox.set_faults("fcm", {"mode": "brownout", "latency_ms": 20, "error_rate": 0.5, "seed": 1})
        started = time.monotonic()
        assert {push(sandbox).status_code for _ in range(10)} == {200, 503}
        assert time.monotonic() - started >= 0.2


class TestRules:
    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ({"mode": "explode"}, "mode: must be one of"),
            ({"colour": "red"}, "colour: unknown field"),
            ({"match": {"name": "x"}}, "match.name: unknown field"),
            ({"match": {"address": 5}}, "match: must be an object of strings"),
            ({"error_rate": 2}, "error_rate: must be a number from 0 to 1"),
            ({"status": 200}, "status: must be a number from 400 to 599"),
            ({"status": "500"}, "status: must be a number"),
            ({"mode": "error", "times": 0}, "times: must be"),
            ({"latency_ms": "slow"}, "latency_ms: must be a number of ms"),
            ({"latency_ms": -1}, "latency_ms: must be from 0 to 600000"),
            ({"latency_ms": {"p50": 0, "p99": 5}}, "latency_ms: p50 must be above 0"),
            ({"latency_ms": {"p50": 1}}, "latency_ms: must be a number of ms or an object with p50 and p99"),
            ({}, "latency_ms"),
            ("error", "must be a JSON object"),
        ],
    )
    def test_unusable_rules_name_the_field(self, source, words):
        with pytest.raises(InvalidRuleError, match=words):
            parse_rule(source)

    def test_fixed_latency_needs_no_dice(self):
        assert parse_rule({"latency_ms": 20}).latency == Latency(20, 20)

    @pytest.mark.parametrize(
        ("provider", "rule", "words"),
        [
            ("fcm", {"code": "NONSENSE"}, "code: FCM has no"),
            ("twilio", {"code": "12"}, "code: known are"),
            ("sendgrid", {"code": "X"}, "code: SendGrid's errors have no codes"),
        ],
    )
    def test_codes_are_the_providers_own(self, sandbox, provider, rule, words):
        url = f"{sandbox.http_url}/_sandbox/faults/{provider}"
        response = sandbox.session.put(url, json=rule, timeout=5)
        assert response.status_code == 400
        assert response.json()["error"].startswith(words)
        assert sandbox.control("GET", "faults")[provider] == []


class TestListener:
    def test_closed_refuses_connections_and_reopens(self, sandbox):
        sandbox.bearer()
        sandbox.control("PUT", "listener", {"open": False})
        wait_until(lambda: not sandbox.is_up())
        with pytest.raises(requests.ConnectionError, match="refused"):
            push(sandbox)
        sandbox.control("PUT", "listener", {"open": True})
        wait_until(sandbox.is_up)
        assert push(sandbox).status_code == 200

    def test_reopens_by_itself(self, sandbox):
        sandbox.control("PUT", "listener", {"open": False, "for_s": 0.5})
        wait_until(lambda: not sandbox.is_up())
        wait_until(sandbox.is_up)
        assert sandbox.control("GET", "listener") == {"open": True}

    def test_must_be_told_what_to_do(self, sandbox):
        response = sandbox.session.put(f"{sandbox.http_url}/_sandbox/listener", json={"open": "no"}, timeout=5)
        assert (response.status_code, response.json()) == (400, {"error": "open: must be true or false"})

"""What the platform promises, seen from outside, on both brokers."""

import json
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
import redis
import requests

from notify_project.local.environment import read_env_file
from tests.e2e.conftest import OPEN, wait_until


def read_logs(stack):
    """Every structured log line of every process."""
    lines = []
    for path in sorted((stack.data_dir / "logs").iterdir()):
        for line in path.read_text(errors="replace").splitlines():
            if line.startswith("{"):
                lines.append({**json.loads(line), "_raw": line})
    return lines


def test_notification_is_delivered_on_every_channel(caller):
    sent = caller.send()
    assert sent.status_code == 202
    story = caller.wait_for(sent.json()["id"])
    assert [one["channel"] for one in story["deliveries"]] == ["push", "sms", "email"]
    assert [one["provider"] for one in story["deliveries"]] == ["fcm", "twilio", "sendgrid"]
    assert all(one["sent_at"] <= one["delivered_at"] for one in story["deliveries"])


def test_both_lanes_deliver(caller):
    for lane in ("high", "bulk"):
        caller.wait_for(caller.send(priority=lane).json()["id"])


def test_same_key_ten_times_at_once_is_one_notification(caller):
    barrier = threading.Barrier(10)

    def send(_):
        barrier.wait(10)
        return caller.send(key="ten-at-once")

    with ThreadPoolExecutor(10) as pool:
        responses = list(pool.map(send, range(10)))
    assert {response.status_code for response in responses} <= {202, 409}
    assert len({response.text for response in responses if response.status_code == 202}) == 1


BAD_BODIES = {
    "wrong JSON": b"{",
    "no object": b"[]",
    "NUL": b'{"user_id": "demo-1\\u0000"}',
    "raw NUL": b'{"user_id": "demo-1\0"}',
    "lone surrogate": b'{"user_id": "\\ud800"}',
    "not UTF-8": b'{"user_id": "\xff"}',
    "wrong types": b'{"user_id": 1, "type": [], "priority": {}, "content": "x"}',
    "deep": b"[" * 5_000 + b"]" * 5_000,
    "10 MB": b'{"user_id": "' + b"x" * 10_000_000 + b'"}',
    "empty": b"",
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_bad_body_is_a_problem_document(caller, name):
    response = caller.request(
        "POST",
        "/v1/notifications",
        data=BAD_BODIES[name],
        headers={"X-Idempotency-Key": "bad", "Content-Type": "application/json"},
    )
    assert 400 <= response.status_code < 500, response.text[:200]
    assert response.headers["content-type"].startswith("application/problem+json")
    assert response.json()["status"] == response.status_code


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"user_id": "nobody"}, "/user_id"),
        ({"channels": ["fax"]}, "/channels/0"),
        ({"channels": ["push"], "content": {"title": "t", "body": "x" * 4_096}}, "/content/body"),
        ({"content": {"title": "t"}}, "/content/body"),
    ],
)
def test_bad_field_is_pointed_at(caller, changes, pointer):
    response = caller.send(**changes)
    assert 400 <= response.status_code < 500
    assert [error["pointer"] for error in response.json()["errors"]] == [pointer]


def test_killed_workers_lose_nothing(stack, caller):
    ids = []
    for number in range(120):
        ids.append(
            caller.send(user_id=f"demo-{1 + number % 4}", priority="bulk" if number % 2 else "high").json()["id"]
        )
        if number == 60:
            stack.kill("worker-high", signal.SIGKILL)
            stack.kill("worker-bulk", signal.SIGKILL)

    def still_open():
        return [one for one in ids if {d["status"] for d in caller.look(one)["deliveries"]} & OPEN]

    wait_until(lambda: not still_open(), still_open)


def test_stopped_broker_stops_no_post(stack, caller):
    stack.stop_role("broker")
    try:
        responses = [caller.send() for _ in range(5)]
        assert {response.status_code for response in responses} == {202}
        assert max(response.elapsed.total_seconds() for response in responses) < 5.0
    finally:
        stack.start_role("broker")
    for response in responses:
        caller.wait_for(response.json()["id"])


def test_one_trace_id_finds_the_whole_story(stack, caller):
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    sent = caller.send(headers={"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"})
    assert sent.json()["trace_id"] == trace_id
    caller.wait_for(sent.json()["id"])
    wanted = {"request", "accepted", "claimed", "provider_call", "recorded", "receipts_applied"}

    def found():
        return {line["event"] for line in read_logs(stack) if trace_id in line["_raw"]}

    wait_until(lambda: wanted <= found(), found, timeout_s=10)


def test_trace_id_of_the_body_is_followed_too(stack, caller):
    sent = caller.send(trace_id="order-4711.a")
    caller.wait_for(sent.json()["id"])
    assert caller.look(sent.json()["id"])["trace_id"] == "order-4711.a"
    assert "provider_call" in {line["event"] for line in read_logs(stack) if "order-4711.a" in line["_raw"]}


def test_metrics_count_across_processes(stack, caller):
    text = requests.get(stack.urls["web"] + "/metrics", timeout=10).text
    for name in (
        "notify_accepted_total",
        "notify_deliveries_total",
        "notify_accept_to_provider_seconds_bucket",
        "notify_accept_to_delivered_seconds_bucket",
        "notify_provider_call_seconds_bucket",
        "notify_provider_results_total",
        "notify_queue_age_seconds",
        "notify_sweep_age_seconds",
    ):
        assert re.search(rf"^{name}\b.* [0-9]", text, re.MULTILINE), name
    sweep_age = float(re.search(r"^notify_sweep_age_seconds ([0-9.e+-]+)", text, re.MULTILINE)[1])
    assert sweep_age < 30


def test_nothing_personal_is_anywhere_but_sealed_in_the_database(stack, caller):
    caller.wait_for(caller.send(content={"title": "a secret title", "body": "a secret body"}).json()["id"])
    needles = [b"5005551001", b"demo-1@", b"example.com", b"demo-device-1", b"a secret"]
    env = read_env_file(stack.data_dir / "env")
    places = {path.name: path.read_bytes() for path in (stack.data_dir / "logs").iterdir()}
    places |= {str(path): path.read_bytes() for path in (stack.data_dir / "broker").rglob("*") if path.is_file()}
    places["cache"] = dump_redis(env["CACHE_URL"])
    places["database"] = dump_database(env["DATABASE_URL"])
    assert len(places["database"]) > 10_000
    found = {name: [needle for needle in needles if needle in data] for name, data in places.items()}
    assert {name: hits for name, hits in found.items() if hits} == {}


def dump_redis(url):
    with redis.Redis.from_url(url) as client:
        return b"\n".join(key + (client.dump(key) or b"") for key in client.scan_iter())


def dump_database(url):
    """Every table, both as text and with its bytes decoded."""
    text = b""
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        ).fetchall()
        for (table,) in tables:
            with connection.cursor().copy(f'COPY "{table}" TO STDOUT') as copy:
                text += b"".join(bytes(chunk) for chunk in copy)
    sealed = b"".join(bytes.fromhex(match.decode()) for match in re.findall(rb"\\\\x((?:[0-9a-f]{2})+)", text))
    return text + sealed


def fault(stack, provider, rule):
    url = f"{stack.urls['inbox'].rstrip('/')}/_sandbox/faults/{provider}"
    response = requests.delete(url, timeout=5) if rule is None else requests.put(url, json=[rule], timeout=5)
    response.raise_for_status()


@pytest.mark.parametrize(
    ("channel", "ill", "expected"),
    [
        ("sms", ["twilio"], "vonage"),
        ("email", ["sendgrid"], "ses"),
        ("email", ["sendgrid", "ses"], "smtp"),
    ],
)
def test_next_provider_takes_over(stack, caller, channel, ill, expected):
    for provider in ill:
        fault(stack, provider, {"mode": "error", "status": 503, "error_rate": 1.0})
    try:
        sent = caller.send(channels=[channel]).json()["id"]
        wait_until(lambda: caller.look(sent)["deliveries"][0]["sent_at"] is not None, lambda: caller.look(sent))
    finally:
        for provider in ill:
            fault(stack, provider, None)
    (delivery,) = caller.look(sent)["deliveries"]
    assert delivery["provider"] == expected
    assert delivery["attempt_count"] == 1
    assert [attempt["provider"] for attempt in delivery["attempts"]] == ill


def test_accepted_but_unanswered_is_told_and_resolved_by_its_receipt(stack, caller):
    """The provider takes the message and cuts the line: nobody knows, until the receipt says that it arrived."""
    fault(stack, "twilio", {"mode": "drop", "times": 1})
    try:
        sent = caller.send(channels=["sms"]).json()["id"]
        story = caller.wait_for(sent)
    finally:
        fault(stack, "twilio", None)
    assert [attempt["outcome"] for attempt in story["deliveries"][0]["attempts"]] == ["unknown"]


def test_person_who_answers_stop_gets_no_more(stack, caller):
    url = f"{stack.urls['inbox'].rstrip('/')}/_sandbox/inbound/twilio"
    for text, status in (("STOP", "suppressed"), ("START", "delivered")):
        requests.post(url, json={"from": "+15005551002", "text": text}, timeout=5).raise_for_status()

        def is_obeyed(status=status):
            answer = caller.send(user_id="demo-2", channels=["sms"], dry_run=True).json()
            return (answer["deliveries"][0]["status"] == "suppressed") is (status == "suppressed")

        wait_until(is_obeyed, timeout_s=10)
        caller.wait_for(caller.send(user_id="demo-2", channels=["sms"]).json()["id"], status)


def test_device_that_is_gone_is_switched_off(stack, caller):
    body = {"token": "unregistered-" + "x" * 100, "platform": "android"}
    caller.request("PUT", "/v1/users/gone", json={"locale": "en"}).raise_for_status()
    caller.request("POST", "/v1/users/gone/devices", json=body).raise_for_status()
    sent = caller.send(user_id="gone", channels=["push"]).json()["id"]
    story = caller.wait_for(sent, "failed")
    assert story["deliveries"][0]["reason"] == "invalid_recipient"
    again = caller.send(user_id="gone", channels=["push"], dry_run=True).json()
    assert again["deliveries"][0]["reason"] in ("no_address", "address_suppressed")

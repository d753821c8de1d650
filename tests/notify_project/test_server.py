"""The product's own server process: what no test client can show."""

import json
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from notify_project.local.ports import LOOPBACK
from tests.clients.factories import make_api_key, make_client
from tests.notify_project.relay import Relay
from tests.notify_project.server import THREADS, Server, database_url

BODY_TIMEOUT_S = 1.0
MEGABYTE = 1024 * 1024


@pytest.fixture
def server(tmp_path: Path, transactional_db: None) -> Iterator[Server]:
    limits = {"MAX_BODY_BYTES": str(MEGABYTE), "WEB_BODY_TIMEOUT_S": str(BODY_TIMEOUT_S)}
    server = Server(tmp_path / "log", DATABASE_URL=database_url(), **limits)
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


@pytest.fixture
def server_without_database(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "log", DATABASE_URL="postgres://nobody@127.0.0.1:1/nothing")
    try:
        server.wait_ready()
        yield server
    finally:
        server.stop()


def test_bad_requests_to_a_real_server_are_4xx_problems(server: Server) -> None:
    headers = {
        "Authorization": f"Api-Key {make_api_key(make_client())}",
        "Content-Type": "application/json",
        "X-Idempotency-Key": "k",
    }
    path = "/v1/notifications"
    ten_megabytes = b'{"user_id": "' + b"x" * (10 * MEGABYTE) + b'"}'
    assert server.ask("POST", path, b"{}", **headers)[0] == 422
    memory = server.resident_bytes()

    status, document, _ = server.ask("POST", path, ten_megabytes, **headers)
    assert (status, document["type"]) == (413, "/problems/body-too-large")
    pieces = (ten_megabytes[at : at + 65_536] for at in range(0, len(ten_megabytes), 65_536))
    status, document, _ = server.ask("POST", path, pieces, **headers)
    assert (status, document["type"]) == (413, "/problems/body-too-large")
    # Nor is a caller cut off who looks for the answer only when all is out, as proxies do.
    head = b"POST %b HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(ten_megabytes))
    assert server.exchange(head, ten_megabytes)[1]["type"] == "/problems/body-too-large"
    assert server.resident_bytes() - memory < 8 * MEGABYTE

    # A small chunked body is read like any other: what is wrong with it are its fields.
    status, document, _ = server.ask("POST", path, iter([b'{"user', b'_id": 7}']), **headers)
    assert (status, document["type"]) == (422, "/problems/invalid-request")
    status, document, _ = server.ask("POST", path, b'{"user_id": "a\\u0000b"}', **headers)
    assert (status, document["errors"][0]["pointer"]) == (422, "/user_id")
    for target in ("/v1/users/a%00b", "/v1/users/%ff", f"{path}?cursor=%00", f"{path}?type=%ff"):
        status, document, _ = server.ask("GET", target, **headers)
        assert (status, document["type"]) == (400, "/problems/bad-request"), target
    status, document, answer = server.ask("GET", path, Authorization="Bearer é".encode().decode("latin-1"))
    assert (status, document["type"]) == (401, "/problems/unauthenticated")
    assert "Bearer" in answer["WWW-Authenticate"]


@pytest.mark.parametrize(
    ("framing", "is_told"),
    [
        (b"Content-Length: 100\r\n\r\n{", True),
        (b"Transfer-Encoding: chunked\r\n\r\n5\r\n{", True),
        # Whole, but nobody waits for the answer: granian may drop it before it reaches Django, or not.
        (b"Content-Length: 0\r\n\r\n", False),
    ],
)
def test_caller_that_goes_away_is_no_crash(server: Server, framing: bytes, is_told: bool) -> None:
    key = make_api_key(make_client()).encode()
    head = b"POST /v1/notifications HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Idempotency-Key: k\r\nX-API-Key: " + key
    server.send_raw(head + b"\r\nContent-Type: application/json\r\n" + framing)
    deadline = time.monotonic() + 10
    while is_told and '"path":"/v1/notifications"' not in server.log.read_text():
        assert time.monotonic() < deadline, server.log.read_text()
        time.sleep(0.02)
    assert server.ask("GET", "/healthz")[0] == HTTPStatus.OK
    assert server.ask("POST", "/v1/notifications", b"{}")[0] == HTTPStatus.UNAUTHORIZED
    assert "unhandled" not in server.log.read_text()
    assert '"status":500' not in server.log.read_text()


def test_database_away_is_503_within_a_second(server_without_database: Server) -> None:
    key = "nk_" + "a" * 12 + "." + "b" * 43
    started = time.monotonic()
    status, document, headers = server_without_database.ask("GET", "/v1/notifications", **{"X-API-Key": key})
    assert time.monotonic() - started < 1.0
    assert (status, document["type"]) == (503, "/problems/unavailable")
    assert headers["Retry-After"] == "1"


OUTAGE_S = 8.0  # so long that a pool whose pauses double without an end would sleep for seven seconds more
BACK_WITHIN_S = 5.0


def test_database_that_was_away_for_long_is_back_within_seconds(tmp_path: Path, transactional_db: None) -> None:
    key = make_api_key(make_client())
    database: dict[str, Any] = settings.DATABASES["default"]
    with Relay(database["HOST"] or LOOPBACK, int(database["PORT"])) as relay:
        server = Server(tmp_path / "log", DATABASE_URL=database_url(f"{LOOPBACK}:{relay.port}"))
        try:
            server.wait_ready()
            assert server.ask("GET", "/v1/notifications", **{"X-API-Key": key})[0] == HTTPStatus.OK
            relay.cut()
            ends = time.monotonic() + OUTAGE_S
            while time.monotonic() < ends:
                assert server.ask("GET", "/v1/notifications", **{"X-API-Key": key})[0] == 503
                time.sleep(0.2)
            relay.open()
            ends = time.monotonic() + BACK_WITHIN_S
            while server.ask("GET", "/v1/notifications", **{"X-API-Key": key})[0] != HTTPStatus.OK:
                assert time.monotonic() < ends, server.log.read_text()
        finally:
            server.stop()


def test_database_that_stands_still_holds_no_thread_for_long(tmp_path: Path, transactional_db: None) -> None:
    headers = {"X-API-Key": make_api_key(make_client())}
    database: dict[str, Any] = settings.DATABASES["default"]
    with Relay(database["HOST"] or LOOPBACK, int(database["PORT"])) as relay:
        url = database_url(f"{LOOPBACK}:{relay.port}")
        server = Server(tmp_path / "log", DATABASE_URL=url, DATABASE_STATEMENT_TIMEOUT_MS="300")
        try:
            server.wait_ready()
            assert server.ask("GET", "/v1/notifications", **headers)[0] == HTTPStatus.OK
            relay.freeze()
            for _ in range(2 * THREADS):
                started = time.monotonic()
                status, document, _ = server.ask("GET", "/v1/notifications", **headers)
                assert (status, document["type"]) == (503, "/problems/unavailable")
                assert time.monotonic() - started < 3.0
            relay.thaw()
            ends = time.monotonic() + BACK_WITHIN_S
            while server.ask("GET", "/v1/notifications", **headers)[0] != HTTPStatus.OK:
                assert time.monotonic() < ends, server.log.read_text()
        finally:
            server.stop()


def test_every_line_of_the_log_is_json(server: Server) -> None:
    server.ask("GET", "/v1/notifications")
    server.stop()
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert {"notify.access", "_granian"} <= {line["logger"] for line in lines}


def test_request_that_is_being_answered_is_answered_before_the_process_ends(server: Server) -> None:
    key = make_api_key(make_client()).encode()
    head = HEAD % b"/v1/notifications" + b"X-Idempotency-Key: k\r\nX-API-Key: " + key
    body = whole_body()
    with server.held_open(head + b"\r\nContent-Length: %d\r\n\r\n" % len(body), count=1) as connections:
        assert server.ask("GET", "/healthz")[0] == 200  # by then the other has been read
        server.process.terminate()
        connections[0].sendall(body)
        assert connections[0].recv(65_536).startswith(b"HTTP/1.1 422 ")


HEAD = b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "start",
    [
        HEAD % b"/v1/notifications" + b"Content-Length: 100\r\n\r\n{",
        HEAD % b"/v1/webhooks/twilio" + b"Content-Length: 100\r\n\r\n{",
        HEAD % b"/v1/notifications" + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
        HEAD % b"/nowhere" + b"Content-Length: 100\r\n\r\n",
        HEAD % b"/v1/notifications",
    ],
    ids=["unauthenticated", "webhook", "chunked", "unknown", "headers"],
)
def test_slow_callers_hold_nobody_up(server: Server, start: bytes) -> None:
    with server.held_open(start, count=4 * THREADS):
        for path, status in (("/healthz", 200), ("/readyz", 200), ("/v1/notifications", 401)):
            started = time.monotonic()
            assert server.ask("GET", path)[0] == status
            assert time.monotonic() - started < BODY_TIMEOUT_S


def test_body_that_takes_too_long_is_408_and_the_connection_ends(server: Server) -> None:
    with server.held_open(HEAD % b"/v1/notifications" + b"Content-Length: 100\r\n\r\n{", count=1) as connections:
        started = time.monotonic()
        answer = b""
        while piece := connections[0].recv(65_536):
            answer += piece
            assert time.monotonic() - started < 5 * BODY_TIMEOUT_S
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"type":"/problems/body-too-slow"' in answer
    assert time.monotonic() - started >= BODY_TIMEOUT_S * 0.9


@pytest.mark.parametrize("request_line", [b"POST /admin/login/", b"POST /", b"GET /v1/notifications", b"GET /healthz"])
def test_chunked_body_where_none_is_due_is_411(server: Server, request_line: bytes) -> None:
    head = request_line + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    status, document = server.exchange(head, b"5\r\n{")
    assert (status, document["type"]) == (411, "/problems/length-required")


def test_body_of_a_get_is_not_waited_for(server: Server) -> None:
    head = b"GET /v1/notifications HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n"
    started = time.monotonic()
    assert server.exchange(head)[0] == 401
    assert time.monotonic() - started < BODY_TIMEOUT_S


def whole_body() -> bytes:
    return json.dumps({"user_id": "u-1", "type": "otp", "priority": "high", "content": {"body": "x"}}).encode()


@pytest.mark.parametrize("is_chunked", [False, True])
def test_body_cut_short_is_400(server: Server, is_chunked: bool) -> None:
    """Even if what arrived reads like a whole body."""
    body = whole_body()
    key = make_api_key(make_client()).encode()
    head = HEAD % b"/v1/notifications" + b"X-Idempotency-Key: k\r\nX-API-Key: " + key + b"\r\n"
    if is_chunked:
        framed = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(body), body)
    else:
        framed = b"Content-Length: %d\r\n\r\n%s" % (len(body) + 780, body)
    status, document = server.exchange(head, framed, is_cut=True)
    assert (status, document["type"]) == (400, "/problems/bad-request")


def test_idempotency_key_with_an_underscore_is_not_the_header(server: Server) -> None:
    body = whole_body()
    key = make_api_key(make_client()).encode()
    head = HEAD % b"/v1/notifications" + b"X_Idempotency_Key: k\r\nX-API-Key: " + key
    status, document = server.exchange(head, b"\r\nContent-Length: %d\r\n\r\n" % len(body), body)
    assert (status, document["type"]) == (400, "/problems/idempotency-key-missing")


def test_two_idempotency_keys_are_refused(server: Server) -> None:
    body = whole_body()
    key = make_api_key(make_client()).encode()
    head = HEAD % b"/v1/notifications" + b"X-Idempotency-Key: a\r\nx-idempotency-key: b\r\nX-API-Key: " + key
    status, document = server.exchange(head, b"\r\nContent-Length: %d\r\n\r\n" % len(body), body)
    assert (status, document["type"]) == (400, "/problems/bad-request")

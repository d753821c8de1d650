"""The front by itself: what reaches the WSGI application, and when."""

import asyncio
import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from notify_project import front as front_module
from notify_project.front import Environ, Front, Limits
from notify_project.refusals import REFUSAL, Refusal

LIMITS = Limits(threads=2, body_bytes=1_000, buffer_bytes=1_500, body_timeout_s=5.0, queue_timeout_s=5.0)


def tell(environ: Environ, start_response: Any) -> Iterable[bytes]:
    """Answers with what it was given."""
    shown = {name: value for name, value in environ.items() if isinstance(value, str)}
    shown["body"] = environ["wsgi.input"].read().decode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(shown).encode()]


def make_scope(**changes: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/x",
        "raw_path": b"/v1/x",
        "query_string": b"a=%20",
        "headers": [(b"host", b"h"), (b"content-length", b"3")],
        "client": ("192.0.2.1", 50_000),
        "server": ("127.0.0.1", 8000),
        **changes,
    }


async def call(front: Front, *messages: dict[str, Any], **changes: Any) -> tuple[int, bytes]:
    incoming = iter(messages)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0)
        for message in incoming:
            return message
        await asyncio.Event().wait()  # as a server does when no more has come
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await front(make_scope(**changes), receive, send)
    return sent[0]["status"], sent[1]["body"]


def ask(front: Front, *messages: dict[str, Any], **changes: Any) -> dict[str, Any]:
    status, body = asyncio.run(call(front, *messages, **changes))
    assert status == 200
    document: dict[str, Any] = json.loads(body)
    return document


def piece(body: bytes, *, is_last: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": not is_last}


def test_request_arrives_as_pep_3333_has_it() -> None:
    seen = ask(
        Front(tell, LIMITS),
        piece(b"a"),
        piece(b"bc", is_last=True),
        raw_path=b"/v1/caf%C3%A9",
        headers=[
            (b"host", b"h"),
            (b"content-length", b"3"),
            (b"content-type", b"text/plain"),
            (b"cookie", b"a=1"),
            (b"cookie", b"b=2"),
            (b"accept", b"a"),
            (b"accept", b"b"),
            (b"x_real_name", b"forged"),
        ],
    )
    assert seen["body"] == "abc"
    assert seen["PATH_INFO"].encode("latin-1").decode() == "/v1/café"
    assert seen["QUERY_STRING"] == "a=%20"
    assert (seen["CONTENT_TYPE"], seen["CONTENT_LENGTH"]) == ("text/plain", "3")
    assert (seen["HTTP_COOKIE"], seen["HTTP_ACCEPT"]) == ("a=1; b=2", "a,b")
    assert (seen["REMOTE_ADDR"], seen["SERVER_PROTOCOL"]) == ("192.0.2.1", "HTTP/1.1")
    assert "HTTP_X_REAL_NAME" not in seen


def test_chunked_body_gets_the_length_that_wsgi_asks_for() -> None:
    seen = ask(
        Front(tell, LIMITS),
        piece(b"abcd"),
        piece(b"", is_last=True),
        headers=[(b"host", b"h"), (b"transfer-encoding", b"chunked")],
    )
    assert (seen["body"], seen["CONTENT_LENGTH"]) == ("abcd", "4")
    assert "HTTP_TRANSFER_ENCODING" not in seen


def declare(length: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"h"), (b"content-length", length)]


@pytest.mark.parametrize(
    ("messages", "headers", "refusal"),
    [
        ([], declare(b"1001"), Refusal.BODY_TOO_LARGE),
        ([], declare(b"9" * 5_000), Refusal.BODY_TOO_LARGE),
        ([], declare(b"+3"), Refusal.BODY_INCOMPLETE),
        ([piece(b"a"), {"type": "http.disconnect"}], declare(b"3"), Refusal.BODY_INCOMPLETE),
        ([piece(b"a", is_last=True)], declare(b"3"), Refusal.BODY_INCOMPLETE),
        ([piece(b"a" * 600)] * 2, [(b"transfer-encoding", b"chunked")], Refusal.BODY_TOO_LARGE),
        ([], [(b"host", b"a"), (b"host", b"b")], Refusal.HEADER_REPEATED),
    ],
)
def test_bad_framing_is_refused_without_a_body(messages: Any, headers: Any, refusal: Refusal) -> None:
    seen = ask(Front(tell, LIMITS), *messages, headers=headers)
    assert (seen[REFUSAL], seen["body"]) == (refusal, "")


def test_body_that_is_refused_is_let_come_and_thrown_away_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unread bytes at the close of a connection reset it, and the caller never sees the answer."""
    monkeypatch.setattr(front_module, "UNWANTED_BYTES", 500)
    coming = [piece(b"a" * 100) for _ in range(9)]

    def taken(*messages: dict[str, Any], headers: list[tuple[bytes, bytes]]) -> int:
        left = list(messages)

        async def receive() -> dict[str, Any]:
            return left.pop(0)

        async def send(message: dict[str, Any]) -> None:
            assert message.get("status", 200) == 200

        asyncio.run(Front(tell, LIMITS)(make_scope(headers=headers), receive, send))  # type: ignore[arg-type]
        return len(messages) - len(left)

    assert taken(*coming[:3], piece(b"", is_last=True), piece(b"of the next"), headers=declare(b"1001")) == 4
    assert taken(*coming, headers=declare(b"1001")) == 5
    assert taken(*coming, headers=[*declare(b"1001"), (b"expect", b"100-continue")]) == 0


def test_bodies_that_arrive_together_have_a_limit_together() -> None:
    async def overload() -> list[tuple[int, bytes]]:
        front = Front(tell, LIMITS)
        parts = [piece(b"x" * 400), piece(b"x" * 400, is_last=True)]
        first = await asyncio.gather(*(call(front, *parts, headers=declare(b"800")) for _ in range(3)))
        return [*first, await call(front, *parts, headers=declare(b"800"))]

    *together, alone = [json.loads(body) for _, body in asyncio.run(overload())]
    assert Refusal.OVERLOADED in {seen.get(REFUSAL) for seen in together}
    assert REFUSAL not in alone


def test_request_that_waited_too_long_for_a_thread_is_refused_and_probes_do_not_wait() -> None:
    release = threading.Event()

    def block(environ: Environ, start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/v1/block":
            assert release.wait(10)
        return tell(environ, start_response)

    async def crowd() -> tuple[bytes, bytes]:
        front = Front(block, replace(LIMITS, queue_timeout_s=0.05))
        empty: dict[str, Any] = {"headers": [], "method": "GET"}
        blockers = [asyncio.create_task(call(front, raw_path=b"/v1/block", **empty)) for _ in range(LIMITS.threads)]
        await asyncio.sleep(0)
        late = asyncio.create_task(call(front, **empty))
        _, probe = await call(front, raw_path=b"/healthz", **empty)
        await asyncio.sleep(0.1)
        assert not late.done()
        release.set()
        await asyncio.gather(*blockers)
        return probe, (await late)[1]

    probe, late = (json.loads(body) for body in asyncio.run(crowd()))
    assert REFUSAL not in probe
    assert late[REFUSAL] == Refusal.OVERLOADED


def test_answer_in_parts_goes_out_whole_and_is_closed() -> None:
    is_closed = threading.Event()

    class Parts:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"a", b"b"])

        def close(self) -> None:
            is_closed.set()

    def stream(environ: Environ, start_response: Any) -> Iterable[bytes]:
        start_response("201 Created", [])
        return Parts()

    assert asyncio.run(call(Front(stream, LIMITS), headers=[])) == (201, b"ab")
    assert is_closed.is_set()


def test_crash_past_django_is_a_bare_500() -> None:
    def crash(environ: Environ, start_response: Any) -> Iterable[bytes]:
        raise RuntimeError("secret words")

    assert asyncio.run(call(Front(crash, LIMITS), headers=[])) == (500, b"")

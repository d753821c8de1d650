"""Bad bodies and bad URLs get a 4xx, good ones come through as they are."""

import io

import orjson
import pytest
from django.test import Client, RequestFactory

from apps.problems import Problem
from notify_project.edge import EdgeMiddleware
from notify_project.parsers import MAX_DEPTH, parse_object, read_bounded

pytestmark = pytest.mark.urls("tests.notify_project.urls")


def nested(levels: int) -> bytes:
    return b'{"a":' * levels + b"1" + b"}" * levels


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1e999}',
        b'{"a": "\xff"}',
        b'{"a": "\xed\xa0\x80"}',
        b'{"a": "\\ud800"}',
        b'{"a": "\\udc00\\ud800"}',
        b'{"a": "\x00"}',
        b'\xef\xbb\xbf{"a": 1}',
        '{"a": 1}'.encode("utf-16"),
        b"[]",
        b'"text"',
        b"7",
        b"null",
        b'{"a": 1} {"b": 2}',
        nested(MAX_DEPTH + 1),
        nested(100_000),
        b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}",
        b"[" * 500_000,
    ],
    ids=range(21),
)
def test_no_json_object_is_400(client: Client, raw: bytes) -> None:
    answer = client.generic("POST", "/v1/echo", raw, content_type="application/json")
    assert answer.status_code == 400
    assert answer.json()["type"] == "/problems/malformed-json"


@pytest.mark.parametrize(
    "raw",
    [
        nested(MAX_DEPTH),
        b'{"a": [' + b"{}," * 1000 + b"{}]}",
        '{"a": "\U0001f600 é \\u00e9 \\ud83d\\ude00"}'.encode(),
        b'{"a": "\\\\u0000"}',
        b"{}",
    ],
)
def test_unusual_but_good_body_comes_through(client: Client, raw: bytes) -> None:
    answer = client.generic("POST", "/v1/echo", raw, content_type="application/json")
    assert answer.status_code == 200
    assert answer.content == parse_again(raw)


def parse_again(raw: bytes) -> bytes:
    return orjson.dumps(orjson.loads(raw))


@pytest.mark.parametrize(
    ("raw", "pointers"),
    [
        (b'{"a": "x\\u0000y"}', ["/a"]),
        (b'{"a": {"b/c": ["ok", "\\u0000"]}, "d": "\\u0000"}', ["/a/b~1c/1", "/d"]),
        (b'{"a\\u0000": 1}', [""]),
        (b'{"a": [{"k\\u0000": "\\u0000"}]}', ["/a/0", "/a/0/k\0"]),
    ],
)
def test_nul_is_422_that_points_at_it(client: Client, raw: bytes, pointers: list[str]) -> None:
    answer = client.generic("POST", "/v1/echo", raw, content_type="application/json")
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == pointers
    assert {error["code"] for error in answer.json()["errors"]} == {"nul"}


def test_body_of_the_limit_is_read_and_one_byte_more_is_413(client: Client, settings) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 100
    fits = b'{"a":"' + b"x" * 92 + b'"}'
    assert client.generic("POST", "/v1/echo", fits, content_type="application/json").status_code == 200
    answer = client.generic("POST", "/v1/echo", fits + b" ", content_type="application/json")
    assert answer.status_code == 413
    assert answer.json()["type"] == "/problems/body-too-large"
    assert "100 bytes" in answer.json()["detail"]


def test_too_large_body_is_refused_by_its_length_unread(rf: RequestFactory) -> None:
    class Untouchable(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise AssertionError("the body was read")

    request = rf.post("/", CONTENT_LENGTH=str(10 * 1024 * 1024))
    request.META["CONTENT_LENGTH"] = str(10 * 1024 * 1024)
    with pytest.raises(Problem) as caught:
        read_bounded(Untouchable(), request)
    assert caught.value.status_code == 413


def test_body_of_unknown_length_behind_another_server_is_411(rf: RequestFactory) -> None:
    request = rf.post("/v1/echo")
    request.META.pop("CONTENT_LENGTH")
    request.META["HTTP_TRANSFER_ENCODING"] = "chunked"
    assert EdgeMiddleware(lambda request: pytest.fail("passed on"))(request).status_code == 411


@pytest.mark.parametrize(
    "target",
    [
        "/v1/echo/a%00b",
        "/v1/echo/%ff",
        "/v1/echo/%ed%a0%80",
        "/v1/echo?q=a%00b",
        "/v1/echo?q=%ff",
        "/v1/echo?%00=1",
        "/v1/echo?q=%C3%28",
        "/admin/%00",
    ],
)
def test_url_that_holds_nul_or_is_not_utf_8_is_400(client: Client, target: str) -> None:
    answer = client.get(target)
    assert answer.status_code == 400
    assert answer.json()["type"] == "/problems/bad-request"


def test_ordinary_url_comes_through(client: Client) -> None:
    answer = client.get("/v1/echo/caf%C3%A9%2B?q=%C3%A9%20%25&plus=a+b")
    assert answer.json() == {"word": "café+", "query": {"q": "é %", "plus": "a b"}}


def test_thousands_of_parameters_are_400(client: Client) -> None:
    answer = client.get("/v1/echo?" + "&".join(f"p{number}=1" for number in range(2000)))
    assert answer.status_code == 400
    assert answer.json()["type"] == "/problems/bad-request"


def test_answers_of_the_api_stay_out_of_caches(client: Client) -> None:
    for target in ("/v1/echo", "/v1/nothing", "/v1/echo/%00"):
        assert client.get(target)["Cache-Control"] == "no-store"


def test_options_describes_the_call(client: Client) -> None:
    assert client.options("/v1/echo").status_code == 200


def test_types_have_a_form_in_json(client: Client) -> None:
    answer = client.get("/v1/types")
    assert answer["Content-Type"] == "application/json"
    assert answer.json() == {
        "time": "2026-01-02T03:04:05.006000Z",
        "id": "00000000-0000-0000-0000-000000000007",
        "amount": "1.10",
        "words": ["a", "b"],
        "3": None,
    }


def test_parse_object_takes_the_last_of_a_repeated_name() -> None:
    assert parse_object(b'{"a": 1, "a": 2}') == {"a": 2}

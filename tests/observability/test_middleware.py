"""Every request: one trace, one count, one access line. Static files without a web server."""

import pytest
from django.test import Client
from structlog.contextvars import bind_contextvars, get_contextvars

from apps import trace

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"

pytestmark = pytest.mark.urls("tests.observability.urls")


def test_the_callers_trace_is_followed_and_echoed(client, lines):
    response = client.get("/v1/users/u1", headers={"traceparent": TRACEPARENT})
    assert response.content.decode() == TRACE_ID
    assert response["X-Trace-Id"] == TRACE_ID
    parsed = trace.parse_traceparent(response["traceparent"])
    assert parsed is not None
    assert parsed.trace_id == TRACE_ID
    assert parsed.parent_id != "00f067aa0ba902b7"
    (line,) = lines()
    assert line["trace_id"] == TRACE_ID


def test_an_unsampled_trace_stays_unsampled(client):
    response = client.get("/v1/users/u1", headers={"traceparent": TRACEPARENT[:-1] + "0"})
    assert response["traceparent"].endswith("-00")


@pytest.mark.parametrize("header", ["nonsense", "00-" + "0" * 32 + "-00f067aa0ba902b7-01", "é"])
def test_a_broken_traceparent_begins_a_new_trace(client, header):
    response = client.get("/v1/users/u1", headers={"traceparent": header})
    assert response.status_code == 200
    assert trace.parse_traceparent(response["traceparent"]) is not None
    assert response["X-Trace-Id"] not in {"", "0" * 32, TRACE_ID}


def test_two_requests_without_a_trace_get_two(client):
    first, second = client.get("/v1/users/u1"), client.get("/v1/users/u1")
    assert first["X-Trace-Id"] != second["X-Trace-Id"]


def test_a_trace_named_in_the_body_takes_over(client, lines):
    response = client.post("/adopt", headers={"traceparent": TRACEPARENT})
    assert response["X-Trace-Id"] == "order-4711"
    assert TRACE_ID in response["traceparent"]  # a caller's own words do not fit there
    (line,) = lines()
    assert line["trace_id"] == "order-4711"
    assert line["edge_trace_id"] == TRACE_ID


def test_nothing_is_left_for_the_threads_next_request(client):
    bind_contextvars(trace_id="of-the-request-before", task="x")
    client.post("/adopt")
    assert get_contextvars() == {}
    assert trace.current_trace_id() == ""


def test_the_access_line_tells_who_asked_what_and_how_it_went(client, lines):
    client.get("/v1/users/u1?email=someone@example.com")
    (line,) = lines()
    assert line["logger"] == "notify.access"
    assert line["event"] == "request"
    assert line["method"] == "GET"
    assert line["route"] == "v1/users/<str:user_id>"
    assert line["path"] == "/v1/users/u1"
    assert line["status"] == 200
    assert line["client_id"] == "7"
    assert 0 <= line["ms"] < 60_000
    assert "someone" not in str(line)


def test_an_address_in_the_path_is_masked(client, lines):
    client.get("/v1/users/someone@example.com")
    (line,) = lines()
    assert "someone" not in str(line)


def test_probes_are_not_told_but_counted(client, lines, increase):
    count = increase("http_requests_total", route="healthz", method="GET", status="200")
    client.get("/healthz")
    assert lines() == []
    assert count() == 1


def test_an_unknown_path_is_counted_under_one_label(client, increase):
    count = increase("http_requests_total", route="(none)", method="GET", status="404")
    client.get("/some/where")
    client.get("/else/where")
    assert count() == 2


def test_an_invented_method_is_counted_under_one_label(client, increase):
    count = increase("http_requests_total", route="v1/users/<str:user_id>", method="OTHER", status="200")
    client.generic("BREW", "/v1/users/u1")
    assert count() == 1


def test_a_view_that_breaks_leaves_an_error_and_an_access_line_of_one_trace(lines, increase):
    count = increase("http_request_seconds_count", route="fail", method="GET")
    response = Client(raise_request_exception=False).get("/fail", headers={"traceparent": TRACEPARENT})
    assert response.status_code == 500
    assert response["X-Trace-Id"] == TRACE_ID
    error, access = lines()
    assert error["logger"] == "django.request"
    assert "RuntimeError" in error["exception"]
    assert access["status"] == 500
    assert {error["trace_id"], access["trace_id"]} == {TRACE_ID}
    assert "someone@example.com" not in str((error, access))
    assert count() == 1


def test_static_files_are_served_without_debug_and_without_collectstatic(client, settings, increase):
    assert settings.DEBUG is False
    count = increase("http_requests_total", route="(static)", method="GET", status="200")
    response = client.get("/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui.css")
    assert response.status_code == 200
    assert response["Content-Type"] == "text/css"
    assert "max-age=" in response["Cache-Control"]
    assert len(b"".join(response.streaming_content)) > 1000
    assert count() == 1


@pytest.mark.django_db  # closing a response looks after connections that earlier tests left
def test_an_unchanged_static_file_is_not_sent_again(client):
    path = "/static/drf_spectacular_sidecar/swagger-ui-dist/swagger-ui.css"
    first = client.get(path)
    first.close()
    again = client.get(path, headers={"if-modified-since": first["Last-Modified"]})
    assert again.status_code == 304


@pytest.mark.parametrize(
    "path",
    [
        "/static/",
        "/static/nothing.css",
        "/static/../notify_project/settings/base.py",
        "/static/%2e%2e/manage.py",
        "/static//etc/passwd",
        "/static/drf_spectacular_sidecar/",
        "/static/drf_spectacular_sidecar",
    ],
)
def test_nothing_but_static_files_can_be_had_there(client, path):
    assert client.get(path).status_code == 404


def test_other_methods_pass_by_the_static_files(client):
    assert client.post("/static/nothing.css").status_code == 404

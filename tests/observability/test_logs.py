"""One JSON object a line from everybody, whoever speaks and whatever goes wrong."""

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
import threading
import warnings

import pytest
import structlog

from apps import trace
from notify_project import logs
from notify_project.redaction import MASK

logger = structlog.get_logger("notify.test")
ADDRESS = "someone@example.com"


def test_our_own_line_has_the_documented_fields(lines):
    with trace.bind_trace("order-1"):
        logger.info("provider_call", provider="fcm", ms=12.5)
    (line,) = lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "level": "info",
        "event": "provider_call",
        "logger": "notify.test",
        "role": logs.process_role(sys.argv),
        "pid": os.getpid(),
        "trace_id": "order-1",
        "provider": "fcm",
        "ms": 12.5,
    }


def test_a_line_of_the_standard_library_looks_the_same(lines):
    with trace.bind_trace("order-2"):
        logging.getLogger("celery.worker").warning("lost %s of %d", "contact", 3)
    (line,) = lines()
    assert line["event"] == "lost contact of 3"
    assert (line["level"], line["logger"], line["trace_id"]) == ("warning", "celery.worker", "order-2")
    assert line["timestamp"].endswith("Z")


def test_exceptions_become_one_redacted_field_without_local_variables(lines):
    password_in_a_local_variable = "hunter2"  # noqa: F841
    try:
        raise ValueError(f"cannot send to {ADDRESS}")
    except ValueError:
        logger.exception("failed")
        logging.getLogger("x").exception("failed for %s", ADDRESS)
    ours, theirs = lines()
    for line in (ours, theirs):
        assert line["level"] == "error"
        assert "ValueError" in line["exception"]
        assert "in test_exceptions_become_one" in line["exception"]
        assert MASK in line["exception"]
        assert ADDRESS not in json.dumps(line)
        assert "hunter2" not in line["exception"].replace('password_in_a_local_variable = "hunter2"', "")


def test_an_exception_may_be_handed_over_as_a_value(lines):
    logger.warning("retrying", error=ConnectionError(f"no route for {ADDRESS}"), exc_info=ValueError("later"))
    (line,) = lines()
    assert line["error"].startswith("ConnectionError")
    assert ADDRESS not in line["error"]
    assert "ValueError: later" in line["exception"]


def test_personal_data_is_masked_in_our_lines_and_in_those_of_others(lines):
    logger.info("oops", email=ADDRESS, note=f"to {ADDRESS}", nested={"token": "abc"}, phone="+15005550006")
    logging.getLogger("django").error("%s and %s", ADDRESS, "+15005550006")
    for line in lines():
        text = json.dumps(line)
        assert ADDRESS not in text
        assert "5005550006" not in text
        assert "abc" not in text


def test_a_line_whose_arguments_do_not_fit_is_still_written_without_them(lines, capsys):
    logging.getLogger("x").error("%d items", ADDRESS)
    (line,) = lines()
    assert line["event"] == "%d items (its arguments do not fit)"


@pytest.mark.parametrize("odd", ["\ud800", 1 << 80, float("nan"), {1: 2}, {(1, 2): 3}, b"\xff", object(), {1, 2}])
def test_no_value_breaks_a_line(lines, odd):
    logger.info("odd", value=odd)
    (line,) = lines()
    assert "odd" in line["event"]


def test_a_multi_line_text_stays_on_one_line(lines):
    logger.info("multi\nline")
    assert len(lines()) == 1


def test_warnings_are_lines_too(lines):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        try:
            warnings.warn(f"careful with {ADDRESS}", UserWarning, stacklevel=1)
        finally:
            logging.captureWarnings(False)
    (line,) = lines()
    assert line["logger"] == "py.warnings"
    assert ADDRESS not in line["event"]


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("django.request", logging.WARNING),  # 4xx
        ("django.db.backends", logging.DEBUG),  # SQL with parameters
        ("celery.worker.strategy", logging.DEBUG),  # task arguments
        ("celery.app.trace", logging.INFO),
        ("celery.beat", logging.INFO),
        ("kombu", logging.INFO),
    ],
)
def test_what_would_flood_or_tell_is_not_written(lines, name, level):
    logs.configure_logging({"level": "DEBUG", "format": "json"})
    try:
        logging.getLogger(name).log(level, "chatter")
        assert lines() == []
    finally:
        logs.configure_logging({"level": "INFO", "format": "json"})


def test_of_django_only_exceptions_are_news_the_access_line_has_the_status(lines):
    logging.getLogger("django.request").error("Service Unavailable: %s", "/readyz")
    assert lines() == []
    logging.getLogger("django.request").error("Internal Server Error: %s", "/x", exc_info=ValueError("x"))
    assert len(lines()) == 1


def test_handlers_of_others_are_replaced(lines):
    granian = logging.getLogger("_granian")
    granian.addHandler(logging.StreamHandler())
    granian.propagate = False
    logs.configure_logging({"level": "INFO", "format": "json"})
    granian.warning("shutting down")
    (line,) = lines()
    assert line["logger"] == "_granian"


def test_the_console_format_is_for_people(capsys):
    logs.configure_logging({"level": "INFO", "format": "console"})
    try:
        structlog.get_logger("notify.other").info("hello", email=ADDRESS, n=3)
        shown = capsys.readouterr().err
        assert "hello" in shown
        assert "n=3" in shown
        assert ADDRESS not in shown
    finally:
        logs.configure_logging({"level": "INFO", "format": "json"})


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"level": "LOUD", "format": "json"}, "LOG_LEVEL must be one of DEBUG"),
        ({"level": "INFO", "format": "xml"}, "LOG_FORMAT must be json or console"),
    ],
)
def test_a_wrong_setting_is_named(config, words):
    with pytest.raises(ValueError, match=words):
        logs.configure_logging(config)


@pytest.mark.parametrize(
    ("argv", "role"),
    [
        (["/v/bin/celery", "-A", "notify_project", "worker", "-Q", "notif.push.high"], "worker"),
        (["/v/lib/celery/__main__.py", "-A", "notify_project", "beat"], "beat"),
        (["celery", "-A", "notify_project", "flower"], "flower"),
        (["/v/bin/granian", "--interface", "wsgi", "notify_project.wsgi:application"], "web"),
        (["manage.py", "migrate"], "manage:migrate"),
        (["manage.py"], "manage"),
        (["/v/bin/pytest", "-q"], "pytest"),
        ([], "python"),
    ],
)
def test_a_process_knows_what_it_is(argv, role):
    assert logs.process_role(argv) == role


def test_lines_of_many_threads_do_not_mix(lines):
    threads = [
        threading.Thread(target=lambda: [logger.info("line", filler="x " * 400) for _ in range(50)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines()) == 400


def run_python(code, role):
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"NOTIFY_TEST_ROLE": role},
    )


_DIE = """
import os, threading
from notify_project.logs import configure_logging
configure_logging({"level": "INFO", "format": "json", "role": os.environ["NOTIFY_TEST_ROLE"]})
def die(): raise ValueError("thread for someone@example.com")
thread = threading.Thread(target=die, name="sender-1"); thread.start(); thread.join()
raise RuntimeError("died for someone@example.com")
"""


def test_a_server_that_dies_says_so_in_lines_without_personal_data():
    done = run_python(_DIE, "worker-high-1")
    assert done.returncode == 1
    thread_line, process_line = [json.loads(line) for line in done.stderr.splitlines()]
    assert (thread_line["event"], thread_line["thread"]) == ("thread_died", "sender-1")
    assert process_line["event"] == "uncaught_exception"
    assert "RuntimeError" in process_line["exception"]
    assert ADDRESS not in done.stderr


def test_a_command_that_dies_shows_a_readable_traceback_without_personal_data():
    done = run_python(_DIE, "manage:demo")
    assert "Traceback (most recent call last):\n" in done.stderr
    assert "RuntimeError: died for" in done.stderr
    assert ADDRESS not in done.stderr


def test_a_forked_child_can_log_although_a_thread_held_the_lock():
    code = """
import os, structlog
from notify_project import logs
logs.configure_logging({"level": "INFO", "format": "json"})
import threading
held = threading.Event(); release = threading.Event()
def hold():
    with logs._write_lock:
        held.set(); release.wait()
thread = threading.Thread(target=hold); thread.start(); held.wait()
pid = os.fork()
if pid == 0:
    structlog.get_logger("notify.child").info("alive")
    os._exit(0)
os.waitpid(pid, 0)
release.set(); thread.join()
"""
    done = run_python(code, "worker")
    assert json.loads(done.stderr)["event"] == "alive"


class HostileError(Exception):
    def __str__(self):
        raise RuntimeError("not even this")


def test_an_object_that_cannot_be_looked_at_costs_its_line_only(lines):
    with trace.bind_trace("order-3"):
        logger.info("odd", value=HostileError())
        logging.getLogger("x").warning("%s", HostileError())
    ours, theirs = lines()
    assert (ours["event"], ours["trace_id"]) == ("unloggable", "order-3")
    assert "do not fit" in theirs["event"]


def test_a_reader_that_is_gone_costs_the_line_and_not_the_work(monkeypatch):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        monkeypatch.setattr(sys, "stderr", full)
        logger.info("lost")
        logging.getLogger("x").warning("lost")
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    logger.info("lost")

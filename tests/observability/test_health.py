"""The probes tell the truth within half a second, whatever has happened to what we stand on."""

import socket
import threading
import time
from contextlib import closing

import pytest
from django.db import connections
from django.db.migrations.recorder import MigrationRecorder

from notify_project import broker, health

pytestmark = pytest.mark.urls("tests.observability.urls")

CLOSED_PORT = 1  # tcpmux: nobody listens
SOON_S = health.CHECK_TIMEOUT_S + 2  # the machine of the tests may be busy


@pytest.fixture
def black_hole():
    """The port of a server that takes connections and never says a word."""
    with closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        server.listen(16)
        yield server.getsockname()[1]
        deadline = time.monotonic() + 10  # before its sockets go, those who wait on it must be gone
        while time.monotonic() < deadline and any(t.name.startswith("readyz-") for t in threading.enumerate()):
            threading.Event().wait(0.02)


@pytest.fixture(autouse=True)
def fresh():
    health.forget_report()
    yield
    health.forget_report()


@pytest.fixture
def database_at(monkeypatch):
    def move(port):
        monkeypatch.setitem(connections.settings["default"], "HOST", "127.0.0.1")
        monkeypatch.setitem(connections.settings["default"], "PORT", str(port))

    return move


@pytest.fixture
def cache_at(settings):
    def move(port):
        settings.CACHES = {"default": {**settings.CACHES["default"], "LOCATION": f"redis://127.0.0.1:{port}/0"}}

    return move


@pytest.fixture
def broker_at(monkeypatch):
    def move(port, scheme="redis"):
        monkeypatch.setattr(broker.app.conf, "broker_write_url", f"{scheme}://127.0.0.1:{port}//")

    return move


def ask(client):
    started = time.monotonic()
    response = client.get("/readyz")
    assert time.monotonic() - started < SOON_S
    return response.status_code, response.json()


def test_alive_without_looking_at_anything(client, database_at, broker_at, cache_at):
    database_at(CLOSED_PORT)
    broker_at(CLOSED_PORT)
    cache_at(CLOSED_PORT)
    response = client.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert "no-cache" in response["Cache-Control"]


@pytest.mark.django_db
def test_all_well(client):
    status, report = ask(client)
    assert (status, report["status"]) == (200, "ok")
    assert set(report["checks"]) == {"database", "broker", "cache"}
    for check in report["checks"].values():
        assert check["status"] == "ok"
        assert check["latency_ms"] > 0
        assert check["detail"] == ""


@pytest.mark.django_db
def test_without_the_broker_requests_are_still_taken(client, broker_at):
    broker_at(CLOSED_PORT)
    status, report = ask(client)
    assert (status, report["status"]) == (200, "degraded")
    assert report["checks"]["broker"]["status"] == "failed"
    assert "BROKER_URL" in report["checks"]["broker"]["detail"]
    assert report["checks"]["database"]["status"] == "ok"


@pytest.mark.django_db
def test_without_the_cache_all_is_slower(client, cache_at):
    cache_at(CLOSED_PORT)
    status, report = ask(client)
    assert (status, report["status"]) == (200, "degraded")
    assert "CACHE_URL" in report["checks"]["cache"]["detail"]


def test_without_the_database_nothing_goes(client, database_at):
    database_at(CLOSED_PORT)
    status, report = ask(client)
    assert (status, report["status"]) == (503, "unavailable")
    assert "DATABASE_URL" in report["checks"]["database"]["detail"]


def test_silence_everywhere_is_answered_in_time_and_leaves_one_thread_each(
    client, black_hole, database_at, broker_at, cache_at
):
    database_at(black_hole)
    broker_at(black_hole)
    cache_at(black_hole)
    for _ in range(3):
        health.forget_report()
        status, report = ask(client)
        assert status == 503
        assert {check["status"] for check in report["checks"].values()} == {"failed"}
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("readyz-")]
    assert len(names) == len(set(names))


@pytest.mark.django_db
def test_a_silent_rabbitmq_is_answered_in_time(client, black_hole, broker_at, settings):
    settings.BROKER_IS_AMQP = True
    broker_at(black_hole, "amqp")
    status, report = ask(client)
    assert (status, report["status"]) == (200, "degraded")


@pytest.mark.django_db(transaction=True)
def test_a_missing_migration_is_named_with_its_mend(client, monkeypatch):
    app, name = sorted(health.expected_migrations())[0]
    applied = MigrationRecorder.Migration.objects.filter(app=app, name=name)
    moment = applied.get().applied
    applied.delete()
    try:
        status, report = ask(client)
        assert (status, report["status"]) == (503, "unavailable")
        assert "manage.py migrate" in report["checks"]["database"]["detail"]
    finally:
        MigrationRecorder.Migration.objects.create(app=app, name=name, applied=moment)
    health.forget_report()
    assert ask(client)[0] == 200


@pytest.mark.django_db
def test_no_address_and_no_password_in_the_answer(client, database_at, broker_at, cache_at):
    database_at(CLOSED_PORT)
    broker_at(CLOSED_PORT)
    cache_at(CLOSED_PORT)
    _, report = ask(client)
    for value in ("127.0.0.1", "postgres:", "password", connections.settings["default"]["NAME"]):
        assert value not in str(report)


@pytest.mark.django_db
def test_a_crowd_that_asks_costs_one_look(client, monkeypatch):
    looks = []
    look = health.make_report
    monkeypatch.setattr(health, "make_report", lambda: looks.append(1) or look())  # counts, and does the real thing
    for _ in range(20):
        client.get("/readyz")
    assert len(looks) <= 2


def test_probes_are_read_only(client):
    assert client.post("/healthz").status_code == 405
    assert client.post("/readyz").status_code == 405

"""The probes tell the truth within half a second, whatever has happened to what we stand on."""

import socket
import threading
import time
from contextlib import closing

import psycopg
import pytest
from celery import current_app
from django.db import DatabaseError, InternalError, OperationalError, connection, connections
from django.db.migrations.recorder import MigrationRecorder
from django_redis import get_redis_connection

from apps.delivery import canary, sweep
from apps.delivery.queues import ALL_QUEUES
from notify_project import broker as broker_module
from notify_project import database, health
from notify_project.problems import to_problem
from tests.brokers import broker as broker
from tests.waiting import wait_for

pytestmark = pytest.mark.urls("tests.observability.urls")

CLOSED_PORT = 1  # tcpmux: nobody listens


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
    # What another test had asked, and nobody waits for any more, would be this one's answer.
    wait_for(lambda: not any(thread.name.startswith("readyz-") for thread in threading.enumerate()))
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
        monkeypatch.setattr(broker_module.app.conf, "broker_write_url", f"{scheme}://127.0.0.1:{port}//")

    return move


@pytest.fixture
def swept(db, monkeypatch):
    """Beat has just had somebody sweep; and the tests' machine, which may be busy, has time."""
    monkeypatch.setattr(health, "CHECK_TIMEOUT_S", 5.0)
    sweep.sweep_for_beat()


def age_heartbeat(name, seconds):
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE heartbeat SET finished_at = now() - make_interval(secs => %s) WHERE name = %s", [seconds, name]
        )


def ask(client):
    started = time.monotonic()
    response = client.get("/readyz")
    assert time.monotonic() - started < health.CHECK_TIMEOUT_S + 2
    return response.status_code, response.json()


def test_alive_without_looking_at_anything(client, database_at, broker_at, cache_at):
    database_at(CLOSED_PORT)
    broker_at(CLOSED_PORT)
    cache_at(CLOSED_PORT)
    response = client.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert "no-cache" in response["Cache-Control"]


@pytest.mark.django_db(transaction=True)
def test_all_well(client, broker, swept):
    status, report = ask(client)
    assert (status, report["status"]) == (200, "ok"), report
    assert set(report["checks"]) == {"database", "broker", "cache", "queues", "sweep"}
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


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("name", "seconds", "words"),
    [
        ("sweep", 47, "It last ran 47 s ago"),
        ("beat", 47, "Other workers sweep in its place"),
    ],
)
def test_a_sweep_that_is_late_is_named_with_its_mend(client, swept, name, seconds, words):
    age_heartbeat(name, seconds)
    status, report = ask(client)
    assert (status, report["status"]) == (200, "degraded")
    assert words in report["checks"]["sweep"]["detail"]
    assert "Is beat running, and worker-maintenance?" in report["checks"]["sweep"]["detail"]


@pytest.mark.django_db(transaction=True)
def test_a_sweep_that_never_ran_is_said(client, swept):
    with connection.cursor() as cursor:
        cursor.execute("DELETE FROM heartbeat")
    assert "never run" in ask(client)[1]["checks"]["sweep"]["detail"]


@pytest.mark.django_db(transaction=True)
def test_a_queue_nobody_consumes_is_named(client, broker, swept):
    get_redis_connection("default").flushdb()
    for _ in range(canary.PILE):
        canary.ring_canaries()
    status, report = ask(client)
    assert (status, report["status"]) == (200, "degraded")
    detail = report["checks"]["queues"]["detail"]
    assert detail.startswith("Nobody consumes notif.push.high")
    assert "Are the workers" in detail
    for queue in ALL_QUEUES:
        canary.hear(queue, time.time())
    health.forget_report()
    assert ask(client)[1]["checks"]["queues"]["status"] == "ok"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
def test_a_missing_queue_is_named_with_its_mend(client, broker, swept):
    with current_app.connection_for_write() as connection:
        connection.default_channel.queue_delete("notif.sms.high")
    status, report = ask(client)
    assert (status, report["status"]) == (200, "degraded")
    detail = report["checks"]["queues"]["detail"]
    assert detail == "Not declared: notif.sms.high. Run: python manage.py declare_topology"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("broker", ["valkey"], indirect=True)
def test_a_redis_that_is_full_is_named(client, broker, swept):
    with current_app.connection_for_write() as connection:
        redis = connection.default_channel.client
        redis.config_set("maxmemory", 1)
        try:
            status, report = ask(client)
        finally:
            redis.config_set("maxmemory", "256mb")
    assert (status, report["status"]) == (200, "degraded")
    assert "OutOfMemoryError" in report["checks"]["broker"]["detail"]
    health.forget_report()
    assert ask(client)[1]["checks"]["broker"]["status"] == "ok"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("broker", ["rabbitmq"], indirect=True)
def test_a_rabbitmq_that_is_full_is_named(client, broker, rabbitmq, swept):
    rabbitmq.control("set_disk_free_limit", "1000000GB")
    try:
        wait_for(lambda: "alarm" in look_anew(client)["checks"]["broker"]["detail"], lambda: ask(client))
        status, report = ask(client)
        assert (status, report["status"]) == (200, "degraded")
    finally:
        rabbitmq.control("set_disk_free_limit", "50MB")
    wait_for(lambda: look_anew(client)["checks"]["broker"]["status"] == "ok", lambda: ask(client))


def look_anew(client):
    health.forget_report()
    return ask(client)[1]


@pytest.mark.django_db(transaction=True)
def test_a_full_disk_of_the_database_is_named_and_forgotten(client, swept, monkeypatch):
    monkeypatch.setattr(database, "_disk_full_at", float("-inf"))  # and so it is for the next test
    problem = to_problem(caused_by(psycopg.errors.DiskFull("could not extend file")))
    assert (problem.status_code, problem.headers["Retry-After"]) == (503, "1")
    status, report = ask(client)
    assert (status, report["status"]) == (503, "unavailable")
    assert "disk is full" in report["checks"]["database"]["detail"]
    monkeypatch.setattr(database, "_disk_full_at", time.monotonic() - database.DISK_FULL_LASTS_S)
    health.forget_report()
    assert ask(client)[0] == 200


def test_a_database_that_became_a_standby_is_no_fault_of_the_request():
    problem = to_problem(caused_by(psycopg.errors.ReadOnlySqlTransaction("cannot execute INSERT")))
    assert (problem.status_code, problem.headers["Retry-After"]) == (503, "1")


def caused_by(cause):
    """What Django makes of an error of psycopg's."""
    wrapped = {"53": OperationalError, "25": InternalError}[cause.sqlstate[:2]]
    try:
        raise wrapped(str(cause)) from cause
    except DatabaseError as error:
        return error

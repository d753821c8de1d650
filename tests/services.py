"""Pytest plugin: a PostgreSQL and two Valkeys of the session's own, started before Django reads its settings.

``DATABASE_URL``, ``BROKER_URL`` and ``CACHE_URL`` are used instead where they are set. Under xdist the controller
starts the services and the workers inherit the URLs; each worker has its own database (pytest-django) and its own
Redis database number. ``rabbitmq_url`` starts a private RabbitMQ for the tests that ask for it. On a developer's
machine without RabbitMQ those tests are skipped; where ``CI`` is set they fail.
"""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

# Before notify_project is imported: its Celery app would name the production settings.
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "notify_project.settings.test")

import psutil
import pytest

from notify_project.local.errors import LocalError
from notify_project.local.postgres import Postgres
from notify_project.local.rabbitmq import RabbitMQ
from notify_project.local.valkey import Purpose, Valkey


class Service(Protocol):
    """A server of the session's own."""

    @property
    def url(self) -> str: ...
    def launch(self) -> None: ...
    def wait_ready(self) -> None: ...
    def stop(self) -> None: ...


_PREFIX = "notify-tests-"
_running: list[Service] = []
_directories: list[Path] = []

_EMBEDDED: dict[str, Callable[[Path], Service]] = {
    "BROKER_URL": lambda home: Valkey(home / "broker", purpose=Purpose.THROW_AWAY),
    "CACHE_URL": lambda home: Valkey(home / "cache", purpose=Purpose.THROW_AWAY),
    "DATABASE_URL": lambda home: Postgres(home / "postgres", is_throw_away=True),
}


@pytest.hookimpl(tryfirst=True)  # pytest-django reads the settings in the same hook
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None:
        for variable in ("BROKER_URL", "CACHE_URL"):
            os.environ[variable] = _with_redis_database(os.environ[variable], 1 + int(worker.removeprefix("gw")))
        return
    options = early_config.known_args_namespace
    if not (options.help or options.version):
        try:
            _start_services()
        except LocalError as error:
            _stop_services()
            raise pytest.UsageError(str(error)) from error


def pytest_unconfigure() -> None:
    _stop_services()


def _start_services() -> None:
    missing = [variable for variable in _EMBEDDED if variable not in os.environ]
    if not missing:
        return
    home = _make_directory()
    services = {variable: _EMBEDDED[variable](home) for variable in missing}
    for service in services.values():
        _running.append(service)
        service.launch()
    for variable, service in services.items():
        service.wait_ready()
        os.environ[variable] = service.url


def _stop_services() -> None:
    while _running:
        _running.pop().stop()
    while _directories:
        shutil.rmtree(_directories.pop(), ignore_errors=True)


# Settings that do not load end pytest without its unconfigure hook.
atexit.register(_stop_services)


def _make_directory() -> Path:
    _remove_leftovers()
    directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    _directories.append(directory)
    return directory


def _remove_leftovers() -> None:
    """The directories of sessions that were killed."""
    for directory in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        pid = directory.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(directory, ignore_errors=True)


def _with_redis_database(url: str, number: int) -> str:
    """``url`` with Redis database ``number``; an amqp URL comes back as it is."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"/{number}")) if parts.scheme.startswith("redis") else url


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[RabbitMQ]:
    """A RabbitMQ node of this session's own."""
    broker = _start_rabbitmq()
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def rabbitmq_url(rabbitmq: RabbitMQ) -> str:
    """Its URL, as ``BROKER_URL`` takes it."""
    return rabbitmq.url


def _start_rabbitmq() -> RabbitMQ:
    try:
        broker = RabbitMQ(_make_directory() / "rabbitmq")
        broker.start()
    except LocalError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(str(error))
    _running.append(broker)
    return broker

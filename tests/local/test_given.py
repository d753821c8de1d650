import os

import pytest

from notify_project.local.errors import LocalError
from notify_project.local.given import check_given_stores
from notify_project.local.ports import free_port


def test_servers_that_answer_pass():
    check_given_stores({name: os.environ[name] for name in ("DATABASE_URL", "BROKER_URL", "CACHE_URL")})


def test_rabbitmq_that_answers_passes(rabbitmq_url):
    check_given_stores({"BROKER_URL": rabbitmq_url})


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("DATABASE_URL", "postgres://u:hidden@127.0.0.1:{port}/n"),
        ("BROKER_URL", "redis://:hidden@127.0.0.1:{port}/0"),
        ("BROKER_URL", "amqp://u:hidden@127.0.0.1:{port}//"),
        ("CACHE_URL", "redis://:hidden@127.0.0.1:{port}/0"),
    ],
)
def test_server_that_does_not_answer_is_named_without_its_password(name, url):
    port = free_port()
    with pytest.raises(LocalError, match=rf"^{name}: no connection to 127.0.0.1:{port} \(") as caught:
        check_given_stores({name: url.format(port=port)})
    assert "hidden" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "url"),
    [("DATABASE_URL", "mysql://u@h/n"), ("BROKER_URL", "memory://"), ("CACHE_URL", "127.0.0.1:6379")],
)
def test_other_kinds_of_servers_are_refused(name, url):
    with pytest.raises(LocalError, match=rf"^{name} must begin with "):
        check_given_stores({name: url})

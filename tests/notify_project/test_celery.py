import socket
import time

import pytest
from kombu.exceptions import OperationalError

from notify_project.celery import RECONNECT_EVERY_S, app


def test_worker_knocks_once_a_second_however_long_the_broker_is_away():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"amqp://127.0.0.1:{nobody.getsockname()[1]}//"
        connection = app.connection_for_read(url, connect_timeout=0.5)
        waits = []
        started = time.monotonic()
        with pytest.raises(OperationalError, match="refused"):
            connection.ensure_connection(lambda error, wait: waits.append(wait), max_retries=2)
    assert waits == [RECONNECT_EVERY_S] * 2
    assert time.monotonic() - started < 5

"""Asking the platform's processes whether they are up."""

import http.client
import socket
from collections.abc import Iterable

from celery import Celery

from notify_project.local.ports import LOOPBACK

ANSWER_TIMEOUT_S = 3.0
PING_TIMEOUT_S = 1.0


def http_status(port: int, path: str) -> int | None:
    """Status of ``GET path`` on a loopback port; None if nothing answers."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=ANSWER_TIMEOUT_S)
    try:
        connection.request("GET", path, headers={"User-Agent": "notify-local"})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def is_listening(port: int) -> bool:
    """Whether something accepts connections on a loopback port."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=ANSWER_TIMEOUT_S):
            return True
    except OSError:
        return False


class WorkerPing:
    """Celery's ping, over the broker: a worker that answers has connected and consumes."""

    def __init__(self, broker_url: str) -> None:
        self._app = Celery("notify-local", broker=broker_url, set_as_current=False)
        self._app.conf.broker_connection_timeout = ANSWER_TIMEOUT_S

    def missing(self, names: Iterable[str]) -> set[str]:
        """Those of ``names`` (node names without ``@host``) that do not answer within a second."""
        wanted = set(names)
        try:
            replies = self._app.control.ping(timeout=PING_TIMEOUT_S, limit=len(wanted))
        except Exception:  # each transport has its own family of errors; not up is not up
            return wanted
        return wanted - {node.partition("@")[0] for reply in replies or [] for node in reply}

    def close(self) -> None:
        """Give the connections back."""
        self._app.close()

"""Asking the platform's processes whether they are up. Each question is answered by what is wrong, or by nothing."""

import http.client
import socket
from collections.abc import Sequence
from http import HTTPStatus

from celery import Celery

from notify_project.local.ports import LOOPBACK

ANSWER_TIMEOUT_S = 3.0
PING_TIMEOUT_S = 1.0
BODY_LIMIT = 300


def trouble_of_web(port: int) -> str | None:
    """None once ``/readyz`` says that requests are accepted, else what it says instead."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=ANSWER_TIMEOUT_S)
    try:
        connection.request("GET", "/readyz", headers={"User-Agent": "notify-local"})
        answer = connection.getresponse()
        body = answer.read(BODY_LIMIT).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return f"no answer to /readyz ({error})"
    finally:
        connection.close()
    return None if answer.status == HTTPStatus.OK else f"/readyz says {answer.status}: {body}"


def trouble_of_port(port: int) -> str | None:
    """None once something accepts connections on a loopback port."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=ANSWER_TIMEOUT_S).close()
    except OSError as error:
        return f"port {port}: {error}"
    return None


class WorkerPing:
    """Celery's ping, over the broker: a worker that answers has connected and consumes."""

    def __init__(self, broker_url: str) -> None:
        self._app = Celery("notify-local", broker=broker_url, set_as_current=False)
        self._app.conf.broker_connection_timeout = ANSWER_TIMEOUT_S

    def trouble_of(self, names: Sequence[str]) -> str | None:
        """None once all of ``names`` (node names without ``@host``) answer within a second."""
        if not names:
            return None
        try:
            replies = self._app.control.ping(timeout=PING_TIMEOUT_S, limit=len(names)) or []
        except Exception as error:  # each transport has its own family of errors; not up is not up
            return f"broker: {error}"
        missing = set(names) - {node.partition("@")[0] for reply in replies for node in reply}
        return f"no answer from {', '.join(sorted(missing))}" if missing else None

    def close(self) -> None:
        """Give the connections back."""
        self._app.close()

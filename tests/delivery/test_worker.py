"""Real workers on both brokers, with a slow provider: what a stop, a death and a lost connection cost."""

import json
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from celery import current_app
from django.db import connection

from apps.delivery import sweep
from apps.delivery.models import Delivery
from apps.delivery.statuses import Status
from tests.delivery.factories import accept
from tests.preferences.factories import RecipientFactory
from tests.providers.wire import issue_certificate
from tests.waiting import wait_for
from tests.workers import WorkerProcess

pytestmark = pytest.mark.django_db(transaction=True)
QUEUE = "notif.sms.high"
MESSAGES = 10


class SlowProvider:
    """Speaks Twilio's call for sending; lets go of a request when ``gate`` is open."""

    def __init__(self, folder: Path) -> None:
        self.calls: Counter[str] = Counter()
        self.waiting = 0
        self.gate = threading.Event()
        self._lock = threading.Lock()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                provider.take(body["To"][0])
                answer = json.dumps({"sid": f"SM{provider.calls.total():032d}", "status": "queued"}).encode()
                self.send_response(201)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: object) -> None:
                pass

        certificate, key = issue_certificate(folder)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate, key)
        self._certificate = certificate
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PROVIDER_CA_FILE": str(self._certificate),
            "TWILIO_BASE_URL": f"https://127.0.0.1:{self._server.server_address[1]}",
            "TWILIO_ACCOUNT_SID": "AC" + "0" * 32,
            "TWILIO_AUTH_TOKEN": "token",
            "TWILIO_FROM": "+15005550006",
            "ROUTE_SMS": "twilio",
            "PROVIDER_TIMEOUT_S": "30",
            "DELIVERY_LEASE_S": "120",
        }

    def take(self, address: str) -> None:
        with self._lock:
            self.calls[address] += 1
            self.waiting += 1
        self.gate.wait(60)
        with self._lock:
            self.waiting -= 1

    def close(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[SlowProvider]:
    one = SlowProvider(tmp_path)
    yield one
    one.close()


@pytest.fixture
def start_worker(broker, provider):
    """Starts workers of two threads; what still runs in the end is killed."""
    workers = []

    def start():
        worker = WorkerProcess([QUEUE], threads=2, environment=broker.environment | provider.environment)
        workers.append(worker)
        worker.start()
        return worker

    yield start
    for worker in workers:
        worker.kill()


def accept_many(client_row, n=MESSAGES):
    """As many people, each with a message to them."""
    return [accept(client_row.id, RecipientFactory().user_id)[0].id for _ in range(n)]


def count_of(status):
    return Delivery.objects.filter(status=status).count()


def test_a_worker_that_is_asked_to_stop_finishes_what_it_began_and_hands_the_rest_back(
    broker, client_row, provider, start_worker
):
    ids = accept_many(client_row)
    first = start_worker()
    wait_for(lambda: provider.waiting == 2, first.tail)
    first.terminate()
    provider.gate.set()
    assert first.wait() == 0, first.tail()
    begun = provider.calls.total()
    assert count_of(Status.SENT) == begun < MESSAGES
    assert count_of(Status.SENDING) == 0
    wait_for(lambda: broker.depth(QUEUE) == MESSAGES - begun, lambda: broker.depth(QUEUE))

    second = start_worker()
    wait_for(lambda: count_of(Status.SENT) == MESSAGES, second.tail)
    assert provider.calls.total() == MESSAGES
    assert set(provider.calls.values()) == {1}
    assert set(Delivery.objects.filter(id__in=ids).values_list("lapses", "fence")) == {(0, 1)}


def test_what_a_killed_worker_had_is_sent_by_another(broker, client_row, provider, start_worker):
    accept_many(client_row)
    first = start_worker()
    wait_for(lambda: provider.waiting == 2, first.tail)
    first.kill()
    provider.gate.set()
    with connection.cursor() as cursor:  # leases and rings run out
        cursor.execute("UPDATE delivery SET ring_at = now(), next_attempt_at = now() WHERE ring_at IS NOT NULL")
    sweep.sweep()
    second = start_worker()
    wait_for(lambda: count_of(Status.SENT) == MESSAGES, second.tail)
    assert provider.calls.total() == MESSAGES + 2  # those in flight: the provider had them, nobody knows
    assert max(provider.calls.values()) == 2


def test_a_worker_whose_connections_are_cut_goes_on(broker, client_row, provider, start_worker, request):
    provider.gate.set()
    worker = start_worker()
    accept_many(client_row, 1)
    wait_for(lambda: count_of(Status.SENT) == 1, worker.tail)
    if broker.kind == "valkey":
        with current_app.connection_for_write() as own:
            own.default_channel.client.execute_command("CLIENT KILL TYPE normal SKIPME yes")
    else:
        request.getfixturevalue("rabbitmq").control("close_all_connections", "test")
    worker.wait_for_line(lambda line: "connection to broker lost" in line["event"].lower())
    accept_many(client_row, 3)
    with connection.cursor() as cursor:  # their doorbells may have gone into a connection that was cut
        cursor.execute("UPDATE delivery SET ring_at = now() WHERE ring_at IS NOT NULL")
    wait_for(lambda: sweep.sweep() or count_of(Status.SENT) == 4, worker.tail)
    wait_for(lambda: count_of(Status.SENT) == 4, worker.tail)
    assert set(provider.calls.values()) == {1}

"""The client of the fault suite against a server that misbehaves: what it writes down must be what it was promised."""

import itertools
import json
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.chaos.client import Client, Load, Script
from tests.chaos.ledger import Accepted, Answer, GivenUp, read_records

SINGLES = Load(singles_per_s=50, batches_per_s=0, streams=0)
BATCHES = Load(singles_per_s=0, batches_per_s=20, batch_size=5, streams=0)
STREAMS = Load(singles_per_s=0, batches_per_s=0, streams=2, stream_pause_s=0.01)


class Platform(ThreadingHTTPServer):
    """Answers what ``decide(key, time)`` says, a status or ``None`` to hang up; the same key has the same id."""

    def __init__(self, decide):
        super().__init__(("127.0.0.1", 0), Handler)
        self.decide = decide
        self.times = defaultdict(int)
        self.bodies = {}
        self.lock = threading.Lock()

    def judge(self, key, body):
        with self.lock:
            self.times[key] += 1
            assert self.bodies.setdefault(key, body) == body, "another body under the same key"
            return self.decide(key, self.times[key])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/batch"):
            results = [self.judge(item.pop("idempotency_key"), item) for item in body["items"]]
            self.answer(207, {"results": [{"status": status, "notification": one} for status, one in results]})
            return
        status, notification = self.judge(self.headers["X-Idempotency-Key"], body)
        if status is None:
            self.close_connection = True
            return
        self.answer(status, notification)

    def judge(self, key, body):
        status = self.server.judge(key, body)
        return status, {"id": f"n-{key}", "deliveries": [{"id": f"d-{key}"}]}

    def answer(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def run_client(tmp_path):
    """Lets a client send until ``enough(platform)``; returns the platform and what it wrote down, in ``tmp_path/0``,
    ``1``, …"""
    runs = itertools.count()

    def run(decide, load, *, enough, patience_s=20.0):
        platform = Platform(decide)
        home = tmp_path / str(next(runs))
        home.mkdir()
        serving = threading.Thread(target=platform.serve_forever)
        serving.start()
        script = Script(
            url=f"http://127.0.0.1:{platform.server_port}",
            api_key="k",
            **{name: str(home / name) for name in ("ledger", "answers", "given_up")},
            label="test",
            seed="1",
            people=10,
            load=load,
            threads=4,
            patience_s=patience_s,
        )
        client = Client(script)
        sending = threading.Thread(target=client.run)
        sending.start()
        pause = threading.Event()
        while not enough(platform):
            pause.wait(0.01)
        client.stop()
        sending.join()
        platform.shutdown()
        serving.join()
        platform.server_close()  # waits for its threads
        accepted = read_records(home / "ledger", Accepted)
        assert client.accepted == len(accepted)
        return platform, accepted, read_records(home / "given_up", GivenUp)

    return run


def has_seen(count):
    return lambda platform: len(platform.times) >= count


@pytest.mark.parametrize("failure", [None, 503, 500, 429, 409])
def test_what_failed_is_sent_again_with_the_same_key_and_body(run_client, failure):
    platform, accepted, given_up = run_client(
        lambda key, time: failure if time < 3 else 202, SINGLES, enough=has_seen(10)
    )
    assert given_up == []
    assert {one.key for one in accepted} == set(platform.times)
    assert {one.requests for one in accepted} == {3}
    assert all(one.delivery_ids == (f"d-{one.key}",) for one in accepted)


def test_nothing_is_written_down_that_was_not_promised(run_client):
    _, accepted, given_up = run_client(lambda *_: 503, SINGLES, enough=has_seen(3), patience_s=0.3)
    assert accepted == []
    assert given_up


def test_a_refusal_for_good_is_given_up_at_once(run_client):
    platform, accepted, given_up = run_client(lambda *_: 422, SINGLES, enough=has_seen(3))
    assert accepted == []
    assert {one.key for one in given_up} == set(platform.times)
    assert set(platform.times.values()) == {1}


def test_of_a_batch_only_what_failed_is_sent_again(run_client):
    def decide(key, time):
        return 503 if key.endswith(".2") and time == 1 else 202 if time == 1 else 200

    platform, accepted, given_up = run_client(decide, BATCHES, enough=has_seen(20))
    assert given_up == []
    assert sorted(one.key for one in accepted) == sorted(platform.times)
    assert {time for key, time in platform.times.items() if key.endswith(".2")} == {2}
    assert {time for key, time in platform.times.items() if not key.endswith(".2")} == {1}


def test_a_stream_waits_for_each_of_its_answers(run_client):
    platform, accepted, _ = run_client(lambda key, time: 503 if time < 2 else 202, STREAMS, enough=has_seen(6))
    by_stream = defaultdict(list)
    for one in accepted:
        by_stream[one.stream].append(one.place)
    assert len(by_stream) == 2
    assert all(places == list(range(len(places))) for places in by_stream.values())
    assert {body["ordering_key"] for body in platform.bodies.values()} == {"stream-0", "stream-1"}


def test_the_same_seed_makes_the_same_notifications(run_client):
    first, _, _ = run_client(lambda *_: 202, SINGLES, enough=has_seen(5))
    second, _, _ = run_client(lambda *_: 202, SINGLES, enough=has_seen(5))
    both = first.bodies.keys() & second.bodies.keys()
    assert len(both) >= 5
    assert all(first.bodies[key] == second.bodies[key] for key in both)


def test_every_answer_is_on_record(run_client, tmp_path):
    run_client(lambda key, time: 503 if time < 2 else 202, SINGLES, enough=has_seen(5))
    statuses = [answer.status for answer in read_records(tmp_path / "0" / "answers", Answer)]
    assert statuses.count(503) == statuses.count(202) >= 5

"""The yardstick: the least that sends pushes which somebody can account for. No Celery, no Django, no decisions.

Each process claims 500 rows in PostgreSQL, decrypts their tokens, writes the JSON, sends through libcurl (HTTP/2 over
TLS, multiplexed), records message ids and times, and so on until its share is done. The table is its own.
"""

import argparse
import base64
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import psycopg
import pycurl
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from benchmarks.fcm_token import fetch_access_token
from benchmarks.starting_line import run_when_told

BATCH = 500
IN_FLIGHT = 100
TIMEOUT_S = 900.0
HEADER_BYTES = 14  # of a blob of ours: version, key id, nonce
CREATE = """
DROP TABLE IF EXISTS bench_probe;
CREATE TABLE bench_probe (
    id bigint PRIMARY KEY, sent_at timestamptz, status smallint NOT NULL DEFAULT 1,
    user_id text NOT NULL, token_ct bytea NOT NULL, message_id text
) WITH (fillfactor = 45)
"""
FILL = """
INSERT INTO bench_probe (id, user_id, token_ct)
SELECT row_number() OVER (ORDER BY d.id), r.user_id, d.token_ct
FROM preferences_device d JOIN preferences_recipient r ON r.id = d.recipient_id
WHERE r.user_id LIKE 'bench-%%' ORDER BY d.id LIMIT %s
"""
CLAIM = """
UPDATE bench_probe SET status = 2 WHERE id BETWEEN %s AND %s AND status = 1 RETURNING id, user_id, token_ct
"""
RECORD = """
UPDATE bench_probe p SET status = 3, sent_at = now(), message_id = o.message_id
FROM unnest(%s::bigint[], %s::text[]) AS o(id, message_id) WHERE p.id = o.id
"""


class Place(NamedTuple):
    """Where the probe works, and with what."""

    database_url: str
    keys: dict[int, AESGCM]
    url: str
    ca_file: str
    service_account: dict[str, str]

    @classmethod
    def from_environment(cls) -> "Place":
        account = orjson.loads(Path(os.environ["FCM_SERVICE_ACCOUNT_FILE"]).read_bytes())
        keys = dict(pair.split(":", 1) for pair in os.environ["PII_KEYS"].split(","))
        url = f"{os.environ['FCM_BASE_URL']}/v1/projects/{account['project_id']}/messages:send"
        return cls(
            os.environ["DATABASE_URL"],
            {int(number): AESGCM(base64.b64decode(key)) for number, key in keys.items()},
            url,
            os.environ["PROVIDER_CA_FILE"],
            account,
        )


class Line:
    """One HTTP/2 connection to the provider, used by up to ``IN_FLIGHT`` requests at once."""

    def __init__(self, place: Place) -> None:
        token = fetch_access_token(place.service_account, place.ca_file)
        self._multi: Any = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_PIPELINING, pycurl.PIPE_MULTIPLEX)
        self._idle = [self._make_handle(place, token) for _ in range(IN_FLIGHT)]

    def _make_handle(self, place: Place, token: str) -> Any:
        easy: Any = pycurl.Curl()
        easy.setopt(pycurl.URL, place.url)
        easy.setopt(pycurl.CAINFO, place.ca_file)
        easy.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_2TLS)
        easy.setopt(pycurl.PIPEWAIT, 1)
        easy.setopt(pycurl.NOSIGNAL, 1)
        easy.setopt(pycurl.TIMEOUT_MS, 10_000)
        easy.setopt(pycurl.HTTPHEADER, [f"Authorization: Bearer {token}", "Content-Type: application/json"])
        easy.chunks = []
        easy.setopt(pycurl.WRITEFUNCTION, easy.chunks.append)
        return easy

    def send(self, bodies: Sequence[bytes]) -> list[str | None]:
        """Message ids, in order; ``None`` where the answer was no."""
        multi, idle = self._multi, self._idle
        names: list[str | None] = [None] * len(bodies)
        waiting: Iterator[tuple[int, bytes]] = iter(enumerate(bodies))
        in_flight = 0
        while True:
            while idle and (item := next(waiting, None)) is not None:
                easy = idle.pop()
                easy.place = item[0]
                easy.setopt(pycurl.POSTFIELDS, item[1])
                multi.add_handle(easy)
                in_flight += 1
            if not in_flight:
                return names
            multi.perform()
            _, done, failed = multi.info_read()
            for easy, *_ in failed:
                raise RuntimeError(f"no answer: {easy.errstr()}")
            for easy in done:
                if easy.getinfo(pycurl.RESPONSE_CODE) == 200:
                    names[easy.place] = orjson.loads(b"".join(easy.chunks))["name"]
                easy.chunks.clear()
                multi.remove_handle(easy)
                idle.append(easy)
            in_flight -= len(done)
            if not done:
                multi.select(0.1)


def work(place: Place, ranges: Sequence[tuple[int, int]], text: dict[str, str], barrier: Barrier) -> None:
    """One process. It meets the others and the starter at the barrier when it is ready, to start, and at the end."""
    line = Line(place)
    line.send([_body("probe-warm-up", "warm-up", text)])
    with psycopg.connect(place.database_url, autocommit=True) as connection, connection.cursor(binary=True) as cursor:
        cursor.execute("SELECT 1")
        barrier.wait()
        barrier.wait()
        for low, high in ranges:
            rows = cursor.execute(CLAIM, (low, high)).fetchall()
            bodies = [_body(_decrypt(place, row[1], row[2]), f"probe-{row[0]}", text) for row in rows]
            names = line.send(bodies)
            cursor.execute(RECORD, ([row[0] for row in rows], names))
        barrier.wait()


def _decrypt(place: Place, user_id: str, blob: bytes) -> str:
    aad = f"preferences_device|token_ct|{user_id}".encode()
    return place.keys[blob[1]].decrypt(blob[2:HEADER_BYTES], blob[HEADER_BYTES:], aad).decode()


def _body(token: str, name: str, text: dict[str, str]) -> bytes:
    return orjson.dumps({"message": {"token": token, "notification": text, "data": {"notify_delivery_id": name}}})


class Probe:
    """Takes ``{"step": "prepare", "count", "text"}``, then ``{"step": "go"}``."""

    def __init__(self, place: Place, processes: int) -> None:
        self._place, self._processes = place, processes
        self._crew: list[multiprocessing.Process] = []

    def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        return self._go() if order["step"] == "go" else self._prepare(order["count"], order["text"])

    def _prepare(self, count: int, text: dict[str, str]) -> dict[str, Any]:
        with psycopg.connect(self._place.database_url, autocommit=True) as connection:
            connection.execute(CREATE)
            connection.execute(FILL, [count])
            connection.execute("VACUUM (ANALYZE) bench_probe")
        ranges = [(low, min(low + BATCH - 1, count)) for low in range(1, count + 1, BATCH)]
        self._barrier = multiprocessing.Barrier(self._processes + 1, timeout=TIMEOUT_S)
        self._crew = [
            multiprocessing.Process(
                target=work, args=(self._place, ranges[number :: self._processes], text, self._barrier)
            )
            for number in range(self._processes)
        ]
        for member in self._crew:
            member.start()
        self._barrier.wait()
        return {}

    def _go(self) -> dict[str, Any]:
        started = time.perf_counter()
        self._barrier.wait()
        self._barrier.wait()
        seconds = time.perf_counter() - started
        for member in self._crew:
            member.join()
        with psycopg.connect(self._place.database_url, autocommit=True) as connection:
            row = connection.execute("SELECT count(message_id) FROM bench_probe").fetchone()
        return {"seconds": seconds, "recorded": row[0] if row else 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    run_when_told(Probe(Place.from_environment(), parser.parse_args().processes).obey)


if __name__ == "__main__":
    main()

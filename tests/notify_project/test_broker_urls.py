"""Several addresses in ``BROKER_URL``: a cluster's nodes of which one is away, and Sentinels whose master changes."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis
from celery import current_app

from apps.channels import Channel, Lane
from apps.delivery import doorbell
from apps.delivery.queues import RECEIPTS
from notify_project.broker import check_broker_takes_messages, inspect_queues
from notify_project.local.ports import free_port
from notify_project.local.valkey import _find_binary
from notify_project.settings.broker import read_broker
from notify_project.topology import check_topology, declare_topology
from tests.brokers import BrokerInUse, pointing_at
from tests.observability.probe_tasks import probe
from tests.waiting import wait_for
from tests.workers import WorkerProcess

MASTER = "notify"
PASSWORD = "secret"


def test_options_follow_from_the_url():
    assert read_broker("amqp://a;amqp://b").is_amqp
    assert read_broker("amqp://a").transport_options["confirm_publish"]
    one = read_broker("sentinel://a;sentinel://b", sentinel_master="notify", sentinel_password="p")
    assert not one.is_amqp
    assert one.transport_options["master_name"] == "notify"
    assert one.transport_options["sentinel_kwargs"]["password"] == "p"
    assert "master_name" not in read_broker("redis://a").transport_options


@pytest.mark.django_db(transaction=True)
def test_a_node_that_is_away_is_passed_over(rabbitmq_url, settings):
    url = f"amqp://notify:x@127.0.0.1:{free_port()}//;{rabbitmq_url}"
    with pointing_at(read_broker(url), settings):
        declare_topology()
        assert all(finding.is_well for finding in check_topology())
        broker = BrokerInUse("rabbitmq", url)
        broker.purge()
        check_broker_takes_messages(5)
        assert inspect_queues(5)[RECEIPTS] == 0
        assert doorbell.ring_deliveries([("00000000-0000-7000-8000-000000000000", Channel.SMS, Lane.HIGH)])
        assert doorbell.queue_depth("notif.sms.high") == 1
        assert_consumed(broker.environment)


def assert_consumed(environment, then=lambda worker: None):
    """A worker with this environment takes a task, and another after ``then``."""
    options = {"environment": environment, "include": "tests.observability.probe_tasks"}
    with WorkerProcess([RECEIPTS], **options) as worker:
        probe.apply_async((1,), queue=RECEIPTS, declare=[])
        worker.wait_for_line(lambda line: line.get("number") == 1)
        then(worker)


@dataclass
class Watched:
    """Two Valkeys, the second a replica of the first, and a Sentinel that watches them."""

    home: Path
    processes: dict[str, subprocess.Popen[bytes]]
    ports: dict[str, int]

    @property
    def url(self) -> str:
        # The first Sentinel does not exist: any that answers will do.
        return f"sentinel://:{PASSWORD}@127.0.0.1:{free_port()}/0;sentinel://:{PASSWORD}@127.0.0.1:{self.ports['sentinel']}/0"

    def start(self, name: str, *lines: str, is_sentinel: bool = False) -> None:
        self.ports[name] = free_port()
        folder = self.home / name
        folder.mkdir()
        config = folder / "valkey.conf"
        config.write_text("\n".join((f"port {self.ports[name]}", "bind 127.0.0.1", f"dir {folder}", *lines)) + "\n")
        argv = [str(_find_binary()), str(config), *(["--sentinel"] if is_sentinel else [])]
        with (folder / "log").open("wb") as log:
            self.processes[name] = subprocess.Popen(argv, stdout=log, stderr=log)

    def master(self) -> int | None:
        try:
            with redis.Redis(port=self.ports["sentinel"], socket_timeout=2) as sentinel:
                answer = sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
        except redis.RedisError:
            return None
        return int(answer[1]) if answer else None

    def is_ready(self) -> bool:
        """The Sentinel holds the master for well and knows its replica."""
        try:
            with redis.Redis(port=self.ports["sentinel"], socket_timeout=2) as sentinel:
                master = sentinel.sentinel_master(MASTER)
        except redis.RedisError:
            return False
        return master["flags"] == "master" and master["num-slaves"] == 1


@pytest.fixture
def watched(tmp_path) -> Iterator[Watched]:
    one = Watched(tmp_path, {}, {})
    common = (f"requirepass {PASSWORD}", f"masterauth {PASSWORD}", 'save ""')
    one.start("first", *common)
    one.start("second", *common, f"replicaof 127.0.0.1 {one.ports['first']}")
    one.start(
        "sentinel",
        f"sentinel monitor {MASTER} 127.0.0.1 {one.ports['first']} 1",
        f"sentinel auth-pass {MASTER} {PASSWORD}",
        f"sentinel down-after-milliseconds {MASTER} 5000",  # a busy machine must not look like a dead master
        f"sentinel failover-timeout {MASTER} 5000",
        is_sentinel=True,
    )
    wait_for(one.is_ready, timeout_s=60)
    yield one
    for process in one.processes.values():
        process.kill()
        process.wait(10)


@pytest.mark.django_db(transaction=True)
def test_when_the_master_dies_publishing_and_consuming_go_on_at_the_next(watched, settings):
    def kill_master(worker):
        watched.processes["first"].kill()
        wait_for(lambda: watched.master() == watched.ports["second"], watched.master, timeout_s=60)
        wait_for(ring_again, worker.tail)
        wait_for(lambda: doorbell.queue_depth(RECEIPTS) == 0, worker.tail)
        worker.wait_for_line(lambda line: line.get("number") == 2)

    def ring_again():
        doorbell.reset()
        return doorbell.ring("tests.probe", [2], RECEIPTS)

    environment = {"BROKER_URL": watched.url, "BROKER_SENTINEL_MASTER": MASTER}
    with pointing_at(read_broker(watched.url, sentinel_master=MASTER), settings):
        check_broker_takes_messages(5)
        assert_consumed(environment, kill_master)
        check_broker_takes_messages(5)
        assert inspect_queues(5)[RECEIPTS] == 0
    current_app.pool.force_close_all()

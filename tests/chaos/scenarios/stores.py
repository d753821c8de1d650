"""Broker, cache and database: stopped, killed, emptied, restarted."""

from apps.delivery.queues import DELIVERY_QUEUES
from notify_project.local import roles
from tests.chaos import faults
from tests.chaos.limits import ANSWER_P99_MS, RECOVERY_S, Limits
from tests.chaos.rigs import ClusterRig, ProxiedRig, SmallDiskRig
from tests.chaos.run import Run, Scenario

BROKER_RESTARTS = 10


def lose_broker(run: Run) -> None:
    """Away for most of the time there is, then killed, then restarted again and again."""
    with run.broken("broker stopped"):
        run.rig.stack.stop_role(roles.BROKER, grace_s=20)
        run.pause(run.seconds)
        _start_broker(run)
    run.pause(4.0)
    with run.broken("broker killed"):
        faults.kill_now(run.rig, roles.BROKER)
        _start_broker(run)
    for number in run.times(BROKER_RESTARTS):
        run.pause(1.0, 3.0)
        with run.broken(f"broker restarted ({number + 1})"):
            run.rig.stack.stop_role(roles.BROKER, grace_s=20)
            _start_broker(run)


def _start_broker(run: Run) -> None:
    run.rig.stack.start_role(roles.BROKER)
    faults.wait_until_up(run.rig, roles.BROKER)


def empty_stores(run: Run) -> None:
    while run.has_time:
        run.pause(2.0, 5.0)
        with run.broken("broker emptied"):
            faults.empty_broker(run.rig)
        run.pause(1.0, 2.0)
        with run.broken("cache emptied"), run.rig.cache() as cache:
            cache.flushall()


def crash_database(run: Run) -> None:
    while run.has_time:
        run.broadcast()
        run.pause(4.0, 8.0)
        with run.broken("database crashed"):
            faults.crash_database(run.rig)
        run.note_in_flight("database crashed")


def stop_the_clock(run: Run) -> None:
    """Nobody sweeps while the broker forgets everything; then far too many sweeps at once."""
    with run.broken("beat stopped, broker emptied"):
        run.rig.stack.stop_role(roles.BEAT)
        run.pause(run.seconds / 2)
        faults.empty_broker(run.rig)
        run.pause(run.seconds / 2)
        run.rig.stack.start_role(roles.BEAT)
    postman = faults.Postman(run.rig)
    for _ in range(5):
        postman.send("notify.sweep", [], "notif.maintenance", times=8)
        run.pause(0.5)
    postman.close()


def fall_silent(run: Run) -> None:
    """The network between the platform and each store in turn swallows everything and hangs up on nobody."""
    assert isinstance(run.rig, ProxiedRig)
    proxy = run.rig.proxy
    for name in ("broker", "cache", "database"):
        run.pause(3.0, 5.0)
        with run.broken(f"{name} silent"):
            proxy.silence(name)
            run.pause(run.seconds / 3)
            proxy.restore(name)
        if name == "database":
            run.note_in_flight("database silent")


def double_messages(run: Run) -> None:
    """Every doorbell rings twice more, at once and again later, as a broker that delivers at least once may do."""
    postman = faults.Postman(run.rig)
    known = 0
    while run.has_time:
        run.pause(0.3)
        records = run.accepted_so_far()
        fresh, again = records[known:], records[max(0, known - 200) : known]
        known = len(records)
        ids = [one for record in (*fresh, *again) for one in record.delivery_ids]
        for start in range(0, len(ids), 100):
            queue = run.dice.choice(DELIVERY_QUEUES)
            postman.send("notify.deliver", [ids[start : start + 100]], queue, times=2)
    postman.close()


def fill_disks(run: Run) -> None:
    """First the database's, then the broker's."""
    rig = run.rig
    assert isinstance(rig, SmallDiskRig)
    run.pause(3.0)
    with run.broken("database disk full"):
        rig.fill_disk()
        run.pause(run.seconds / 2)
        rig.empty_disk()
        faults.wait_until_up(rig, roles.POSTGRES)
    run.note_in_flight("database disk full")
    run.pause(10.0)
    with run.broken("broker full"), faults.full_broker(rig):
        run.pause(run.seconds / 2)


def lose_nodes(run: Run) -> None:
    """Any of the three nodes, those with the queues' leaders and the clients' connections among them."""
    rig = run.rig
    assert isinstance(rig, ClusterRig)
    while run.has_time:
        run.pause(3.0, 6.0)
        number = run.dice.randrange(len(rig.cluster.nodes))
        with run.broken(f"node {number} killed"):
            rig.cluster.kill(number)
            run.pause(4.0, 8.0)
        rig.cluster.start_node(number)


SCENARIOS = (
    Scenario(
        number=3,
        name="broker-away",
        title=f"Broker stopped, killed, restarted {BROKER_RESTARTS} times",
        act=lose_broker,
        seconds=30,
        limits=Limits(answer_p99_ms=ANSWER_P99_MS, recovery_s=RECOVERY_S),
    ),
    Scenario(number=4, name="emptied-stores", title="FLUSHALL of broker and cache", act=empty_stores, seconds=25),
    Scenario(
        number=5,
        name="database-crash",
        title="PostgreSQL stopped with -m immediate",
        act=crash_database,
        seconds=30,
        limits=Limits(recovery_s=RECOVERY_S),
    ),
    Scenario(
        number=9,
        name="half-open",
        title="Connections to broker, cache, database fall silent",
        act=fall_silent,
        rig="proxied",
        seconds=45,
    ),
    Scenario(
        number=14,
        name="cluster-node",
        title="RabbitMQ cluster of three, a node killed again and again",
        act=lose_nodes,
        rig="cluster",
        brokers=("rabbitmq",),
        seconds=40,
        limits=Limits(answer_p99_ms=ANSWER_P99_MS),
    ),
    Scenario(
        number=15,
        name="full-disks",
        title="Disk of the database full, then of the broker",
        act=fill_disks,
        rig="small-disk",
        seconds=30,
        settle_s=120,
    ),
    Scenario(number=16, name="doubled-messages", title="Every message twice more", act=double_messages, seconds=15),
    Scenario(
        number=13, name="no-sweep", title="Beat dead for a minute, eight sweeps at once", act=stop_the_clock, seconds=60
    ),
)

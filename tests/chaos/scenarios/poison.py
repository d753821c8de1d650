"""What must not be processed: rows that kill their worker or cannot be read, and messages that mean nothing."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg

from apps.delivery.queues import ALL_QUEUES
from apps.delivery.statuses import OPEN_STATUSES, Reason, Status
from notify_project.local import roles
from tests.chaos import faults
from tests.chaos.rig import HarnessError, wait_for
from tests.chaos.run import Run, Scenario

KILLER = "chaos-killer"
KILLER_TOKEN = f"{KILLER}-device-" + "e9F0" * 30
CLAIM_TIMEOUT_S = 180.0  # behind whatever else waits
CALL_TAKES_MS = 1_500  # time to see that it is being sent, and to kill its worker


def poison(run: Run) -> Callable[[], None]:
    rig = run.rig
    _throw_garbage(run)
    unreadable = _send_unreadable(run)
    killer = _send_killer(run)

    def look_closer() -> None:
        for name, delivery_id in (("killer", killer), ("unreadable one", unreadable)):
            ((status, reason),) = rig.query("SELECT status, reason FROM delivery WHERE id = %s", UUID(delivery_id))
            is_dead = (status, reason) == (Status.DEAD, Reason.POISON)
            run.expect(is_dead, f"the {name} is {Status(status).label}, not dead as poison")

    return look_closer


def _throw_garbage(run: Run) -> None:
    """Nobody's work: it must neither stop a worker nor stay in its way."""
    rig = run.rig
    before = rig.stack.pids()
    with_id = {"lang": "py", "root_id": None, "parent_id": None, "group": None, "argsrepr": "", "kwargsrepr": ""}
    deliver = {**with_id, "task": "notify.deliver"}
    garbage = [
        (b"{not json", "application/json", {**deliver, "id": str(uuid4())}),
        (b"\xff\xfe\x00", "application/json", {**deliver, "id": str(uuid4())}),
        (b"[[], {}, {}]", "application/json", {**with_id, "task": "notify.no_such_task", "id": str(uuid4())}),
        (b'[["no list"], {}, {}]', "application/json", {**deliver, "id": str(uuid4())}),
        (b'[[["not-a-uuid"]], {}, {}]', "application/json", {**deliver, "id": str(uuid4())}),
        (b"[[1, 2, 3], {}, {}]", "application/json", {**deliver, "id": str(uuid4())}),
        (b"\x80\x04K\x01.", "application/x-python-serialize", {**deliver, "id": str(uuid4())}),
        (b"hello", "text/plain", {}),
    ]
    postman = faults.Postman(rig)
    for queue in ALL_QUEUES:
        postman.send_raw(garbage, queue)
    postman.close()
    run.notes["garbage"] = len(garbage) * len(ALL_QUEUES)
    run.pause(5.0)
    died = [role for role in roles.WORKER_ROLES if rig.stack.pids()[role] != before[role]]
    run.expect(not died, f"garbage ended {', '.join(died)}")


def _send_unreadable(run: Run) -> str:
    """A notification whose content is spoiled in the database before its time has come."""
    rig = run.rig
    body = {
        "user_id": "chaos-0",
        "type": "chaos.poison",
        "priority": "bulk",
        "channels": ["push"],
        "content": {"title": "Poison", "body": "Unreadable"},
        "send_at": (datetime.now(UTC) + timedelta(seconds=5)).isoformat(),
    }
    accepted = rig.call("POST", "/v1/notifications", body, key=uuid4().hex).json()
    rig.execute("UPDATE notification SET content_ct = 'spoiled' WHERE id = %s", UUID(accepted["id"]))
    return str(accepted["deliveries"][0]["id"])


def _send_killer(run: Run) -> str:
    """A notification whose worker dies each time it is about to be sent. Nothing else is done about it, and yet it must
    be dead in the end."""
    rig = run.rig
    device = {"token": KILLER_TOKEN, "platform": "android"}
    rig.call("PUT", "/v1/users:bulk", {"users": [{"user_id": KILLER, "devices": [device]}]})
    slow = {"mode": "outage", "latency_ms": CALL_TAKES_MS, "match": {"address": KILLER_TOKEN}}
    rig.sandbox("PUT", "faults/fcm", [slow])
    body = {
        "user_id": KILLER,
        "type": "chaos.poison",
        "priority": "bulk",
        "channels": ["push"],
        "content": {"title": "Poison", "body": "Kills its worker"},
    }
    accepted = rig.call("POST", "/v1/notifications", body, key=uuid4().hex).json()
    delivery_id = str(accepted["deliveries"][0]["id"])
    began = time.monotonic()
    run.notes["killed_workers"] = _kill_its_workers(run, UUID(delivery_id))
    run.notes["dead_after_s"] = round(time.monotonic() - began, 1)
    return delivery_id


def _kill_its_workers(run: Run, delivery_id: UUID) -> int:
    """Kills whoever sends the delivery, as soon as the sandbox has the call; until nobody does any more. Returns how
    often."""
    deaths = 0
    with psycopg.connect(run.rig.database_url, autocommit=True) as connection:

        def is_over() -> bool:
            row = connection.execute("SELECT status FROM delivery WHERE id = %s", [delivery_id]).fetchone()
            return row is not None and row[0] not in OPEN_STATUSES

        def is_called_or_over() -> bool:
            return run.rig.sandbox("GET", "faults/fcm").json()[0]["hits"] > deaths or is_over()

        while wait_for(is_called_or_over, timeout_s=CLAIM_TIMEOUT_S, poll_s=0.05):
            if is_over():
                return deaths
            deaths += 1
            run.kill_worker(roles.BULK)
    raise HarnessError(f"the killer was sent {deaths} times and then never again, and is not at its end")


SCENARIOS = (
    Scenario(
        number=11,
        name="poison",
        title="Poison: a killer of workers, unreadable content, bad JSON, unknown tasks",
        act=poison,
        rig="short-lease",
    ),
)

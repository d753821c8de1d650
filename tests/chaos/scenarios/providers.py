"""Providers that are slow, fail, throttle, vanish, or take a message and do not say so; and their receipts."""

import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from apps.delivery.statuses import Status
from tests.chaos.client import Load
from tests.chaos.limits import Limits
from tests.chaos.receipts import Event, ReceiptPoster
from tests.chaos.rig import wait_for
from tests.chaos.run import Run, Scenario

FIRST_CHOICES = ("fcm", "twilio", "sendgrid")
FAULTS: dict[str, dict[str, Any]] = {
    "half of the calls answer 503": {"mode": "error", "status": 503, "error_rate": 0.5},
    "every call takes 10 s": {"mode": "delay", "latency_ms": 10_000},
    "every call answers 429": {"mode": "throttle", "retry_after_s": 2},
    "outage": {"mode": "outage"},
}
RECEIPTS = 10_000
TELLINGS = 5
SENDGRID_ID = 5  # in settings.PROVIDERS, for good


def hurt_providers(run: Run) -> Callable[[], None]:
    """SMS and e-mail fail over to the next provider; a push has no other and waits."""
    for name, rule in FAULTS.items():
        with run.broken(name):
            for provider in FIRST_CHOICES:
                run.rig.sandbox("PUT", f"faults/{provider}", [rule | {"seed": run.label}])
            run.pause(run.seconds / len(FAULTS))
            run.rig.calm_sandbox()

    return lambda: _replay_the_dead(run)


def _replay_the_dead(run: Run) -> None:
    """What used up its attempts is on record, and goes out when somebody asks for it."""
    answer = run.rig.call("POST", "/v1/dead-letters/replay", {"filter": {}, "rate_per_s": 500}).json()
    run.notes["replayed"] = answer["replayed"]
    wait_for(lambda: run.rig.open_since(run.first_id) == 0, timeout_s=60)


def drop_answers(run: Run) -> None:
    """The provider takes the message and cuts the line: nobody can know, and it may be sent again."""
    before = run.rig.dropped()
    with run.broken("accepted, then cut off"):
        for provider in FIRST_CHOICES:
            rule = {"mode": "drop", "error_rate": 0.1, "seed": f"{run.label}{provider}"}
            run.rig.sandbox("PUT", f"faults/{provider}", [rule])
        run.pause(run.seconds)
        run.notes["dropped"] = run.rig.dropped() - before
        run.rig.calm_sandbox()
    run.expect(run.notes["dropped"] > 0, "the sandbox cut no call off")


def flood_with_receipts(run: Run) -> Callable[[], None]:
    """Every tenth delivery is spoken of by forged receipts alone; of the others, a tenth also has forged bounces."""
    rig = run.rig
    rig.sandbox("PUT", "receipts/sendgrid", {"enabled": False})
    low = UUID(int=int(time.time() * 1000) << 80)  # of what came before the sandbox may speak itself
    wait_for(lambda: len(_sent(run, low)) >= RECEIPTS, timeout_s=run.seconds, poll_s=0.5)
    run.client.begin_stop()
    chosen = sorted(_sent(run, low))[:RECEIPTS]
    run.dice.shuffle(chosen)
    unheard, heard = chosen[: len(chosen) // 10], chosen[len(chosen) // 10 :]
    events = [Event(one, word) for one in heard for word in ("delivered",) * TELLINGS]
    events += [Event(one, "processed") for one in heard]  # says nothing new, whenever it comes
    events += [Event(one, "delivered", is_forged=True) for one in unheard]
    events += [Event(one, "bounce", is_forged=True) for one in heard[: len(heard) // 10]]
    run.dice.shuffle(events)
    poster = ReceiptPoster(rig.stack.data_dir / "sandbox", rig.options.home, rig.stack.urls["web"])
    poster.post(events, run.dice)
    run.notes |= {"receipts": len(events), "forged": sum(event.is_forged for event in events)}
    wrong = {answer: n for answer, n in poster.answers.items() if answer not in ((False, 204), (True, 403))}
    run.expect(not wrong, f"receipts were answered {wrong}")

    def look_closer() -> None:
        wait_for(lambda: not rig.query("SELECT 1 FROM receipt_event WHERE applied_at IS NULL LIMIT 1"), timeout_s=60)
        status_of = rig.statuses_of(chosen)
        not_told = sum(status_of[one] != Status.DELIVERED for one in heard)
        forged_applied = sum(status_of[one] != Status.SENT for one in unheard)
        told = [Event(one, "delivered").event_id for one in heard]
        ((stored,),) = rig.query("SELECT count(*) FROM receipt_event WHERE event_id = ANY(%s)", told)
        run.notes |= {"forged_applied": forged_applied, "not_applied": not_told, "stored": stored}
        run.expect(forged_applied == 0, f"{forged_applied} forged receipts were applied")
        run.expect(not_told == 0, f"{not_told} deliveries are not delivered although their receipts say so")
        run.expect(stored == len(heard), f"{stored} receipts stored, not {len(heard)}")

    return look_closer


def _sent(run: Run, low: UUID) -> list[str]:
    """Deliveries from ``low`` on that SendGrid has, and of which nobody has said that they arrived."""
    rows = run.rig.query("SELECT id FROM delivery WHERE id >= %s AND status = 3 AND provider = %s", low, SENDGRID_ID)
    return [str(delivery_id) for (delivery_id,) in rows]


SCENARIOS = (
    Scenario(
        number=6,
        name="ill-providers",
        title="Providers: half 503, 10 s latency, 429, outage",
        act=hurt_providers,
        seconds=60,
        settle_s=120,
        limits=Limits(unknown=None),
    ),
    Scenario(
        number=7,
        name="dropped-answers",
        title="Accepted, then cut off",
        act=drop_answers,
        seconds=20,
        limits=Limits(unknown=None),
    ),
    Scenario(
        number=10,
        name="receipts",
        title=f"{RECEIPTS:,} receipts told {TELLINGS} times, shuffled, some forged",
        act=flood_with_receipts,
        seconds=30,
        load=Load(singles_per_s=20, batches_per_s=4, batch_size=500, channels=("email",), streams=0, is_fanned=False),
    ),
)

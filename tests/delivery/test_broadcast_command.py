"""``manage.py broadcast``."""

import io
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from rich.console import Console

from apps.delivery.broadcasts import following, services
from apps.delivery.broadcasts.following import follow, to_line
from apps.delivery.broadcasts.models import Broadcast, State
from apps.delivery.broadcasts.progress import Progress
from apps.delivery.models import AudienceUpload, Delivery
from apps.delivery.statuses import Status
from apps.providers.messages import ProviderResponse
from tests.delivery.broadcasts import make_order, run_messages
from tests.preferences.factories import RecipientFactory

pytestmark = pytest.mark.django_db
REFUSED = ProviderResponse(400, {"content-type": "application/json"}, b'{"error": {"status": "INVALID_ARGUMENT"}}')


def run(*arguments: Any) -> str:
    out = io.StringIO()
    call_command("broadcast", *(str(argument) for argument in arguments), stdout=out)
    return out.getvalue()


def create(client, *arguments: Any) -> str:
    return run("create", "--client", client.name, "--channel", "push", "--title", "News", "--body", "Read", *arguments)


@pytest.fixture
def broadcast(client_row):
    return services.create(make_order(client_row))


@pytest.fixture
def working(monkeypatch):
    """What the workers do happens while the command waits."""
    monkeypatch.setattr(following.time, "sleep", lambda seconds: run_messages())


def test_orders_for_everybody_and_follows_to_the_end(client_row, wire, working):
    people = [RecipientFactory() for _ in range(3)]
    first, *lines = create(client_row, "--everybody", "--follow").splitlines()
    assert Broadcast.objects.get(id=first).state == State.COMPLETED
    assert len(wire.addresses) == len(people)
    assert " scheduled 0/0+ " in lines[0]
    assert " completed 3/3 100.0% " in lines[-1]
    assert lines[-1].endswith("sent=3")


def test_orders_what_the_options_say(client_row):
    send_at = datetime.now(UTC) + timedelta(days=3)
    broadcast_id = create(
        client_row,
        *("--channel", "email", "--name", "Name", "--type", "news", "--category", "marketing"),
        *("--filter", '{"locale": "de"}', "--rate", "50", "--canary", "0.01", "--max-error-rate", "0.2"),
        *("--send-at", send_at.isoformat(), "--expires-at", "2999-01-01"),
    ).strip()
    row = Broadcast.objects.get(id=broadcast_id)
    assert (row.name, row.type, row.category, row.channels) == ("Name", "news", "marketing", [1, 3])
    assert (row.rate_per_s, row.canary_share, row.max_error_rate) == (50, 0.01, 0.2)
    assert (row.send_at, row.expires_at) == (send_at, datetime(2999, 1, 1, tzinfo=UTC))
    assert row.audience == {"filter": {"locale": "de"}}
    assert row.client == client_row


@pytest.mark.parametrize(
    ("name", "text"), [("people.csv", "user_id\nuser-1\nnobody\n"), ("people.ndjson", '{"user_id": "user-1"}\n')]
)
def test_takes_a_file_of_people(client_row, wire, tmp_path, name, text):
    RecipientFactory(user_id="user-1")
    RecipientFactory(user_id="user-2")
    path = tmp_path / name
    path.write_text(text)
    create(client_row, "--users", path)
    run_messages()
    assert [row.recipient.user_id for row in Delivery.objects.all()] == ["user-1"]
    assert AudienceUpload.objects.get().is_complete


def test_a_dry_run_counts_and_leaves_nothing(client_row, tmp_path):
    RecipientFactory(user_id="user-1")
    path = tmp_path / "people.csv"
    path.write_text("user-1\n")
    answer = json.loads(create(client_row, "--users", path, "--dry-run"))
    assert answer["channels"]["push"]["reachable"] == {"count": 1, "is_estimate": False}
    assert Broadcast.objects.count() == AudienceUpload.objects.count() == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--filter", "{"), "--filter is not JSON"),
        (("--filter", '{"plan": "pro"}'), "/audience/filter/plan"),
        (("--users", "/nowhere/people.csv"), "No such file"),
        (("--everybody", "--rate", "0"), "/rate_per_s"),
        (("--everybody", "--canary", "2"), "/canary/share"),
        (("--everybody", "--category", "nonsense"), "/category"),
        (("--everybody", "--expires-at", "2020-01-01"), "/expires_at"),
        (("--everybody", "--send-at", "soon"), "--send-at"),
        (("--everybody", "--filter", "{}"), "not allowed with"),
        ((), "required"),
    ],
)
def test_says_what_is_wrong(client_row, arguments, words):
    with pytest.raises(CommandError, match=re.escape(words)):
        create(client_row, *arguments)
    assert Broadcast.objects.count() == AudienceUpload.objects.count() == 0


def test_needs_a_client_there_is(client_row):
    with pytest.raises(CommandError, match="no client"):
        run("create", "--client", "nobody", "--channel", "push", "--body", "b", "--everybody")


def test_steers_shows_and_lists(broadcast):
    assert run("pause", broadcast.id) == "paused\n"
    assert run("resume", broadcast.id) == "scheduled\n"
    shown = json.loads(run("show", broadcast.id))
    assert (shown["id"], shown["state"], shown["progress"]["done"]) == (str(broadcast.id), "scheduled", 0)
    assert str(broadcast.id) in run("list")
    assert "News" in run("list", "--state", "scheduled")
    assert "News" not in run("list", "--state", "running")
    assert run("cancel", broadcast.id) == "cancelled\n"
    with pytest.raises(CommandError, match="the broadcast is cancelled"):
        run("resume", broadcast.id)


@pytest.mark.parametrize("verb", ["show", "pause", "resume", "cancel", "retry-failed"])
def test_one_that_is_not_there(verb):
    with pytest.raises(CommandError, match="there is no"):
        run(verb, uuid4())


def test_tries_what_failed_again(broadcast, wire):
    RecipientFactory()
    wire.answer = lambda provider, request: REFUSED
    run_messages()
    assert run("retry-failed", broadcast.id) == "1 deliveries are tried again\n"


def test_ctrl_c_leaves_it_running_and_says_so(broadcast, monkeypatch):
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(following.time, "sleep", interrupt)
    said = run("show", broadcast.id, "--follow")
    assert "The broadcast goes on" in said
    assert f"broadcast pause {broadcast.id}" in said
    broadcast.refresh_from_db()
    assert broadcast.state == State.SCHEDULED


def test_following_ends_when_it_halts_by_itself(broadcast):
    Broadcast.objects.update(state=State.HALTED, state_reason="40 % failed", state_since=datetime.now(UTC))
    with pytest.raises(CommandError, match="halted: 40 % failed"):
        run("show", broadcast.id, "--follow")


def test_draws_a_bar_on_a_terminal(broadcast, wire, working):
    RecipientFactory()
    console = Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None)
    figures = follow(lambda: Broadcast.objects.get(id=broadcast.id), console)
    assert figures.state is State.COMPLETED
    drawn = console.file.getvalue()
    assert "━" in drawn
    assert "100%" in drawn
    assert "sent 1" in drawn


def test_a_line_says_it_all():
    at = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
    figures = Progress(
        state=State.RUNNING, recipients=10_000, is_planned=True, done=2_500, chunks_waiting=15, chunks_claimed=0,
        chunks_done=5, counts={Status.SUPPRESSED: 7, Status.SENT: 2_493}, rate_per_s=812.4,
        eta=at + timedelta(seconds=75.2), canary="over", error_rate=0.0, halted_reason="", as_of=at,
    )  # fmt: skip
    expected = "12:00:00 running 2,500/10,000 25.0% 812/s sent=2,493 suppressed=7 left=0:01:15"
    assert to_line(figures) == expected

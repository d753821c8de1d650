"""``manage.py broadcast``: order broadcasts, follow them and steer them from a terminal."""

import json
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast
from uuid import UUID

import msgspec
import orjson
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from rich.console import Console
from rich.table import Table

from apps.channels import CHANNEL_LABELS, Channel
from apps.clients.models import Client
from apps.delivery.api.broadcast_answers import STATES, describe_broadcast, describe_preview
from apps.delivery.api.broadcast_bodies import BroadcastBody, to_broadcast_order
from apps.delivery.api.requests import decode_body
from apps.delivery.broadcasts import acceptance, services
from apps.delivery.broadcasts.following import follow
from apps.delivery.broadcasts.models import Broadcast, State
from apps.delivery.broadcasts.reports import select_broadcasts
from apps.delivery.broadcasts.selectors import find_broadcast
from apps.delivery.broadcasts.uploads import create_upload
from apps.preferences.import_formats import Format
from apps.problems import Problem
from apps.trace import new_trace_id

LIST_MAX = 20
_STEERING = {"pause": services.pause, "resume": services.resume, "cancel": services.cancel}


class Command(BaseCommand):
    help = "Orders a broadcast, or shows, follows and steers one."

    def add_arguments(self, parser: ArgumentParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        create = verbs.add_parser("create", help="order one")
        create.add_argument("--client", required=True, help="the client's name")
        create.add_argument("--name", help="for people (default: the title)")
        create.add_argument("--channel", action="append", required=True, choices=CHANNEL_LABELS, help="may be repeated")
        create.add_argument("--title", default="")
        create.add_argument("--body", required=True)
        create.add_argument("--type", default="broadcast")
        create.add_argument("--category", default="")
        audience = create.add_mutually_exclusive_group(required=True)
        audience.add_argument("--everybody", action="store_true")
        audience.add_argument("--filter", help='a filter as JSON, e.g. \'{"locale": "de"}\'')
        audience.add_argument("--users", type=Path, help="a file of user ids: CSV, or NDJSON if it is named .ndjson")
        create.add_argument("--rate", type=int, help="recipients a second")
        create.add_argument("--canary", type=float, default=0.0, help="share of the people who get it first, e.g. 0.01")
        create.add_argument("--max-error-rate", type=float, help="halt beyond it (default with a canary: 0.1)")
        create.add_argument("--send-at", type=_moment)
        create.add_argument("--expires-at", type=_moment)
        create.add_argument("--dry-run", action="store_true", help="count the people, send nothing")
        _add_follow(create)
        listing = verbs.add_parser("list", help="the latest ones")
        listing.add_argument("--state", choices=list(STATES))
        for verb, words in (
            ("show", "one as JSON"),
            ("pause", "send nothing more until it is resumed"),
            ("resume", "go on with it"),
            ("cancel", "send nothing more, for good"),
            ("retry-failed", "send what failed once more"),
        ):
            one = verbs.add_parser(verb, help=words)
            one.add_argument("id", type=UUID)
            _add_follow(one)

    def handle(self, *args: Any, **options: Any) -> None:
        with _told_in_words():
            if options["verb"] == "list":
                self._list(options)
            elif options["verb"] == "create":
                self._create(options)
            else:
                self._steer(options)

    def _create(self, options: dict[str, Any]) -> None:
        client = Client.objects.filter(name=options["client"]).first()
        if client is None:
            raise CommandError(f"there is no client {options['client']!r}")
        now = datetime.now(UTC)
        with transaction.atomic():
            body = decode_body({**_to_body(options), "audience": _to_audience(options, client)}, BroadcastBody)
            order = to_broadcast_order(client.pk, body, new_trace_id())
            if options["dry_run"]:
                self._say(describe_preview(acceptance.preview(order, now=now)))
                transaction.set_rollback(True)  # an uploaded file is not kept
                return
            checked, audience, _ = acceptance.check_order(order, now=now)
            broadcast = acceptance.create(checked, audience)
        self.stdout.write(str(broadcast.id))
        self._follow(broadcast.id, options)

    def _steer(self, options: dict[str, Any]) -> None:
        broadcast_id, verb = options["id"], options["verb"]
        if verb == "retry-failed":
            self.stdout.write(f"{services.retry_failed(broadcast_id)} deliveries are tried again")
        elif verb in _STEERING:
            self.stdout.write(_state_name(_STEERING[verb](broadcast_id)))
        elif not options["follow"]:
            self._say(describe_broadcast(_find(broadcast_id)))
        self._follow(broadcast_id, options)

    def _list(self, options: dict[str, Any]) -> None:
        state = STATES.get(options["state"] or "")
        table = Table(box=None, pad_edge=False)
        table.add_column("id", min_width=36)  # whole, for copying
        for name in ("name", "client", "state", "channels", "recipients", "created"):
            table.add_column(name)
        for row in select_broadcasts(None, state=state, limit=LIST_MAX):
            channels = ", ".join(Channel(number).label for number in row.channels)
            created = f"{row.created_at:%Y-%m-%d %H:%M}"
            table.add_row(
                str(row.id), row.name, row.client.name, _state_name(row), channels, f"{row.recipients:,}", created
            )
        self._console().print(table)

    def _console(self) -> Console:
        file = cast(IO[str], self.stdout._out)  # past Django's own line ends
        return Console(file=file, width=None if file.isatty() else 200)

    def _say(self, answer: msgspec.Struct) -> None:
        self.stdout.write(json.dumps(msgspec.to_builtins(answer), indent=2))

    def _follow(self, broadcast_id: UUID, options: dict[str, Any]) -> None:
        if not options["follow"]:
            return
        try:
            last = follow(lambda: _find(broadcast_id), self._console())
        except KeyboardInterrupt:
            self.stdout.write(
                f"\nThe broadcast goes on. To see it again: manage.py broadcast show {broadcast_id} --follow\n"
                f"To hold it: manage.py broadcast pause {broadcast_id}"
            )
            return
        if last.state is State.HALTED:
            raise CommandError(f"halted: {last.halted_reason}\nmanage.py broadcast resume or cancel {broadcast_id}")


def _add_follow(parser: ArgumentParser) -> None:
    parser.add_argument("--follow", action="store_true", help="watch it to its end; Ctrl-C stops watching, not it")


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@contextmanager
def _told_in_words() -> Iterator[None]:
    try:
        yield
    except Problem as problem:
        places = "".join(f"\n  {error.pointer or '/'}: {error.detail}" for error in problem.errors)
        raise CommandError(f"{problem.detail}{places}" if len(problem.errors) != 1 else places.strip()) from None


def _find(broadcast_id: UUID) -> Broadcast:
    broadcast = find_broadcast(broadcast_id)
    if broadcast is None:
        raise CommandError(f"there is no broadcast {broadcast_id}")
    return broadcast


def _state_name(broadcast: Broadcast) -> str:
    return State(broadcast.state).name.lower()


def _to_body(options: dict[str, Any]) -> dict[str, Any]:
    """The options as the API takes them, so that both are checked alike."""
    body = {
        "name": options["name"] or options["title"] or options["type"],
        "type": options["type"],
        "category": options["category"],
        "channels": options["channel"],
        "content": {"title": options["title"], "body": options["body"]},
        "send_at": options["send_at"],
        "expires_at": options["expires_at"],
        "rate_per_s": options["rate"],
    }
    if options["canary"] or options["max_error_rate"] is not None:
        body["canary"] = {"share": options["canary"]}
        if options["max_error_rate"] is not None:
            body["canary"]["max_error_rate"] = options["max_error_rate"]
    return {name: value for name, value in body.items() if value is not None}


def _to_audience(options: dict[str, Any], client: Client) -> Any:
    if options["everybody"]:
        return {"everybody": True}
    if options["filter"] is not None:
        try:
            return {"filter": orjson.loads(options["filter"])}
        except orjson.JSONDecodeError as error:
            raise CommandError(f"--filter is not JSON: {error}") from None
    path: Path = options["users"]
    format_ = Format.NDJSON if path.suffix == ".ndjson" else Format.CSV
    try:
        upload, _ = create_upload(client.pk, format_, path.read_bytes(), name=path.name)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None
    return {"upload_id": str(upload.id)}

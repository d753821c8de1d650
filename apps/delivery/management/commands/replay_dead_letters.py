"""``manage.py replay_dead_letters``: puts dead deliveries back into the queue, with a progress bar."""

from argparse import ArgumentParser
from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from apps.channels import CHANNEL_LABELS, Channel
from apps.delivery.dead_letters import REPLAY_MAX, REPLAY_RATE_PER_S, DeadLetterFilter, replay_matching
from apps.delivery.statuses import Reason
from apps.providers.registry import get_provider


class Command(BaseCommand):
    help = "Puts dead deliveries back into the queue. Without options: all of them, 100 due in each second."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--provider", help="only what died at this provider")
        parser.add_argument("--channel", choices=CHANNEL_LABELS)
        parser.add_argument("--reason", choices=["attempts_used_up", "poison"])
        parser.add_argument("--error-code", help="only what died of this code")
        parser.add_argument("--client", type=int, help="only this client's, by id")
        parser.add_argument("--since", type=_moment, help="accepted at or after, e.g. 2026-11-22T18:00:00Z")
        parser.add_argument("--until", type=_moment, help="accepted before")
        parser.add_argument("--rate", type=float, default=REPLAY_RATE_PER_S, help="due in each second (default 100)")
        parser.add_argument("--limit", type=int, default=REPLAY_MAX, help=f"at most so many (default {REPLAY_MAX})")

    def handle(self, *args: Any, **options: Any) -> None:
        wanted = DeadLetterFilter(
            client_id=options["client"],
            provider_id=_provider_id(options["provider"]),
            channel=Channel.from_label(options["channel"]) if options["channel"] else None,
            reason=Reason[options["reason"].upper()] if options["reason"] else None,
            error_code=options["error_code"],
            since=options["since"],
            until=options["until"],
        )
        if options["rate"] <= 0:
            raise CommandError("--rate must be above 0")
        total = 0
        columns = (SpinnerColumn(), TextColumn("{task.completed} put back"), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task("", total=None)
            for count in replay_matching(wanted, rate_per_s=options["rate"], limit=options["limit"]):
                total += count
                progress.update(task, completed=total)
        self.stdout.write(f"{total} dead deliveries put back, {options['rate']:g} due in each second")


def _provider_id(alias: str | None) -> int | None:
    if alias is None:
        return None
    try:
        return get_provider(alias).id
    except KeyError:
        raise CommandError(f"there is no provider {alias!r} in the settings") from None


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("needs an offset")
    return moment

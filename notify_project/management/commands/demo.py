"""``manage.py demo``: 300 mixed notifications through the running stack, followed to their end."""

import json
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from notify_project.demo.report import summarise, to_tables
from notify_project.demo.traffic import OPEN_STATUSES, DemoError, Traffic

SHOWN_IDS = 20


class Command(BaseCommand):
    help = (
        "Sends mixed notifications (all channels, both lanes, some people opted out, one provider failing now and "
        "then) through a stack started with `make run`, follows them and prints what became of them. Exits 1 if "
        "anything accepted is not terminal in time."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--count", type=int, default=300, help="how many notifications (default 300)")
        parser.add_argument("--timeout", type=float, default=120.0, help="seconds to wait for the last one")
        parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
        parser.add_argument("--no-fault", action="store_true", help="leave the SMS provider well")

    def handle(self, *args: Any, **options: Any) -> None:
        console = Console(stderr=options["json"])
        traffic = Traffic(api_url=settings.PUBLIC_URL, api_key=self._read_key(), sandbox_url=settings.SANDBOX_URL)
        try:
            figures = self._run(traffic, console, options)
        except DemoError as error:
            raise CommandError(str(error)) from error
        if options["json"]:
            self.stdout.write(json.dumps(figures, indent=2))
        else:
            for table in to_tables(figures):
                console.print(table)
        if figures["not_terminal"] or figures["missing"]:
            raise CommandError(
                f"{figures['not_terminal']} deliveries are not terminal and {figures['missing']} notifications are "
                f"missing after {options['timeout']:.0f} s"
                f"{_list_ids('deliveries not terminal', figures['not_terminal_ids'])}"
                f"{_list_ids('notifications missing', figures['missing_ids'])}"
            )

    def _read_key(self) -> str:
        path = Path(settings.LOCAL_ENV_FILE).parent / "demo-api-key"
        if not path.is_file():
            raise CommandError("there is no demo client yet; start the stack with `make run` first")
        return path.read_text().strip()

    def _run(self, traffic: Traffic, console: Console, options: dict[str, Any]) -> dict[str, Any]:
        columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as progress:
            people = traffic.prepare_people()
            started = time.monotonic()
            accepting = progress.add_task("accepted", total=options["count"])
            try:
                if not options["no_fault"]:
                    traffic.switch_fault(is_on=True)
                sent = traffic.send(people, options["count"], lambda: progress.advance(accepting))
                notifications = self._follow(traffic, progress, started + options["timeout"])
            finally:
                if not options["no_fault"]:
                    traffic.switch_fault(is_on=False)
        return summarise(sent, notifications, time.monotonic() - started)

    def _follow(self, traffic: Traffic, progress: Progress, deadline: float) -> list[dict[str, Any]]:
        """Looks until everything is terminal and, a little longer, until receipts for what was sent have come."""
        task = progress.add_task("terminal", total=None)
        patience_s = 10.0
        quiet_since = time.monotonic()
        last_open = -1
        while True:
            notifications = traffic.look()
            statuses = [one["status"] for notification in notifications for one in notification["deliveries"]]
            open_count = sum(1 for status in statuses if status in OPEN_STATUSES)
            unconfirmed = sum(1 for status in statuses if status == "sent")
            progress.update(task, total=len(statuses), completed=len(statuses) - open_count)
            now = time.monotonic()
            if open_count + unconfirmed != last_open:
                last_open, quiet_since = open_count + unconfirmed, now
            is_settled = open_count == 0 and (unconfirmed == 0 or now - quiet_since > patience_s)
            if is_settled or now > deadline:
                return notifications
            time.sleep(0.5)


def _list_ids(what: str, ids: Sequence[str]) -> str:
    if not ids:
        return ""
    rest = f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else ""
    return f"\n{what}: {', '.join(ids[:SHOWN_IDS])}{rest}"

"""``manage.py import_recipients FILE``."""

import json
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from apps.preferences.bulk_rows import Outcome
from apps.preferences.import_formats import Format, InvalidFile
from apps.preferences.import_progress import Progress
from apps.preferences.imports import ImportStopped, Plan, import_file


class Command(BaseCommand):
    help = (
        "Loads recipients from a CSV or NDJSON file: new ones are created, known ones updated; fields the file does "
        "not name stay as they are. Lines that cannot be loaded are listed with line number, field and reason, and do "
        "not stop the others. Prints the account as JSON."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--format", type=Format, choices=list(Format), help="default: by the file's name")
        parser.add_argument("--rejects", type=Path, help="where to list the bad lines (default: FILE.rejects.csv)")
        parser.add_argument("--progress", type=Path, help="where to note how far it got (default: FILE.progress)")
        parser.add_argument("--resume", action="store_true", help="continue an import that was interrupted")
        parser.add_argument("--restore-erased", action="store_true", help="bring recipients back who were erased")
        parser.add_argument("--processes", type=int, default=0, help="default: one for each core")

    def handle(self, *args: Any, **options: Any) -> None:
        file: Path = options["file"]
        plan = Plan(
            file=file,
            rejects=options["rejects"] or file.with_name(f"{file.name}.rejects.csv"),
            progress=options["progress"] or file.with_name(f"{file.name}.progress"),
            format=options["format"],
            is_resumed=options["resume"],
            restores_erased=options["restore_erased"],
            processes=max(0, options["processes"]),
        )
        began = time.perf_counter()
        try:
            with _show_bar(file) as report:
                account = import_file(plan, report=report)
        except (InvalidFile, OSError) as error:
            raise CommandError(str(error)) from None
        except ImportStopped as error:
            raise CommandError(f"The import stopped ({error}). Continue it with --resume.") from None
        except KeyboardInterrupt:
            raise CommandError("Interrupted. Continue with --resume.") from None
        self._print_account(plan, account, time.perf_counter() - began)

    def _print_account(self, plan: Plan, account: Progress, seconds: float) -> None:
        counts = {outcome.value: account.outcomes.get(outcome.value, 0) for outcome in Outcome}
        counts.pop(Outcome.ERASED.value)
        body = {**counts, "rejected": account.rejected, "seconds": round(seconds, 2)}
        if account.rejected:
            self.stderr.write(f"{account.rejected:,} lines were not loaded; see {plan.rejects}.")
        else:
            plan.rejects.unlink(missing_ok=True)
        self.stdout.write(json.dumps(body))


@contextmanager
def _show_bar(file: Path) -> Iterator[Any]:
    """What to call with every ``Progress``: a bar on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda progress: None
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), DownloadColumn(),
        TextColumn("{task.fields[lines]:,} lines, {task.fields[rejected]:,} rejected"), TimeRemainingColumn(),
    )  # fmt: skip
    with Bar(*columns, console=console) as bar:
        task = bar.add_task(file.name, total=None, lines=0, rejected=0)
        yield lambda progress: bar.update(
            task, total=progress.size, completed=progress.offset, lines=progress.line, rejected=progress.rejected
        )

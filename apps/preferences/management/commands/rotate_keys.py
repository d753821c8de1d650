"""``manage.py rotate_keys``."""

import json
from argparse import ArgumentParser
from collections import Counter
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from rich.console import Console
from rich.progress import Progress

from apps.preferences import cipher, rotation


class Command(BaseCommand):
    help = (
        "Re-encrypts with the active key (PII_ACTIVE_KEY) what older keys encrypted, while everything runs. "
        "Restart all processes with the new active key first. May be interrupted and run again. Says in the end which "
        "keys of PII_KEYS nothing needs any more."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        names = [column.name for column in rotation.columns()]
        parser.add_argument("--only", action="append", choices=names, help="this column (may be repeated)")
        parser.add_argument("--dry-run", action="store_true", help="only count what is encrypted with which key")

    def handle(self, *args: Any, **options: Any) -> None:
        wanted = [column for column in rotation.columns() if not options["only"] or column.name in options["only"]]
        unreadable = {} if options["dry_run"] else self._rotate(wanted)
        in_use: Counter[int] = Counter()
        report: dict[str, Any] = {"active": cipher.active_key_id(), "columns": {}}
        for column in rotation.columns():
            counts = rotation.count_keys(column)
            in_use.update(counts)
            report["columns"][column.name] = {str(key): count for key, count in counts.items()}
        known = set(cipher.known_key_ids())
        report["removable"] = sorted(known - set(in_use) - {cipher.active_key_id()})
        report["missing"] = sorted(set(in_use) - known)
        self.stdout.write(json.dumps(report))
        if unreadable:
            listed = "; ".join(f"{name}: {len(keys)} rows, e.g. {keys[0]}" for name, keys in unreadable.items())
            raise CommandError(f"Some rows cannot be decrypted and were left as they are ({listed}).")

    def _rotate(self, columns: list[rotation.SealedColumn]) -> dict[str, list[Any]]:
        unreadable: dict[str, list[Any]] = {}
        active = cipher.active_key_id()
        with Progress(console=Console(stderr=True), disable=not Console(stderr=True).is_terminal) as bar:
            for column in columns:
                total = sum(count for key, count in rotation.count_keys(column).items() if key != active)
                task = bar.add_task(column.name, total=total)
                for batch in rotation.rotate(column):
                    bar.advance(task, batch.resealed + batch.overtaken + len(batch.unreadable))
                    if batch.unreadable:
                        unreadable.setdefault(column.name, []).extend(batch.unreadable)
        return unreadable

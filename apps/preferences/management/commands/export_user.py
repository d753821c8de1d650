"""``manage.py export_user USER_ID``."""

from argparse import ArgumentParser
from datetime import UTC, datetime
from typing import Any

import msgspec
from django.core.management.base import BaseCommand, CommandError

from apps.preferences.exports import export_person


class Command(BaseCommand):
    help = "Writes all that is held about a person to standard output, as JSON and in clear."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("user_id")

    def handle(self, *args: Any, **options: Any) -> None:
        export = export_person(options["user_id"], now=datetime.now(UTC))
        if export is None:
            raise CommandError("There is no such recipient.")
        self.stdout.write(msgspec.json.format(msgspec.json.encode(export).decode(), indent=2))

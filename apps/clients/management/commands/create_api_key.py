"""``manage.py create_api_key NAME``: another API key for a client, e.g. to change keys without a gap."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from apps.clients.management.words import find_client, read_time
from apps.clients.services import issue_api_key


class Command(BaseCommand):
    help = "Makes another API key for a client. The key alone goes to standard output, and cannot be shown again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="the client's name")
        parser.add_argument("--expires-at", help="time with a zone, e.g. 2030-01-31T00:00:00Z (default: never)")

    def handle(self, *args: Any, **options: Any) -> None:
        client = find_client(options["name"])
        issued = issue_api_key(client=client, expires_at=read_time(options["expires_at"], "--expires-at"))
        self.stderr.write(f"Client {client.name} has the further API key below. It is shown only now.")
        self.stdout.write(issued.text)

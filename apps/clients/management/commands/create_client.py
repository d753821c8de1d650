"""``manage.py create_client NAME --scopes … --tier …``: a client with its first API key."""

from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from apps.clients.management.words import read_scopes, say_validation_error
from apps.clients.models import RateTier
from apps.clients.scopes import ALL_SCOPES
from apps.clients.services import create_client, issue_api_key


class Command(BaseCommand):
    help = "Makes a client and its first API key. The key alone goes to standard output, and cannot be shown again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="unique name, without blanks; also the iss of its tokens")
        parser.add_argument(
            "--scopes", required=True, nargs="+", help=f"one or more, or 'all'. There are: {', '.join(ALL_SCOPES)}"
        )
        parser.add_argument("--tier", default="standard", help="rate tier (default: standard)")
        parser.add_argument("--weight", type=int, default=1, help="share of a contended queue (default: 1)")

    @transaction.atomic
    def handle(self, *args: Any, **options: Any) -> None:
        try:
            client = create_client(
                name=options["name"],
                scopes=read_scopes(options["scopes"]),
                tier=options["tier"],
                weight=options["weight"],
            )
        except ValidationError as error:
            raise CommandError(say_validation_error(error)) from None
        except RateTier.DoesNotExist:
            tiers = ", ".join(RateTier.objects.values_list("name", flat=True))
            raise CommandError(f"there is no tier {options['tier']}; there are: {tiers}") from None
        issued = issue_api_key(client=client)
        self.stderr.write(f"Client {client.name} has the API key below. It is shown only now.")
        self.stdout.write(issued.text)

"""``manage.py revoke_api_key PREFIX``."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from apps.clients.models import ApiKey
from apps.clients.services import revoke_api_key


class Command(BaseCommand):
    help = "Revokes an API key; it stops working everywhere within 5 s."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("prefix", help="the key's part before the dot, e.g. nk_4Zr1k8Qw2abc")

    def handle(self, *args: Any, **options: Any) -> None:
        prefix = options["prefix"].partition(".")[0]  # someone will paste the whole key
        try:
            key = revoke_api_key(prefix=prefix, now=timezone.now())
        except ApiKey.DoesNotExist:
            raise CommandError(f"there is no API key {prefix}") from None
        self.stdout.write(
            f"{key.prefix} of client {key.client.name} is revoked since {key.revoked_at:%Y-%m-%d %H:%M:%SZ}."
        )

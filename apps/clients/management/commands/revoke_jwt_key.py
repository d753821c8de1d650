"""``manage.py revoke_jwt_key KID``."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from apps.clients.models import JwtKey
from apps.clients.services import revoke_jwt_key


class Command(BaseCommand):
    help = "Revokes a JWT key; tokens signed with it stop working everywhere within 5 s."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("kid", help="the key's id")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            key = revoke_jwt_key(kid=options["kid"], now=timezone.now())
        except JwtKey.DoesNotExist:
            raise CommandError(f"there is no JWT key {options['kid']}") from None
        self.stdout.write(
            f"{key.kid} of client {key.client.name} is revoked since {key.revoked_at:%Y-%m-%d %H:%M:%SZ}."
        )

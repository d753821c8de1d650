"""``manage.py register_jwt_key NAME --algorithm …``: what verifies a client's JWTs."""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

from apps.clients.keys import Algorithm, make_kid
from apps.clients.management.words import find_client, say_validation_error
from apps.clients.services import register_jwt_key


class Command(BaseCommand):
    help = (
        "Registers a public key (PEM) or a JWKS file for a client's tokens. For HS256 it makes a secret, which alone "
        "goes to standard output and cannot be shown again: its characters, as they are, are the HMAC key."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name", help="the client's name")
        parser.add_argument("--algorithm", required=True, choices=Algorithm.values)
        parser.add_argument("--kid", default="", help="key id the tokens name in their header (default: a new one)")
        source = parser.add_mutually_exclusive_group()
        source.add_argument("--public-key", type=Path, metavar="FILE", help="PEM file with the public key")
        source.add_argument("--jwks-file", default="", metavar="FILE", help="path of a JWKS file on the servers' disks")
        parser.add_argument("--issuer", default="", help="iss of the tokens; required with --jwks-file")

    def handle(self, *args: Any, **options: Any) -> None:
        client = find_client(options["name"])
        try:
            registered = register_jwt_key(
                client=client,
                kid=options["kid"] or make_kid(),
                algorithm=options["algorithm"],
                public_key_pem=_read_pem(options["public_key"]),
                jwks_file=options["jwks_file"],
                issuer=options["issuer"],
            )
        except ValidationError as error:
            raise CommandError(say_validation_error(error)) from None
        key = registered.key
        named = f"iss {key.issuer}" if key.jwks_file else f"kid {key.kid}"
        self.stderr.write(f"Client {client.name} may sign with {key.algorithm}; its tokens name the key by {named}.")
        if registered.secret:
            self.stderr.write("The secret below is shown only now.")
            self.stdout.write(registered.secret)


def _read_pem(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeError):
        raise CommandError(f"--public-key: {path} cannot be read as a PEM file") from None

"""``manage.py provider_test ALIAS --to ADDRESS``: does this provider account work?"""

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from apps.providers import breaker
from apps.providers.registry import get_provider, provider_aliases
from apps.providers.trial import trial_message, try_provider


class Command(BaseCommand):
    help = (
        "Sends one message through a provider account, past breaker, route and quota, and explains what came of it. "
        "Ends with status 0 if the provider accepted it, 1 if not."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("alias", help="the account; one of PROVIDERS")
        parser.add_argument(
            "--to",
            required=True,
            metavar="ADDRESS",
            help="a device token, a number such as +15005550006 or an e-mail address; @FILE reads it from a file, such "
            "as the JSON of a browser's subscription, - from standard input",
        )
        parser.add_argument("--title", default="Test", help="title or subject")
        parser.add_argument("--body", default="A test message of your notification platform.", help="the text")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            provider = get_provider(options["alias"])
        except KeyError:
            known = ", ".join(provider_aliases())
            raise CommandError(f"there is no provider {options['alias']!r}; there are: {known}") from None
        address = _read_address(options["to"])
        message = trial_message(provider, address, title=options["title"], body=options["body"])
        verdict = try_provider(provider, message)
        for line in verdict.lines:
            self.stdout.write(line)
        view = breaker.look(provider.alias)
        if view.state == "open":
            why = f", forced: {view.reason}" if view.is_forced else ""
            self.stdout.write(f"In operation nothing is sent through it at present: its breaker is open{why}.")
        if not verdict.is_accepted:
            sys.exit(1)


def _read_address(text: str) -> str:
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise CommandError(f"--to: the file cannot be read ({reason})") from None
    if not text.strip():
        raise CommandError("--to: give an address")
    return text.strip()

"""What the commands read and say."""

from collections.abc import Sequence
from datetime import datetime

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from apps.clients.models import Client
from apps.clients.scopes import ALL_SCOPES


def read_scopes(words: Sequence[str]) -> list[str]:
    """Scopes as words, or with commas between them, or ``all``; raises ``CommandError`` for one there is not."""
    scopes = list(dict.fromkeys(" ".join(words).replace(",", " ").split()))
    if scopes == ["all"]:
        scopes = list(ALL_SCOPES)
    unknown = [scope for scope in scopes if scope not in ALL_SCOPES]
    if unknown or not scopes:
        raise CommandError(f"--scopes: unknown {', '.join(unknown) or 'nothing'}; there are: {', '.join(ALL_SCOPES)}")
    return scopes


def read_time(text: str | None, option: str) -> datetime | None:
    """An ISO 8601 time with a zone, e.g. ``2030-01-31T00:00:00Z``; raises ``CommandError``."""
    if text is None:
        return None
    try:
        time = parse_datetime(text)
    except ValueError:
        time = None
    if time is None or timezone.is_naive(time):
        raise CommandError(f"{option} must be a time with a zone, e.g. 2030-01-31T00:00:00Z")
    return time


def find_client(name: str) -> Client:
    """The client called ``name``; raises ``CommandError``."""
    try:
        return Client.objects.get(name=name)
    except Client.DoesNotExist:
        raise CommandError(f"there is no client {name}; make it with create_client") from None


def say_validation_error(error: ValidationError) -> str:
    """The messages by field, in one line."""
    return "; ".join(f"{field}: {' '.join(messages)}" for field, messages in error.message_dict.items())

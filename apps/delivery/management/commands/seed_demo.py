"""``manage.py seed_demo``: an admin, a client with an API key and a few people to write to. Safe to run again.

The last line it prints is a JSON object: ``{"client", "api_key", "recipients", "admin_user"}``. The key
is kept beside the local environment file, as the database has only its hash.
"""

import json
import os
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError
from rest_framework.exceptions import AuthenticationFailed

from apps.clients.authentication import authenticate_api_key
from apps.clients.models import Client
from apps.clients.scopes import ALL_SCOPES
from apps.clients.services import create_client, issue_api_key
from apps.preferences.services import register_device, update_preferences, upsert_recipient

ADMIN_USER = "admin"
CLIENT_NAME = "demo"
PEOPLE = 5


class Command(BaseCommand):
    help = "Makes the demo's admin, client and recipients, as far as they are missing."

    def handle(self, *args: Any, **options: Any) -> None:
        self._seed_admin()
        recipients = [seed_recipient(number) for number in range(1, PEOPLE + 1)]
        update_preferences(user_id=recipients[-1], is_opted_out=True)
        seeded = {
            "admin_user": ADMIN_USER,
            "client": CLIENT_NAME,
            "api_key": seed_client(),
            "recipients": recipients,
        }
        self.stdout.write(json.dumps(seeded))

    def _seed_admin(self) -> None:
        password = os.environ.get("ADMIN_PASSWORD")
        if not password:
            raise CommandError("set ADMIN_PASSWORD to the admin's password")
        users = get_user_model().objects
        user, _ = users.get_or_create(username=ADMIN_USER, defaults={"is_staff": True, "is_superuser": True})
        if not user.check_password(password):
            user.set_password(password)
            user.save()


def seed_recipient(number: int) -> str:
    """A person with a device, a phone number and an e-mail address, all in the ranges reserved for examples."""
    user_id = f"demo-{number}"
    upsert_recipient(
        user_id=user_id,
        email=f"demo-{number}@example.com",
        phone=f"+1500555{1000 + number}",
        locale="en-GB",
        time_zone="Europe/London",
    )
    register_device(user_id=user_id, token=f"demo-device-{number}-" + "a1B2" * 30, platform="android")
    return user_id


def seed_client() -> str:
    """The demo client's API key: the one kept from the last time if it is still good, else a new one."""
    client = Client.objects.filter(name=CLIENT_NAME).first()
    if client is None:
        client = create_client(name=CLIENT_NAME, scopes=ALL_SCOPES, tier="unlimited")
    kept = _key_file().read_text().strip() if _key_file().is_file() else ""
    if kept and _is_good(kept):
        return kept
    issued = issue_api_key(client=client).text
    _key_file().touch(mode=0o600)
    _key_file().write_text(issued)
    return issued


def _is_good(key: str) -> bool:
    try:
        authenticate_api_key(key)
    except AuthenticationFailed:
        return False
    return True


def _key_file() -> Path:
    return Path(settings.LOCAL_ENV_FILE).parent / "demo-api-key"

"""What a plain application does to reach many: a row and a task for each, then wait until all are done."""

import os
import time
from typing import Any

import django

from benchmarks.names import token_of, user_id_of
from benchmarks.starting_line import run_when_told

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.plain_celery.settings")
django.setup()

from django.contrib.auth import get_user_model  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import connection  # noqa: E402
from rest_framework.authtoken.models import Token  # noqa: E402

from benchmarks.plain_celery.models import Device, Notification, Person  # noqa: E402
from benchmarks.plain_celery.tasks import send_push  # noqa: E402

PAGE = 1_000
POLL_S = 0.1


def obey(order: dict[str, Any]) -> dict[str, Any]:
    """``{"step": "prepare", "count", "text"}``, then ``{"step": "go"}``. ``prepare`` answers with an API token."""
    return _go(order) if order["step"] == "go" else _prepare(order["count"])


def _prepare(count: int) -> dict[str, Any]:
    call_command("migrate", run_syncdb=True, interactive=False, verbosity=0)
    Notification.objects.all().delete()
    known = Person.objects.count()
    numbers = range(known + 1, count + 1)
    people = Person.objects.bulk_create([Person(user_id=user_id_of(n)) for n in numbers], batch_size=PAGE)
    Device.objects.bulk_create(
        [Device(person=person, token=token_of(n)) for n, person in zip(numbers, people, strict=True)], batch_size=PAGE
    )
    user, _ = get_user_model().objects.get_or_create(username="bench")
    with connection.cursor() as cursor:
        cursor.execute("VACUUM (ANALYZE)")
    return {"api_token": Token.objects.get_or_create(user=user)[0].key}


def _go(order: dict[str, Any]) -> dict[str, Any]:
    started = time.perf_counter()
    text, count = order["text"], order["count"]
    devices = Device.objects.order_by("id")[:count].iterator(chunk_size=PAGE)
    page = []
    for device in devices:
        page.append(Notification(device=device, **text))
        if len(page) == PAGE:
            _create(page)
            page = []
    _create(page)
    while Notification.objects.filter(status=Notification.Status.QUEUED).exists():
        time.sleep(POLL_S)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "recorded": Notification.objects.filter(status=Notification.Status.SENT).count()}


def _create(page: list[Notification]) -> None:
    for notification in Notification.objects.bulk_create(page):
        send_push.delay(notification.id)


if __name__ == "__main__":
    run_when_told(obey)

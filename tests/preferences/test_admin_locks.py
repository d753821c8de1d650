"""The recipient's page writes in one transaction and takes its locks in the order of all other writes."""

import threading
import time
from typing import Any

import pytest
from django.db import connection, transaction
from django.test import Client

from apps.preferences import addresses, cipher, services
from apps.preferences.locks import lock_addresses
from apps.preferences.models import Device, Recipient
from tests.preferences.factories import RecipientFactory
from tests.preferences.test_admin import change_url, form_of

pytestmark = pytest.mark.django_db(transaction=True)
WAIT_S = 10


def post(client: Client, url: str, data: dict[str, Any], answers: list[int]) -> None:
    try:
        answers.append(client.post(url, data).status_code)
    finally:
        connection.close()


def wait_until_somebody_waits_for_an_address() -> None:
    deadline = time.monotonic() + WAIT_S
    with connection.cursor() as cursor:
        while True:
            cursor.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            if cursor.fetchone():
                return
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_page_waits_for_a_token_before_it_locks_a_recipient(admin_client: Client) -> None:
    """Otherwise somebody who registers the same token, and then wants the recipient, waits for it in a circle."""
    recipient, holder = RecipientFactory(), RecipientFactory(devices=["token-1"])
    data = form_of(admin_client, change_url(recipient)) | {
        "new_email": "ann@example.com",
        "devices-TOTAL_FORMS": "1",
        "devices-0-platform": "ios",
        "devices-0-new_token": "token-1",
    }
    answers: list[int] = []
    page = threading.Thread(target=post, args=(admin_client, change_url(recipient), data, answers))
    with transaction.atomic():
        lock_addresses(cipher.blind_index(addresses.TOKEN, "token-1"))
        page.start()
        wait_until_somebody_waits_for_an_address()
        assert len(Recipient.objects.select_for_update(nowait=True)) == 2
        services.register_device(user_id=holder.user_id, token="token-1", platform="android")
    page.join(WAIT_S)
    assert answers == [302]
    assert Device.objects.get().recipient_id == recipient.pk

import threading
import time

import requests
from celery import shared_task
from django.conf import settings
from django.utils import timezone

from benchmarks.fcm_token import fetch_access_token
from benchmarks.plain_celery.models import Notification

_local = threading.local()


def _session() -> requests.Session:
    """One for each thread or process, its connection kept and its access token renewed."""
    if getattr(_local, "expires_at", 0.0) < time.monotonic():
        _local.session = requests.Session()
        _local.session.verify = settings.FCM_CA_FILE
        token = fetch_access_token(settings.FCM_SERVICE_ACCOUNT, settings.FCM_CA_FILE)
        _local.session.headers["Authorization"] = f"Bearer {token}"
        _local.expires_at = time.monotonic() + 3_000
    session: requests.Session = _local.session
    return session


@shared_task(
    autoretry_for=(requests.ConnectionError, requests.Timeout), retry_backoff=True, retry_jitter=True, max_retries=5
)
def send_push(notification_id: int) -> None:
    notification = Notification.objects.select_related("device").get(id=notification_id)
    if notification.status != Notification.Status.QUEUED:
        return
    message = {
        "token": notification.device.token,
        "notification": {"title": notification.title, "body": notification.body},
        "data": {"notify_delivery_id": f"plain-{notification.id}"},
    }
    response = _session().post(settings.FCM_URL, json={"message": message}, timeout=5)
    if response.status_code == 429 or response.status_code >= 500:
        raise requests.ConnectionError(f"FCM answered {response.status_code}")
    if response.ok:
        notification.status = Notification.Status.SENT
        notification.message_id = response.json()["name"]
        notification.sent_at = timezone.now()
    else:
        notification.status = Notification.Status.FAILED
        notification.error = response.text
    notification.save(update_fields=["status", "message_id", "sent_at", "error"])

"""What the delivery log holds about a person: how it is exported, erased and encrypted anew. Registered with
``apps.preferences``, which knows when, at start-up (``apps.py``)."""

from typing import Any

import msgspec
from django.db import connection

from apps.delivery.answers import describe_notification
from apps.delivery.broadcasts.privacy import erase_sole_content, export_broadcasts
from apps.delivery.broadcasts.selectors import content_aad
from apps.delivery.content import PoisonContentError, aad_of, open_content
from apps.delivery.models import Notification
from apps.delivery.selectors import select_deliveries_of
from apps.preferences import erasure, exports, rotation

EXPORT_MAX = 10_000


def register() -> None:
    """Tells ``apps.preferences`` about the personal data in the delivery log."""
    erasure.register("notifications", erase_content)
    exports.register_part("notifications", export_notifications)
    erasure.register("broadcasts", erase_sole_content)
    exports.register_part("broadcasts", export_broadcasts)
    rotation.register(
        rotation.SealedColumn(
            table="broadcast", column="content_ct", key="id", key_type="uuid", context="t.id", aad=content_aad
        )
    )
    rotation.register(
        rotation.SealedColumn(
            table="notification", column="content_ct", key="id", key_type="uuid", context="t.id", aad=aad_of
        )
    )


def erase_content(recipient_id: int, user_id: str) -> None:
    """Makes the words of everything sent to the person unreadable for good. The log keeps that something was sent, and
    its outcome, under the caller's name for the person."""
    with connection.cursor() as cursor:
        cursor.execute("UPDATE notification SET content_ct = '' WHERE recipient_id = %s", [recipient_id])


def export_notifications(recipient_id: int, user_id: str) -> dict[str, Any]:
    """The person's notifications with their words, newest first: ``{"items", "is_complete"}``."""
    rows = list(Notification.objects.filter(recipient_id=recipient_id).order_by("-id")[: EXPORT_MAX + 1])
    shown = rows[:EXPORT_MAX]
    deliveries = select_deliveries_of(shown)
    items = [
        {**msgspec.to_builtins(describe_notification(row, deliveries[row.id])), "content": _words(row)} for row in shown
    ]
    return {"items": items, "is_complete": len(rows) <= EXPORT_MAX}


def _words(row: Notification) -> Any:
    try:
        return msgspec.to_builtins(open_content(bytes(row.content_ct), row.id))
    except PoisonContentError:
        return None

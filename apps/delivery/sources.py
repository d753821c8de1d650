"""What the deliveries of one notification, or of one broadcast, have in common: read once for all of a batch."""

from datetime import datetime
from enum import Enum
from functools import cached_property
from uuid import UUID

from apps.delivery.content import Content, PoisonContentError, unseal_content
from apps.delivery.ids import broadcast_number_of, notification_id_of

SourceKey = UUID | int  # a notification's id or a broadcast's number


class Standing(Enum):
    """Whether what a source has left may go out."""

    GOING = "going"
    PAUSED = "paused"
    CANCELLED = "cancelled"


class Source:
    """A notification or a broadcast. ``user_id`` is a notification's recipient, ``None`` for a broadcast; ``due_at`` is
    when its deliveries were wanted, ``None`` for the moment in their ids."""

    def __init__(
        self,
        *,
        id: UUID,
        category: str,
        trace_id: str,
        content_ct: bytes,
        aad: str,
        user_id: str | None = None,
        due_at: datetime | None = None,
        expires_at: datetime | None = None,
        standing: Standing = Standing.GOING,
    ) -> None:
        self.id = id
        self.category = category
        self.trace_id = trace_id
        self.user_id = user_id
        self.due_at = due_at
        self.expires_at = expires_at
        self.standing = standing
        self._sealed = content_ct, aad

    @cached_property
    def content(self) -> Content | None:
        """The words, opened on first use; ``None`` if they cannot be read."""
        try:
            return unseal_content(*self._sealed)
        except PoisonContentError:
            return None

    def ttl_s(self, now: datetime) -> int | None:
        """How many seconds it is still worth delivering, at least one; ``None`` for no end."""
        return None if self.expires_at is None else max(1, int((self.expires_at - now).total_seconds()))


def source_key(delivery_id: UUID) -> SourceKey:
    """Of which source a delivery is."""
    number = broadcast_number_of(delivery_id)
    return notification_id_of(delivery_id) if number is None else number

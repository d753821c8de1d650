"""The delivery log. ``notification``, ``delivery`` and ``attempt`` are partitioned by day on their UUIDv7 keys
(see ``partitions.py``); relations carry no database constraint, so that a day can be dropped as a table."""

from datetime import datetime

from django.db import models

from apps.channels import Channel, Lane
from apps.delivery.broadcasts.models import AudienceUpload, AudienceUploadPart, Broadcast, Chunk, Pump
from apps.delivery.ids import notification_id_of, time_of
from apps.delivery.statuses import AttemptOutcome, Status
from apps.delivery.templating.models import Template, TemplateText, TemplateVersion
from apps.providers.messages import ReceiptKind

__all__ = [
    "Attempt",
    "AudienceUpload",
    "AudienceUploadPart",
    "Broadcast",
    "Chunk",
    "Delivery",
    "Heartbeat",
    "IdempotencyKey",
    "Notification",
    "Pump",
    "ReceiptEvent",
    "Template",
    "TemplateText",
    "TemplateVersion",
]


def _choices(enum: type) -> list[tuple[int, str]]:
    return [(int(member), member.label) for member in enum]  # type: ignore[attr-defined]


class Notification(models.Model):
    """What a client asked for. Content is ciphertext with the associated data ``notification|content|<id>``."""

    id = models.UUIDField(primary_key=True, editable=False)
    recipient = models.ForeignKey(
        "preferences.Recipient", on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+"
    )
    client = models.ForeignKey(
        "clients.Client", on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+"
    )
    send_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    lane = models.SmallIntegerField(choices=_choices(Lane))
    user_id = models.TextField()
    type = models.TextField()
    category = models.TextField()
    trace_id = models.TextField()
    content_ct = models.BinaryField()

    class Meta:
        db_table = "notification"

    def __str__(self) -> str:
        return str(self.id)

    @property
    def created_at(self) -> datetime:
        return time_of(self.id)


class Delivery(models.Model):
    """One channel × address of a notification: the truth about what was sent.

    ``next_attempt_at`` is the earliest moment a worker may claim the row (while ``sending``: when its lease runs
    out); ``ring_at`` is when the sweep rings the doorbell (again). Both are null once the row is done. ``fence`` goes
    up with every claim, and only the latest claimant may record; ``lapses`` counts leases that ran out. A row with an
    ``order_hash`` (of the client's ordering key) waits for the rows of the same recipient, channel and hash that have a
    lower ``order_no``."""

    id = models.UUIDField(primary_key=True, editable=False)
    recipient = models.ForeignKey(
        "preferences.Recipient", on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+"
    )
    device_id = models.BigIntegerField(null=True)
    next_attempt_at = models.DateTimeField(null=True)
    ring_at = models.DateTimeField(null=True)
    sent_at = models.DateTimeField(null=True)
    delivered_at = models.DateTimeField(null=True)
    client = models.ForeignKey(
        "clients.Client", on_delete=models.DO_NOTHING, db_constraint=False, db_index=False, related_name="+"
    )
    channel = models.SmallIntegerField(choices=_choices(Channel))
    lane = models.SmallIntegerField(choices=_choices(Lane))
    status = models.SmallIntegerField(choices=_choices(Status))
    reason = models.SmallIntegerField(default=0)
    provider = models.SmallIntegerField(null=True)
    attempts = models.SmallIntegerField(default=0)
    fence = models.IntegerField(default=0)
    lapses = models.SmallIntegerField(default=0)
    provider_message_id = models.TextField(null=True)
    error_code = models.TextField(null=True)
    order_hash = models.BigIntegerField(null=True)
    order_no = models.BigIntegerField(null=True)

    class Meta:
        db_table = "delivery"
        verbose_name_plural = "deliveries"

    def __str__(self) -> str:
        return str(self.id)

    @property
    def created_at(self) -> datetime:
        return time_of(self.id)

    @property
    def notification_id(self) -> str:
        return str(notification_id_of(self.id))


class Attempt(models.Model):
    """A provider call that failed; one claim may have tried several providers in turn. A success has no row: it is the
    delivery itself. ``provider`` 0 is no provider: a bug of ours."""

    pk = models.CompositePrimaryKey("delivery_id", "fence", "provider")
    delivery_id = models.UUIDField()
    fence = models.IntegerField()
    at = models.DateTimeField()
    latency_ms = models.IntegerField()
    provider = models.SmallIntegerField()
    outcome = models.SmallIntegerField(choices=_choices(AttemptOutcome))
    code = models.TextField()
    message = models.TextField()

    class Meta:
        db_table = "attempt"

    def __str__(self) -> str:
        return f"{self.delivery_id} #{self.fence}"


class IdempotencyKey(models.Model):
    """A client's key with the answer it got. ``fingerprint`` is a keyed hash of the request's body."""

    pk = models.CompositePrimaryKey("client_id", "key")
    client_id = models.BigIntegerField()
    key = models.TextField()
    created_at = models.DateTimeField()
    fingerprint = models.BinaryField()
    response = models.BinaryField()

    class Meta:
        db_table = "idempotency_key"
        indexes = [models.Index(fields=["created_at"], name="idempotency_created_at")]

    def __str__(self) -> str:
        return f"{self.client_id}:{self.key}"


class ReceiptEvent(models.Model):
    """The inbox of provider receipts: stored first, applied by a task. Holds no personal data."""

    id = models.BigAutoField(primary_key=True)
    delivery_id = models.UUIDField(null=True)
    occurred_at = models.DateTimeField()
    received_at = models.DateTimeField()
    applied_at = models.DateTimeField(null=True)
    provider = models.SmallIntegerField()
    kind = models.SmallIntegerField(choices=[(int(kind), kind.label) for kind in ReceiptKind])
    is_matched = models.BooleanField(default=False)
    event_id = models.TextField()
    provider_message_id = models.TextField(null=True)
    code = models.TextField(default="")

    class Meta:
        db_table = "receipt_event"
        constraints = [models.UniqueConstraint(fields=["provider", "event_id"], name="receipt_event_unique")]
        indexes = [
            models.Index(fields=["id"], condition=models.Q(applied_at=None), name="receipt_event_pending"),
            models.Index(fields=["delivery_id"], name="receipt_event_delivery"),
            models.Index(fields=["received_at"], name="receipt_event_received_at"),
        ]

    def __str__(self) -> str:
        return f"{self.provider}:{self.event_id}"


class Heartbeat(models.Model):
    """When a periodic job last finished, for alarms and ``/metrics``."""

    name = models.TextField(primary_key=True)
    finished_at = models.DateTimeField()

    class Meta:
        db_table = "heartbeat"

    def __str__(self) -> str:
        return self.name

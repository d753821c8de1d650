"""A broadcast: one content for an audience. The audience is cut into chunks of recipients; a chunk is what a worker
claims, sends and records at once (docs/decisions/0007)."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.functions import Now

from apps.channels import Channel


class State(models.IntegerChoices):
    """Where a broadcast stands. The numbers are stored; never reuse one."""

    SCHEDULED = 1  # waits for ``send_at``
    PLANNING = 2  # its audience is being cut into chunks
    CANARY = 3  # only the canary's chunks go out
    RUNNING = 4
    PAUSED = 5
    HALTED = 6  # by itself: too many errors
    COMPLETED = 7  # every delivery has come to its end
    CANCELLED = 8


class ChunkState(models.IntegerChoices):
    """Where a chunk stands. The numbers are stored; never reuse one."""

    WAITING = 1
    CLAIMED = 2
    DONE = 3


class Broadcast(models.Model):
    """``number`` is part of its deliveries' ids (``ids.py``), ``started_at`` (to the millisecond) the other one: both
    never change once a chunk was claimed. Content is ciphertext with the associated data ``broadcast|content|<id>``."""

    id = models.UUIDField(primary_key=True, editable=False)
    number = models.BigIntegerField(
        unique=True,
        editable=False,
        db_default=models.Func(
            models.Value("delivery_broadcast_number"), function="nextval", output_field=models.BigIntegerField()
        ),
    )
    client = models.ForeignKey("clients.Client", on_delete=models.PROTECT, related_name="+")
    name = models.TextField()
    state = models.SmallIntegerField(choices=State.choices, default=State.SCHEDULED)
    state_since = models.DateTimeField(db_default=Now())
    state_reason = models.TextField(blank=True, default="")  # why it is paused or halted, for people
    resumes_to = models.SmallIntegerField(null=True, choices=State.choices)  # what it was before the pause
    type = models.TextField()
    category = models.TextField()
    channels = ArrayField(models.SmallIntegerField(choices=[(int(c), c.label) for c in Channel]))
    content_ct = models.BinaryField()
    audience = models.JSONField()
    trace_id = models.TextField()
    created_at = models.DateTimeField()
    send_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)  # nothing is left to be done, not even tidying up
    rate_per_s = models.IntegerField(null=True)
    send_window = models.JSONField(null=True)  # {"start": "09:00", "end": "20:00", "time_zone": "Europe/Berlin"}
    canary_share = models.FloatField(default=0)  # of the recipients, 0 for none
    is_canary_over = models.BooleanField(default=False)  # it went well, or somebody resumed it after it had halted
    max_error_rate = models.FloatField(null=True)  # of the deliveries so far; beyond it the broadcast halts
    chunk_size = models.IntegerField(default=500)
    planned_until = models.BigIntegerField(default=0)  # recipients with ids up to this one are in chunks
    recipients = models.BigIntegerField(default=0)  # in chunks so far, once per channel
    is_planned = models.BooleanField(default=False)
    virtual_time = models.FloatField(default=0)  # what it has had of the bulk lane, divided by its client's weight
    next_chunk_at = models.DateTimeField(null=True)  # before that its rate allows no further chunk
    # Deliveries of late, older ones counting less and less, and those of them that failed.
    recent_total = models.FloatField(default=0)
    recent_bad = models.FloatField(default=0)

    class Meta:
        db_table = "broadcast"
        indexes = [
            models.Index(fields=["client", "-id"], name="broadcast_client"),
            models.Index(fields=["state"], name="broadcast_open", condition=models.Q(finished_at=None)),
        ]

    def __str__(self) -> str:
        return self.name or str(self.id)


class Chunk(models.Model):
    """Recipients of a broadcast on one channel, in the order of their ids. What became of them are rows of
    ``delivery``, written when the chunk is done, in the transaction that says so; ``counts`` is their first outcome by
    status."""

    pk = models.CompositePrimaryKey("broadcast_number", "no")
    broadcast_number = models.BigIntegerField()
    no = models.IntegerField()
    channel = models.SmallIntegerField(choices=[(int(c), c.label) for c in Channel])
    state = models.SmallIntegerField(choices=ChunkState.choices, default=ChunkState.WAITING)
    is_canary = models.BooleanField(default=False)
    fence = models.IntegerField(default=0)
    lapses = models.SmallIntegerField(default=0)
    recipients = models.IntegerField()
    lease_until = models.DateTimeField(null=True)
    done_at = models.DateTimeField(null=True)
    recipient_ids = ArrayField(models.BigIntegerField(), null=True)  # null once it is done
    counts = models.JSONField(null=True)

    class Meta:
        db_table = "broadcast_chunk"
        indexes = [
            models.Index(
                fields=["channel", "broadcast_number", "-is_canary", "no"],
                name="broadcast_chunk_open",
                condition=models.Q(state__lt=3),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.broadcast_number}/{self.no}"


class Pump(models.Model):
    """A worker's turn at the chunks of a channel: a message that is rung again when its turn is over, so that a handful
    of them hang in the queue at any time. ``run_no`` tells a message from the doubles of it that the sweep rang because
    it had not been seen for long; ``rung_at`` is null while there is nothing to do."""

    pk = models.CompositePrimaryKey("channel", "slot")
    channel = models.SmallIntegerField(choices=[(int(c), c.label) for c in Channel])
    slot = models.IntegerField()
    run_no = models.BigIntegerField(default=0)
    rung_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "broadcast_pump"

    def __str__(self) -> str:
        return f"{Channel(self.channel).label} {self.slot}"


class AudienceUpload(models.Model):
    """A list of people for a broadcast, uploaded beforehand; the parts hold recipient ids, as they came."""

    id = models.UUIDField(primary_key=True, editable=False)
    client = models.ForeignKey("clients.Client", on_delete=models.CASCADE, related_name="+")
    name = models.TextField(blank=True, default="")
    created_at = models.DateTimeField()
    lines = models.IntegerField(default=0)
    known = models.IntegerField(default=0)
    unknown = models.IntegerField(default=0)  # lines that named nobody we know
    problems = models.JSONField(default=list)  # the first of them: {"line", "detail"}
    is_complete = models.BooleanField(default=False)

    class Meta:
        db_table = "audience_upload"

    def __str__(self) -> str:
        return self.name or str(self.id)


class AudienceUploadPart(models.Model):
    """Up to some ten thousand recipient ids of an upload."""

    id = models.BigAutoField(primary_key=True)
    upload = models.ForeignKey(AudienceUpload, on_delete=models.CASCADE, related_name="parts")
    recipient_ids = ArrayField(models.BigIntegerField())

    class Meta:
        db_table = "audience_upload_part"

    def __str__(self) -> str:
        return f"{self.upload_id} #{self.id}"

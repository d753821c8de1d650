"""The delivery log. Partitioned tables are made in SQL, which Django's schema editor does not know; column order is by
alignment, widest first, as these tables hold a billion rows a day."""

from datetime import UTC, datetime

from django.db import migrations, models
import django.db.models.deletion

from apps.delivery.partitions import ensure_partitions

FORWARD = """
CREATE TABLE notification (
    id uuid NOT NULL PRIMARY KEY,
    recipient_id bigint NOT NULL,
    client_id bigint NOT NULL,
    send_at timestamptz,
    expires_at timestamptz,
    lane smallint NOT NULL,
    user_id text NOT NULL,
    type text NOT NULL,
    category text NOT NULL,
    trace_id text NOT NULL,
    content_ct bytea NOT NULL
) PARTITION BY RANGE (id);
CREATE INDEX notification_client ON notification (client_id, id);
CREATE INDEX notification_recipient ON notification (recipient_id, id);

CREATE TABLE delivery (
    id uuid NOT NULL PRIMARY KEY,
    recipient_id bigint NOT NULL,
    device_id bigint,
    next_attempt_at timestamptz,
    ring_at timestamptz,
    sent_at timestamptz,
    delivered_at timestamptz,
    client_id bigint NOT NULL,
    fence integer NOT NULL,
    channel smallint NOT NULL,
    lane smallint NOT NULL,
    status smallint NOT NULL,
    reason smallint NOT NULL,
    provider smallint,
    attempts smallint NOT NULL,
    lapses smallint NOT NULL,
    provider_message_id text,
    error_code text
) PARTITION BY RANGE (id);
CREATE INDEX delivery_ring ON delivery (lane, channel, ring_at) WHERE ring_at IS NOT NULL;

CREATE TABLE attempt (
    delivery_id uuid NOT NULL,
    fence integer NOT NULL,
    provider smallint NOT NULL,
    outcome smallint NOT NULL,
    at timestamptz NOT NULL,
    latency_ms integer NOT NULL,
    code text NOT NULL,
    message text NOT NULL,
    PRIMARY KEY (delivery_id, fence, provider)
) PARTITION BY RANGE (delivery_id);
"""
BACKWARD = "DROP TABLE attempt; DROP TABLE delivery; DROP TABLE notification;"


def make_partitions(apps, schema_editor):
    ensure_partitions(today=datetime.now(UTC).date())


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ("clients", "0001_initial"),
        ("preferences", "0001_initial"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(FORWARD, BACKWARD)],
            state_operations=[
                migrations.CreateModel(
                    name='Attempt',
                    fields=[
                        ('pk', models.CompositePrimaryKey('delivery_id', 'fence', 'provider', blank=True, editable=False, primary_key=True, serialize=False)),
                        ('delivery_id', models.UUIDField()),
                        ('fence', models.IntegerField()),
                        ('at', models.DateTimeField()),
                        ('latency_ms', models.IntegerField()),
                        ('provider', models.SmallIntegerField()),
                        ('outcome', models.SmallIntegerField(choices=[(1, 'transient'), (2, 'rate_limited'), (3, 'permanent'), (4, 'invalid_recipient'), (5, 'unknown'), (6, 'bug')])),
                        ('code', models.TextField()),
                        ('message', models.TextField()),
                    ],
                    options={
                        'db_table': 'attempt',
                    },
                ),
                migrations.CreateModel(
                    name='Delivery',
                    fields=[
                        ('id', models.UUIDField(editable=False, primary_key=True, serialize=False)),
                        ('device_id', models.BigIntegerField(null=True)),
                        ('next_attempt_at', models.DateTimeField(null=True)),
                        ('ring_at', models.DateTimeField(null=True)),
                        ('sent_at', models.DateTimeField(null=True)),
                        ('delivered_at', models.DateTimeField(null=True)),
                        ('channel', models.SmallIntegerField(choices=[(1, 'push'), (2, 'sms'), (3, 'email')])),
                        ('lane', models.SmallIntegerField(choices=[(1, 'high'), (2, 'bulk')])),
                        ('status', models.SmallIntegerField(choices=[(1, 'queued'), (2, 'sending'), (3, 'sent'), (4, 'delivered'), (5, 'failed'), (6, 'bounced'), (7, 'suppressed'), (8, 'expired'), (9, 'cancelled'), (10, 'unknown'), (11, 'dead')])),
                        ('reason', models.SmallIntegerField(default=0)),
                        ('provider', models.SmallIntegerField(null=True)),
                        ('attempts', models.SmallIntegerField(default=0)),
                        ('fence', models.IntegerField(default=0)),
                        ('lapses', models.SmallIntegerField(default=0)),
                        ('provider_message_id', models.TextField(null=True)),
                        ('error_code', models.TextField(null=True)),
                        ('client', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='clients.client')),
                        ('recipient', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='preferences.recipient')),
                    ],
                    options={
                        'verbose_name_plural': 'deliveries',
                        'db_table': 'delivery',
                    },
                ),
                migrations.CreateModel(
                    name='Notification',
                    fields=[
                        ('id', models.UUIDField(editable=False, primary_key=True, serialize=False)),
                        ('send_at', models.DateTimeField(null=True)),
                        ('expires_at', models.DateTimeField(null=True)),
                        ('lane', models.SmallIntegerField(choices=[(1, 'high'), (2, 'bulk')])),
                        ('user_id', models.TextField()),
                        ('type', models.TextField()),
                        ('category', models.TextField()),
                        ('trace_id', models.TextField()),
                        ('content_ct', models.BinaryField()),
                        ('client', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='clients.client')),
                        ('recipient', models.ForeignKey(db_constraint=False, db_index=False, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='preferences.recipient')),
                    ],
                    options={
                        'db_table': 'notification',
                    },
                ),
            ],
        ),
        migrations.RunPython(make_partitions, migrations.RunPython.noop),
        migrations.CreateModel(
            name='Heartbeat',
            fields=[
                ('name', models.TextField(primary_key=True, serialize=False)),
                ('finished_at', models.DateTimeField()),
            ],
            options={
                'db_table': 'heartbeat',
            },
        ),
        migrations.CreateModel(
            name='IdempotencyKey',
            fields=[
                ('pk', models.CompositePrimaryKey('client_id', 'key', blank=True, editable=False, primary_key=True, serialize=False)),
                ('client_id', models.BigIntegerField()),
                ('key', models.TextField()),
                ('created_at', models.DateTimeField()),
                ('fingerprint', models.BinaryField()),
                ('response', models.BinaryField()),
            ],
            options={
                'db_table': 'idempotency_key',
                'indexes': [models.Index(fields=['created_at'], name='idempotency_created_at')],
            },
        ),
        migrations.CreateModel(
            name='ReceiptEvent',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('delivery_id', models.UUIDField(null=True)),
                ('occurred_at', models.DateTimeField()),
                ('received_at', models.DateTimeField()),
                ('applied_at', models.DateTimeField(null=True)),
                ('provider', models.SmallIntegerField()),
                ('kind', models.SmallIntegerField(choices=[(1, 'accepted'), (2, 'delivered'), (3, 'failed'), (4, 'bounced'), (5, 'complained'), (6, 'unsubscribed'), (7, 'stopped'), (8, 'started')])),
                ('is_matched', models.BooleanField(default=False)),
                ('event_id', models.TextField()),
                ('provider_message_id', models.TextField(null=True)),
                ('code', models.TextField(default='')),
            ],
            options={
                'db_table': 'receipt_event',
                'indexes': [models.Index(condition=models.Q(('applied_at', None)), fields=['id'], name='receipt_event_pending'), models.Index(fields=['delivery_id'], name='receipt_event_delivery'), models.Index(fields=['received_at'], name='receipt_event_received_at')],
                'constraints': [models.UniqueConstraint(fields=('provider', 'event_id'), name='receipt_event_unique')],
            },
        ),
    ]

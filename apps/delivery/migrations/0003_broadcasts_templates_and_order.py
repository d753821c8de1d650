"""Broadcasts, templates and ordering keys. The index that the sweep reads tells clients apart, so that each gets its
share; that of ordered deliveries holds those that are not done, which are few."""

import django.contrib.postgres.fields
import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models


FORWARD = """
CREATE SEQUENCE delivery_broadcast_number;
CREATE SEQUENCE delivery_order_no;
ALTER TABLE delivery ADD COLUMN order_hash bigint, ADD COLUMN order_no bigint;
DROP INDEX delivery_ring;
CREATE INDEX delivery_ring ON delivery (lane, channel, client_id, ring_at) WHERE ring_at IS NOT NULL;
CREATE INDEX delivery_order ON delivery (recipient_id, channel, order_hash, order_no)
    WHERE order_hash IS NOT NULL AND ring_at IS NOT NULL;
"""
BACKWARD = """
DROP INDEX delivery_order;
DROP INDEX delivery_ring;
CREATE INDEX delivery_ring ON delivery (lane, channel, ring_at) WHERE ring_at IS NOT NULL;
ALTER TABLE delivery DROP COLUMN order_hash, DROP COLUMN order_no;
DROP SEQUENCE delivery_order_no;
DROP SEQUENCE delivery_broadcast_number CASCADE;
"""


class Migration(migrations.Migration):

    dependencies = [
        ('clients', '0002_export_scope'),
        ('delivery', '0002_dead_letter_index'),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunSQL(FORWARD, BACKWARD)],
            state_operations=[
                migrations.AddField(
                    model_name='delivery',
                    name='order_hash',
                    field=models.BigIntegerField(null=True),
                ),
                migrations.AddField(
                    model_name='delivery',
                    name='order_no',
                    field=models.BigIntegerField(null=True),
                ),
            ],
        ),
        migrations.CreateModel(
            name='AudienceUpload',
            fields=[
                ('id', models.UUIDField(editable=False, primary_key=True, serialize=False)),
                ('name', models.TextField(blank=True, default='')),
                ('created_at', models.DateTimeField()),
                ('lines', models.IntegerField(default=0)),
                ('known', models.IntegerField(default=0)),
                ('unknown', models.IntegerField(default=0)),
                ('problems', models.JSONField(default=list)),
                ('is_complete', models.BooleanField(default=False)),
                ('client', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to='clients.client')),
            ],
            options={
                'db_table': 'audience_upload',
            },
        ),
        migrations.CreateModel(
            name='AudienceUploadPart',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('recipient_ids', django.contrib.postgres.fields.ArrayField(base_field=models.BigIntegerField(), size=None)),
                ('upload', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='parts', to='delivery.audienceupload')),
            ],
            options={
                'db_table': 'audience_upload_part',
            },
        ),
        migrations.CreateModel(
            name='Chunk',
            fields=[
                ('pk', models.CompositePrimaryKey('broadcast_number', 'no', blank=True, editable=False, primary_key=True, serialize=False)),
                ('broadcast_number', models.BigIntegerField()),
                ('no', models.IntegerField()),
                ('channel', models.SmallIntegerField(choices=[(1, 'push'), (2, 'sms'), (3, 'email')])),
                ('state', models.SmallIntegerField(choices=[(1, 'Waiting'), (2, 'Claimed'), (3, 'Done')], default=1)),
                ('is_canary', models.BooleanField(default=False)),
                ('fence', models.IntegerField(default=0)),
                ('lapses', models.SmallIntegerField(default=0)),
                ('recipients', models.IntegerField()),
                ('lease_until', models.DateTimeField(null=True)),
                ('done_at', models.DateTimeField(null=True)),
                ('recipient_ids', django.contrib.postgres.fields.ArrayField(base_field=models.BigIntegerField(), null=True, size=None)),
                ('counts', models.JSONField(null=True)),
            ],
            options={
                'db_table': 'broadcast_chunk',
                'indexes': [models.Index(condition=models.Q(('state__lt', 3)), fields=['channel', 'broadcast_number', 'no'], name='broadcast_chunk_open')],
            },
        ),
        migrations.CreateModel(
            name='Template',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('name', models.CharField(max_length=64)),
                ('description', models.CharField(blank=True, default='', max_length=500)),
                ('default_locale', models.CharField(default='en', max_length=35)),
                ('active_version', models.IntegerField(blank=True, null=True)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('archived_at', models.DateTimeField(blank=True, null=True)),
                ('client', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='clients.client')),
            ],
            options={
                'db_table': 'template',
            },
        ),
        migrations.CreateModel(
            name='TemplateVersion',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('number', models.IntegerField()),
                ('variables', models.JSONField(default=dict)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('created_by', models.CharField(blank=True, default='', max_length=200)),
                ('template', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='versions', to='delivery.template')),
            ],
            options={
                'db_table': 'template_version',
            },
        ),
        migrations.CreateModel(
            name='TemplateText',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('channel', models.SmallIntegerField(choices=[(1, 'push'), (2, 'sms'), (3, 'email')])),
                ('locale', models.CharField(max_length=35)),
                ('title', models.TextField(blank=True, default='')),
                ('body', models.TextField(blank=True, default='')),
                ('html', models.TextField(blank=True, default='')),
                ('version', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='texts', to='delivery.templateversion')),
            ],
            options={
                'db_table': 'template_text',
            },
        ),
        migrations.CreateModel(
            name='Broadcast',
            fields=[
                ('id', models.UUIDField(editable=False, primary_key=True, serialize=False)),
                ('number', models.BigIntegerField(db_default=models.Func(models.Value('delivery_broadcast_number'), function='nextval', output_field=models.BigIntegerField()), editable=False, unique=True)),
                ('name', models.TextField()),
                ('state', models.SmallIntegerField(choices=[(1, 'Scheduled'), (2, 'Planning'), (3, 'Canary'), (4, 'Running'), (5, 'Paused'), (6, 'Halted'), (7, 'Completed'), (8, 'Cancelled')], default=1)),
                ('state_reason', models.TextField(blank=True, default='')),
                ('resumes_to', models.SmallIntegerField(choices=[(1, 'Scheduled'), (2, 'Planning'), (3, 'Canary'), (4, 'Running'), (5, 'Paused'), (6, 'Halted'), (7, 'Completed'), (8, 'Cancelled')], null=True)),
                ('type', models.TextField()),
                ('category', models.TextField()),
                ('channels', django.contrib.postgres.fields.ArrayField(base_field=models.SmallIntegerField(choices=[(1, 'push'), (2, 'sms'), (3, 'email')]), size=None)),
                ('content_ct', models.BinaryField()),
                ('audience', models.JSONField()),
                ('trace_id', models.TextField()),
                ('created_at', models.DateTimeField()),
                ('send_at', models.DateTimeField(null=True)),
                ('expires_at', models.DateTimeField(null=True)),
                ('started_at', models.DateTimeField(null=True)),
                ('finished_at', models.DateTimeField(null=True)),
                ('rate_per_s', models.IntegerField(null=True)),
                ('send_window', models.JSONField(null=True)),
                ('canary_share', models.FloatField(default=0)),
                ('max_error_rate', models.FloatField(null=True)),
                ('chunk_size', models.IntegerField(default=500)),
                ('planned_until', models.BigIntegerField(default=0)),
                ('recipients', models.BigIntegerField(default=0)),
                ('is_planned', models.BooleanField(default=False)),
                ('virtual_time', models.FloatField(default=0)),
                ('client', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='clients.client')),
            ],
            options={
                'db_table': 'broadcast',
                'indexes': [models.Index(fields=['client', '-id'], name='broadcast_client'), models.Index(condition=models.Q(('state__lte', 6)), fields=['state'], name='broadcast_open')],
            },
        ),
        migrations.AddConstraint(
            model_name='template',
            constraint=models.UniqueConstraint(fields=('client', 'name'), name='template_name_unique', nulls_distinct=False),
        ),
        migrations.AddConstraint(
            model_name='templateversion',
            constraint=models.UniqueConstraint(fields=('template', 'number'), name='template_version_unique'),
        ),
        migrations.AddConstraint(
            model_name='templatetext',
            constraint=models.UniqueConstraint(fields=('version', 'channel', 'locale'), name='template_text_unique'),
        ),
    ]

import django.contrib.postgres.indexes
from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):

    atomic = False  # so that people can be written to while the indexes are built

    dependencies = [
        ('preferences', '0005_subscription_choice'),
    ]

    operations = [
        # Building concurrently waits for transactions that are under way, longer than a request would.
        migrations.RunSQL("SET lock_timeout = '10min'", "SET lock_timeout = '10min'"),
        AddIndexConcurrently(
            model_name='recipient',
            index=django.contrib.postgres.indexes.GinIndex(fields=['attributes'], name='recipient_attributes', opclasses=['jsonb_path_ops']),
        ),
        AddIndexConcurrently(
            model_name='recipient',
            index=models.Index(fields=['locale'], name='recipient_locale', opclasses=['varchar_pattern_ops']),
        ),
        migrations.RunSQL("RESET lock_timeout", "RESET lock_timeout"),
    ]

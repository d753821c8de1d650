"""A broadcast's pace, its errors of late, and the pumps; canary chunks come first in their index, and a broadcast stays
in that of the open ones until it has been tidied up."""

import django.db.models.functions.datetime
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ("delivery", "0003_broadcasts_templates_and_order"),
    ]

    operations = [
        migrations.AddField(
            model_name="broadcast",
            name="state_since",
            field=models.DateTimeField(db_default=django.db.models.functions.datetime.Now()),
        ),
        migrations.AddField(model_name="broadcast", name="is_canary_over", field=models.BooleanField(default=False)),
        migrations.AddField(model_name="broadcast", name="next_chunk_at", field=models.DateTimeField(null=True)),
        migrations.AddField(model_name="broadcast", name="recent_total", field=models.FloatField(default=0)),
        migrations.AddField(model_name="broadcast", name="recent_bad", field=models.FloatField(default=0)),
        migrations.CreateModel(
            name="Pump",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "channel", "slot", blank=True, editable=False, primary_key=True, serialize=False
                    ),
                ),
                ("channel", models.SmallIntegerField(choices=[(1, "push"), (2, "sms"), (3, "email")])),
                ("slot", models.IntegerField()),
                ("run_no", models.BigIntegerField(default=0)),
                ("rung_at", models.DateTimeField(null=True)),
            ],
            options={"db_table": "broadcast_pump"},
        ),
        migrations.RemoveIndex(model_name="broadcast", name="broadcast_open"),
        migrations.AddIndex(
            model_name="broadcast",
            index=models.Index(condition=models.Q(("finished_at", None)), fields=["state"], name="broadcast_open"),
        ),
        migrations.RemoveIndex(model_name="chunk", name="broadcast_chunk_open"),
        migrations.AddIndex(
            model_name="chunk",
            index=models.Index(
                condition=models.Q(("state__lt", 3)),
                fields=["channel", "broadcast_number", "-is_canary", "no"],
                name="broadcast_chunk_open",
            ),
        ),
    ]

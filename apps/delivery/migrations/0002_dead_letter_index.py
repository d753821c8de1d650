"""What is dead is rare and looked for by hand: a partial index, next to nothing in size."""

from django.db import migrations


class Migration(migrations.Migration):

    dependencies = [("delivery", "0001_initial")]

    operations = [
        migrations.RunSQL(
            "CREATE INDEX delivery_dead ON delivery (id) WHERE status = 11",
            "DROP INDEX delivery_dead",
        )
    ]

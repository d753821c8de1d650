"""Storage settings for the partitions that there are; new ones are made with them. Content is ciphertext: trying to
compress it costs time and gains nothing."""

from django.db import migrations

from apps.delivery.partitions import PARENTS, existing_partitions, storage_parameters


def set_storage(apps, schema_editor):
    for name, _ in existing_partitions():
        parent = next(parent for parent in PARENTS if name.startswith(f"{parent}_2"))
        schema_editor.execute(f"ALTER TABLE {name} SET ({storage_parameters(parent)})")


class Migration(migrations.Migration):

    dependencies = [
        ('delivery', '0005_versions_never_change'),
    ]

    operations = [
        migrations.RunPython(set_storage, migrations.RunPython.noop),
        migrations.RunSQL(
            "ALTER TABLE notification ALTER COLUMN content_ct SET STORAGE EXTERNAL",
            "ALTER TABLE notification ALTER COLUMN content_ct SET STORAGE EXTENDED",
        ),
    ]

from typing import Any

from django.apps import AppConfig
from django.core.checks import Tags, register
from django.db import connections
from django.db.models.signals import post_migrate

from apps.preferences.checks import (
    check_keys,
    check_recipient_settings,
    check_retention_settings,
    check_unsubscribe_links,
)


class PreferencesConfig(AppConfig):
    name = "apps.preferences"
    label = "preferences"

    def ready(self) -> None:
        from apps.preferences.catalogue import seed_categories  # noqa: PLC0415 - needs the models

        def seed(using: str, **kwargs: Any) -> None:
            connection = connections[using]
            with connection.cursor() as cursor:  # a migration back to before the table fires the signal too
                has_table = "preferences_category" in connection.introspection.table_names(cursor)
            if has_table:
                seed_categories(using=using)

        register(check_keys, Tags.security)
        register(check_recipient_settings)
        register(check_unsubscribe_links)
        register(check_retention_settings)
        post_migrate.connect(seed, sender=self, weak=False)

from django.apps import AppConfig
from django.core.checks import Tags, register

from apps.preferences.checks import check_keys


class PreferencesConfig(AppConfig):
    name = "apps.preferences"
    label = "preferences"

    def ready(self) -> None:
        register(check_keys, Tags.security)

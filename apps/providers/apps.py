from importlib import import_module

from django.apps import AppConfig


class ProvidersConfig(AppConfig):
    name = "apps.providers"
    label = "providers"

    def ready(self) -> None:
        import_module("apps.providers.checks")  # registers the system checks

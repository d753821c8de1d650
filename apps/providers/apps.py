from importlib import import_module

from django.apps import AppConfig

from apps import metrics


class ProvidersConfig(AppConfig):
    name = "apps.providers"
    label = "providers"

    def ready(self) -> None:
        import_module("apps.providers.checks")  # registers the system checks
        from apps.providers import selectors  # noqa: PLC0415 - needs the models

        metrics.register_gauge(
            "notify_breaker_state",
            "A provider's breaker: 0 closed, 1 half open, 2 open.",
            ["provider"],
            selectors.breaker_states,
        )
        metrics.register_gauge(
            "notify_breaker_failure_ratio",
            "Failed share of the calls a breaker counted in its window of 10 s.",
            ["provider"],
            selectors.failure_rates,
        )
        metrics.register_gauge(
            "notify_quota_used_ratio", "Used share of a provider's tightest quota.", ["provider"], selectors.quotas_used
        )

from django.apps import AppConfig

from apps import metrics, yielding


class DeliveryConfig(AppConfig):
    name = "apps.delivery"
    label = "delivery"
    verbose_name = "Delivery log"

    def ready(self) -> None:
        from apps.delivery import checks, privacy  # noqa: F401, PLC0415 - needs the models
        from apps.delivery.selectors import heartbeat_ages, queue_ages  # noqa: PLC0415

        privacy.register()

        metrics.register_gauge(
            "notify_queue_age_seconds",
            "How long the oldest due delivery has waited for a worker.",
            ["lane"],
            queue_ages,
        )
        metrics.register_gauge(
            "notify_sweep_age_seconds", "Time since the last completed sweep.", [], lambda: heartbeat_ages("sweep")
        )
        metrics.register_gauge(
            "notify_urgent_strain",
            "How much longer our own work for an urgent delivery takes than it does undisturbed; none without any.",
            [],
            yielding.strain_now,
        )

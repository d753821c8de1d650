import os
from importlib import import_module
from types import ModuleType

from django.apps import AppConfig
from django.core.exceptions import ImproperlyConfigured

CLAIM_CONDITIONS = ("status IN (1, 2)", "next_attempt_at <= now()")


class SabotageConfig(AppConfig):
    name = "tests.chaos.sabotage"

    def ready(self) -> None:
        {"sweep": stop_sweeping, "claim": claim_everything}[os.environ["CHAOS_SABOTAGE"]]()


def stop_sweeping() -> None:
    """The sweep finds nothing that is due."""
    sweep = _module_with("apps.delivery.sweep", "_stamp")
    sweep._stamp = lambda *_: []  # type: ignore[attr-defined]


def claim_everything() -> None:
    """Whoever hears of a delivery may send it, whatever its status, and whoever else is doing so."""
    outcomes = _module_with("apps.delivery.outcomes", "_CLAIM")
    statement: str = outcomes._CLAIM  # type: ignore[attr-defined]
    for condition in CLAIM_CONDITIONS:
        if condition not in statement:
            raise ImproperlyConfigured(f"the claim has no condition {condition!r} any more: mend the sabotage")
        statement = statement.replace(condition, "true")
    outcomes._CLAIM = statement  # type: ignore[attr-defined]


def _module_with(name: str, attribute: str) -> ModuleType:
    module = import_module(name)
    if not hasattr(module, attribute):
        raise ImproperlyConfigured(f"{name} has no {attribute} any more: mend the sabotage")
    return module

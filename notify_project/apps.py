"""Connects what every process of the platform needs, once Django is set up in it."""

from django.apps import AppConfig

from notify_project import worker_signals

__all__ = ["ProjectConfig", "worker_signals"]


class ProjectConfig(AppConfig):
    name = "notify_project"

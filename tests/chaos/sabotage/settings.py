"""The platform's settings and the saboteur."""

from notify_project.settings.base import *  # noqa: F403
from notify_project.settings.base import INSTALLED_APPS as _INSTALLED_APPS

INSTALLED_APPS = [*_INSTALLED_APPS, "tests.chaos.sabotage.apps.SabotageConfig"]

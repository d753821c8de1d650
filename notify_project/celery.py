"""The Celery application. Its settings are the ``CELERY_*`` names of ``notify_project.settings.base``."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "notify_project.settings.base")

app = Celery("notify")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

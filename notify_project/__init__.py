"""Settings, the Celery app, URLs, API error mapping and the local stack."""

from notify_project.celery import app as celery_app

__all__ = ["celery_app"]

"""Contestant: push notifications with Django, Celery and DRF as their tutorials have it. A row and a task per
recipient, ``requests``, the ORM; late acknowledgement and automatic retries. Nothing of the platform is used."""

from benchmarks.plain_celery.celery import app

__all__ = ["app"]

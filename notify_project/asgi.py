"""The entry point of the web processes: ``granian --interface=asginl --loop=uvloop`` runs ``application``."""

import os

from django.conf import settings
from django.core import signals
from django.core.cache import close_caches
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections, reset_queries

from apps.collecting import collect_rarely
from notify_project.front import Front, Limits

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "notify_project.settings.base")
application = Front(
    get_wsgi_application(),
    Limits(
        threads=settings.WEB_THREADS,
        body_bytes=settings.DATA_UPLOAD_MAX_MEMORY_SIZE,
        body_bytes_by_path=settings.BODY_LIMITS,
        buffer_bytes=settings.WEB_BUFFER_BYTES,
        body_timeout_s=settings.WEB_BODY_TIMEOUT_S,
        queue_timeout_s=settings.WEB_QUEUE_TIMEOUT_S,
    ),
)
# What a request borrowed goes back to the pool at its end; at the start of the next there is nothing to look after. The
# cache's connections stay open.
for receiver in (reset_queries, close_old_connections):
    signals.request_started.disconnect(receiver)
signals.request_finished.disconnect(close_caches)
collect_rarely()

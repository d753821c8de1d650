"""The WSGI entry point: ``granian --interface wsgi notify_project.wsgi:application``."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "notify_project.settings.base")
application = get_wsgi_application()

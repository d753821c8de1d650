"""Django as a WSGI application, for ``manage.py runserver``. What faces callers is ``notify_project.asgi``."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "notify_project.settings.base")
application = get_wsgi_application()

from django.urls import path

from benchmarks.plain_celery.views import CreateNotification

urlpatterns = [path("api/notifications/", CreateNotification.as_view())]

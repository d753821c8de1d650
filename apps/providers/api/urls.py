"""Routes below ``/v1/``."""

from django.urls import path

from apps.providers.api.views import ProvidersView

urlpatterns = [path("providers", ProvidersView.as_view(), name="providers")]

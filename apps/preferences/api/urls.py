"""Addresses under ``/v1/``."""

from django.urls import path

from apps.preferences.api import views
from apps.preferences.api.bulk import BulkView
from apps.preferences.api.exports import UserExportView
from apps.preferences.api.suppressions import (
    SuppressionLiftView,
    SuppressionSearchView,
    SuppressionsView,
    SuppressionView,
)

urlpatterns = [
    path("users:bulk", BulkView.as_view(), name="users-bulk"),
    path("suppressions", SuppressionsView.as_view(), name="suppressions"),
    path("suppressions:search", SuppressionSearchView.as_view(), name="suppressions-search"),
    path("suppressions:lift", SuppressionLiftView.as_view(), name="suppressions-lift"),
    path("suppressions/<int:suppression_id>", SuppressionView.as_view(), name="suppression"),
    path("categories", views.CategoriesView.as_view(), name="categories"),
    path("users/<str:user_id>", views.UserView.as_view(), name="user"),
    path("users/<str:user_id>/export", UserExportView.as_view(), name="user-export"),
    path("users/<str:user_id>/preferences", views.PreferencesView.as_view(), name="user-preferences"),
    path("users/<str:user_id>/devices", views.DevicesView.as_view(), name="user-devices"),
    path("users/<str:user_id>/devices/<int:device_id>", views.DeviceView.as_view(), name="user-device"),
]

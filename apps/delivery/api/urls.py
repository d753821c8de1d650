"""Routes below ``/v1/``."""

from django.urls import path

from apps.delivery.api.dead_letters import DeadLettersView, ReplayView
from apps.delivery.api.views import (
    CancelView,
    NotificationsView,
    NotificationView,
    WebhookView,
)

urlpatterns = [
    path("notifications", NotificationsView.as_view(), name="notifications"),
    path("notifications/<uuid:notification_id>", NotificationView.as_view(), name="notification"),
    path("notifications/<uuid:notification_id>/cancel", CancelView.as_view(), name="notification-cancel"),
    path("dead-letters", DeadLettersView.as_view(), name="dead-letters"),
    path("dead-letters/replay", ReplayView.as_view(), name="dead-letters-replay"),
    path("webhooks/<slug:provider>", WebhookView.as_view(), name="webhook"),
]

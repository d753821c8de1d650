"""Routes below ``/v1/``."""

from django.urls import path

from apps.delivery.api.audiences import AudienceLinesView, AudiencesView, AudienceView
from apps.delivery.api.batches import BatchView
from apps.delivery.api.broadcasts import (
    BroadcastDeliveriesView,
    BroadcastPreviewView,
    BroadcastsView,
    BroadcastView,
    CancelBroadcastView,
    PauseView,
    ResumeView,
    RetryFailedView,
)
from apps.delivery.api.dead_letters import DeadLettersView, ReplayView
from apps.delivery.api.templates import (
    ActiveView,
    PreviewView,
    TemplatesView,
    TemplateView,
    UnsavedPreviewView,
    VersionsView,
)
from apps.delivery.api.views import (
    CancelView,
    NotificationsView,
    NotificationView,
    WebhookView,
)

urlpatterns = [
    path("notifications", NotificationsView.as_view(), name="notifications"),
    path("notifications/batch", BatchView.as_view(), name="notifications-batch"),
    path("notifications/<uuid:notification_id>", NotificationView.as_view(), name="notification"),
    path("notifications/<uuid:notification_id>/cancel", CancelView.as_view(), name="notification-cancel"),
    path("audiences", AudiencesView.as_view(), name="audiences"),
    path("audiences/<uuid:audience_id>", AudienceView.as_view(), name="audience"),
    path("audiences/<uuid:audience_id>/lines", AudienceLinesView.as_view(), name="audience-lines"),
    path("broadcasts", BroadcastsView.as_view(), name="broadcasts"),
    path("broadcasts/preview", BroadcastPreviewView.as_view(), name="broadcast-preview"),
    path("broadcasts/<uuid:broadcast_id>", BroadcastView.as_view(), name="broadcast"),
    path("broadcasts/<uuid:broadcast_id>/pause", PauseView.as_view(), name="broadcast-pause"),
    path("broadcasts/<uuid:broadcast_id>/resume", ResumeView.as_view(), name="broadcast-resume"),
    path("broadcasts/<uuid:broadcast_id>/cancel", CancelBroadcastView.as_view(), name="broadcast-cancel"),
    path("broadcasts/<uuid:broadcast_id>/retry-failed", RetryFailedView.as_view(), name="broadcast-retry-failed"),
    path("broadcasts/<uuid:broadcast_id>/deliveries", BroadcastDeliveriesView.as_view(), name="broadcast-deliveries"),
    path("dead-letters", DeadLettersView.as_view(), name="dead-letters"),
    path("dead-letters/replay", ReplayView.as_view(), name="dead-letters-replay"),
    path("templates", TemplatesView.as_view(), name="templates"),
    path("templates:preview", UnsavedPreviewView.as_view(), name="templates-preview"),
    path("templates/<str:name>", TemplateView.as_view(), name="template"),
    path("templates/<str:name>/versions", VersionsView.as_view(), name="template-versions"),
    path("templates/<str:name>/active", ActiveView.as_view(), name="template-active"),
    path("templates/<str:name>/preview", PreviewView.as_view(), name="template-preview"),
    path("webhooks/<slug:provider>", WebhookView.as_view(), name="webhook"),
]

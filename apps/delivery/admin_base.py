"""What the admin pages of this app have in common."""

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from apps.delivery.statuses import Status

_COLORS = {
    Status.QUEUED: "#8a6d00",
    Status.SENDING: "#8a6d00",
    Status.SENT: "#1d6fa5",
    Status.DELIVERED: "#1e7d34",
    Status.SUPPRESSED: "#666",
    Status.EXPIRED: "#666",
    Status.CANCELLED: "#666",
}


def status_badge(number: int) -> SafeString:
    """The status as a word in its colour; failures are red."""
    status = Status(number)
    return format_html('<b style="color:{}">{}</b>', _COLORS.get(status, "#b3261e"), status.label)


if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Any]
else:
    _ModelAdmin = admin.ModelAdmin  # generic for the type checker alone


class ReadOnlyAdmin(_ModelAdmin):
    """The log is written by the engine alone."""

    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

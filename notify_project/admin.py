"""Who changed what when: the admin's log of changes over everything, to read only."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.http import HttpRequest
from django.utils.html import format_html


@admin.register(LogEntry)
class LogEntryAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Every change made in the admin, newest first; nobody edits or deletes it."""

    list_display = ("action_time", "user", "kind", "thing", "what")
    list_display_links = None
    list_filter = ("action_flag", ("content_type", admin.RelatedOnlyFieldListFilter))
    list_select_related = ("user", "content_type")
    list_per_page = 50
    show_full_result_count = False
    date_hierarchy = "action_time"
    ordering = ("-action_time", "-pk")
    search_fields = ("user__username", "object_repr", "change_message")
    search_help_text = "Who, what, or a word of the change"

    @admin.display(description="kind", ordering="content_type")
    def kind(self, entry: LogEntry) -> str:
        return entry.content_type.name if entry.content_type else "–"

    @admin.display(description="object", ordering="object_repr")
    def thing(self, entry: LogEntry) -> str:
        url = None if entry.is_deletion() else entry.get_admin_url()
        return format_html('<a href="{}">{}</a>', url, entry.object_repr) if url else entry.object_repr

    @admin.display(description="change")
    def what(self, entry: LogEntry) -> str:
        return entry.get_change_message()

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
